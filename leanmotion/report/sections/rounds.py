"""Quality against what is deleted, round by round: before and after repair, with the null and the stop rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from leanmotion.pipeline.numbers import amount, data, listed, milli, percent, short, within
from leanmotion.ranking.rounding import evaluation_nulls, rounded_row
from leanmotion.report.artefacts import BASE, Artefacts, Frame
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.svg import Axis, Chart, legend

_ARMS = ("distilled", "pruned")
_CSV = {
    "fvd": "fvd_cross", "excess": "excess", "fvd_same_seeds": "fvd", "motion_accuracy": "motion_accuracy",
    "sharpness": "sharpness", "movement": "movement",
}  # fmt: skip


def finding(found: Artefacts) -> Markup:
    """What the stop rule chose, and how that does on the split that it never saw."""
    if found.chosen == BASE:
        return Markup("The stop rule chose no round: {}").format(found.selection["reason"])
    rows = found.evaluation
    mine = rows[(rows["split"] == "report") & (rows["round"] == found.chosen) & (rows["arm"] == "distilled")]
    row = mine.to_dict("records")[0]
    excess = within(row["excess"], row["excess_low"], row["excess_high"], percent)
    words = (
        "The stop rule chose {}; on clips that nothing was chosen by (report split) its excess is {}. The answer at "
        "the top is of more clips."
    )
    return Markup(words).format(found.chosen, excess)


def rows_of(found: Artefacts, split: str) -> Frame:
    """A split's rows with the measured time of a call, fewest deletions first; the original in front."""
    rows = found.evaluation[found.evaluation["split"] == split].copy()
    rows["seconds"] = [float(found.latency.loc["full" if name == BASE else name, "seconds"]) for name in rows["round"]]
    return rows.sort_values(["removed", "arm"], kind="stable", ignore_index=True)


def rounds_figures(found: Artefacts) -> list[Figure]:
    """The select split, where the stop rule judged; and the report split, which it never saw."""
    select, report = rows_of(found, "select"), rows_of(found, "report")
    rule = found.settings.selection
    limit = _limit(found, select)
    first = [_chart(found, select, "removed", "blocks deleted", limit)]
    if select["motion_accuracy"].notna().any():
        floor = rule.allowance if rule.rule == "accuracy" else None
        first.append(_accuracy(found, select, floor))
    entries = [*_legend(found), ("null", "rule", "null: another seed of the original")]
    judged = [*entries, ("limit", "rule", _rule_words(found))]
    shown = _limit(found, report)
    if shown is not None:
        entries = [*entries, ("limit", "rule", f"{_rule_words(found)}, which was applied to the select split")]
    panels = [
        ("removed", "blocks deleted"),
        ("parameters", "parameters of the UNet"),
        ("macs", "MACs of a UNet call"),
        ("seconds", "ms of a UNet call, measured"),
    ]
    return [
        Figure(
            "Where the stop rule judged (select split)", first, legend(judged),
            note=str(found.selection["reason"]), table=_table(found, select, "Every round on the select split"),
            csv="rounds.csv",
        ),
        Figure(
            "Final figures (report split)", [_chart(found, report, *panel, shown) for panel in panels], legend(entries),
            note=_again(found), table=_table(found, report, "Every round on the report split"), csv="rounds.csv",
        ),
    ]  # fmt: skip


def _limit(found: Artefacts, select: Frame) -> float | None:
    rule = found.settings.selection
    if rule.rule == "excess":
        return float(select["null"].iloc[0]) * (1 + rule.allowance)
    return rule.allowance if rule.rule == "fvd" else None


def _rule_words(found: Artefacts) -> str:
    rule = found.settings.selection
    return {
        "excess": f"stop rule: {rule.allowance:.0%} over the null",
        "fvd": f"stop rule: FVD of at most {short(rule.allowance)}",
        "accuracy": f"stop rule: accuracy of at least {rule.allowance:.0%}",
        "knee": "stop rule: the knee of FVD against MACs (no line)",
    }[rule.rule]


def _chart(found: Artefacts, rows: Frame, column: str, title: str, limit: float | None) -> Markup:
    time = column == "seconds"
    rows = rows.assign(at=rows[column].astype(float) * (1e3 if time else 1))
    null = float(rows["null"].iloc[0])
    values = [*rows["fvd_cross"], *rows["fvd_cross_low"], *rows["fvd_cross_high"], null, limit]
    known = [v for v in values if v is not None and v == v]
    log = min(known) > 0 and max(known) / min(known) > 30
    chart = Chart(
        f"FVD against {title}",
        Axis.over(
            title, rows["at"], zero=column == "removed", write=amount if column in ("macs", "parameters") else short
        ),
        Axis.over("FVD to the original, other seeds" + (" (log)" if log else ""), values, zero=True, log=log),
    )
    # Where the original is, rounds lie on the null's line, and labels have room above and below.
    side = column == "removed"
    chart.across(null, "null", f"null: FVD {short(null)}", limit is not None and limit >= null, side)
    if limit is not None:
        chart.across(limit, "limit", f"stop rule: FVD {short(limit)}", limit < null, side)
    _draw(found, chart, rows, "fvd_cross", short)
    return chart.svg()


def _draw(found: Artefacts, chart: Chart, rows: Frame, figure: str, write: Callable[[Any], str]) -> None:
    """The students' line, and beside it, dashed, how the repaired ones were before; a round that was not stands once.

    `rows`: with the place along x in `at`.
    """
    students = _of(rows, "distilled")
    _line(chart, students, figure, "one")
    for run in _before_repair(found, students, _of(rows, "pruned")):
        _line(chart, run, figure, "two")
        for row in run.to_dict("records"):
            if row["arm"] == "pruned" and row["round"] in found.repaired:
                chart.mark(row["at"], row[figure], "two", "square", f"{_said(found, row)}: {write(row[figure])}")
    for row in students.to_dict("records"):
        style = "one" if row["round"] in found.repaired else "one open"
        chart.mark(row["at"], row[figure], style, "circle", f"{_said(found, row)}: {write(row[figure])}")


def _line(chart: Chart, rows: Frame, figure: str, style: str) -> None:
    columns = ["at", f"{figure}_low", f"{figure}_high"]
    chart.band(list(rows[columns].itertuples(index=False, name=None)), style)
    chart.line(list(rows[["at", figure]].itertuples(index=False, name=None)), style)


def _of(rows: Frame, arm: str) -> Frame:
    """The original and one arm, fewest deletions first."""
    return rows[rows["arm"].isin(["original", arm])].sort_values("removed", kind="stable", ignore_index=True)


def _before_repair(found: Artefacts, students: Frame, pruned: Frame) -> list[Frame]:
    """Runs of repaired rounds as they were before, each with the rounds beside it, where the lines part and meet."""
    apart = students["round"].isin(found.repaired).to_numpy()
    # A neighbour that was not repaired is the same in both arms.
    drawn = apart.copy()
    drawn[:-1] |= apart[1:]
    drawn[1:] |= apart[:-1]
    runs = np.split(np.arange(len(drawn)), np.flatnonzero(np.diff(drawn)) + 1)
    return [pruned.iloc[run] for run in runs if len(run) and drawn[run[0]]]


def _said(found: Artefacts, row: dict[str, Any]) -> str:
    """A row's name: what was done to the round's blocks."""
    if row["arm"] == "original":
        return f"{row['round']}, original"
    return f"{row['round']}, {row['arm'] if row['round'] in found.repaired else 'not repaired'}"


def _legend(found: Artefacts) -> list[tuple[str, str, str]]:
    repaired = [
        ("one", "circle", "repaired (distilled)"),
        ("two", "square", "the same before repair (pruned)"),
    ]
    return [
        ("one open", "circle", "the original, and rounds not repaired"),
        *(repaired if found.repaired else []),
        ("band one", "band", "interval"),
    ]


def _again(found: Artefacts) -> str:
    """That a round without any motion block stands twice among measured times."""
    if not found.bare:
        return ""
    return (
        f"{listed(found.bare)} and the ceiling of the top are one model, timed apart: where their times differ, that "
        "is noise of timing."
    )


def _accuracy(found: Artefacts, rows: Frame, floor: float | None) -> Markup:
    chart = Chart(
        "Captions' motion read off the videos against blocks deleted",
        Axis.over("blocks deleted", rows["removed"].astype(float), zero=True),
        Axis("caption accuracy, motion", 0.0, 1.0, write=lambda value: f"{value:.0%}"),
    )
    if floor is not None:
        chart.across(floor, "limit", f"stop rule: accuracy {floor:.0%}")
    _draw(found, chart, rows.assign(at=rows["removed"].astype(float)), "motion_accuracy", percent)
    return chart.svg()


def _table(found: Artefacts, rows: Frame, caption: str) -> Table:
    """One row a round, two where it was repaired: a round that was not is the same after as before."""
    rows = rows[(rows["arm"] != "distilled") | rows["round"].isin(found.repaired)]
    heads, clip = (rows[name].notna().any() for name in ("motion_accuracy", "alignment"))
    out: list[list[Cell]] = []
    for row in rows.to_dict("records"):
        cells: list[Cell] = [
            _said(found, row),
            data(row["removed"]),
            within(row["fvd_cross"], row["fvd_cross_low"], row["fvd_cross_high"]),
            data(row["null"]),
            within(row["excess"], row["excess_low"], row["excess_high"], percent),
            within(row["fvd"], row["fvd_low"], row["fvd_high"]),
            data(row["kvd"]),
            within(row["paired"], row["paired_low"], row["paired_high"]),
            within(row["motion"], row["motion_low"], row["motion_high"]),
            *(within(row[n], row[f"{n}_low"], row[f"{n}_high"], percent) for n in ("sharpness", "movement")),
        ]
        if heads:
            ends = (row["motion_accuracy_low"], row["motion_accuracy_high"])
            cells.append(within(row["motion_accuracy"], *ends, percent))
            cells += [data(row[k], percent(row[k])) for k in ("colour_accuracy", "shape_accuracy")]
        for name in ("alignment", "consistency") if clip else ():
            cells.append(within(row[name], row[f"{name}_low"], row[f"{name}_high"]))
        cells += [
            data(row["macs"], amount(row["macs"])),
            data(row["parameters"], amount(row["parameters"])),
            data(row["seconds"], milli(row["seconds"])),
        ]
        out.append(cells)
    head = [
        "Round", "Blocks deleted", "FVD, other seeds", "Null", "Excess", "FVD, same seeds", "KVD", "Paired", "Motion",
        "Sharpness", "Movement", *(["Motion read", "Colour read", "Shape read"] if heads else []),
        *(["Text alignment (CLIP)", "Frame consistency (CLIP)"] if clip else []), "MACs", "Parameters", "Time, ms",
    ]  # fmt: skip
    return Table(caption, head, out)


def rounds_csv(found: Artefacts) -> Frame:
    """One row a round, arms side by side, so that `dvc plots` draws each column as a line. No measured time.

    `trained`: whether the round's clips are others than before its training, by all digits: rounding may hide it.
    """
    names = {f"{figure}{end}": f"{column}{end}" for figure, column in _CSV.items() for end in ("", "_low", "_high")}
    out = []
    for name in [BASE, *found.rounds]:
        line: dict[str, object] = {"round": name}
        for split in ("report", "select"):
            rows = found.evaluation[(found.evaluation["split"] == split) & (found.evaluation["round"] == name)]
            for row in rows.to_dict("records"):
                line |= {"removed": row["removed"], "macs": row["macs"], "parameters": row["parameters"]}
                line["trained"] = name in found.repaired
                tag = "" if split == "report" else "select_"
                figures = rounded_row(row, ["null", *names.values()], evaluation_nulls(row))
                line[f"{tag}null"] = figures["null"]
                for arm in _ARMS if row["arm"] == "original" else (row["arm"],):
                    line |= {f"{tag}{arm}_{figure}": figures.get(column) for figure, column in names.items()}
        out.append(line)
    table = pd.DataFrame(out)
    first = ["round", "removed", "macs", "parameters", "trained"]
    return table[first + [c for c in table.columns if c not in first]]
