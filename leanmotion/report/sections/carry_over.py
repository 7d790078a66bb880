"""Does the choice carry over: the chosen student under conditions that it was not judged under, where it was measured.

Its table is no stage's: `make carry-over` writes it, and git keeps it. It says nothing of another teacher.
"""

from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from leanmotion.pipeline.numbers import data, listed, missing, percent, short, within
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.tables import read_frame, read_table, table_meta
from leanmotion.report.artefacts import Artefacts, Frame
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.svg import Axis, Chart, legend, steep

_HOW = Markup("<code>make carry-over</code> measures it, and then <code>dvc repro</code> shows it here.")


@dataclass(frozen=True)
class CarriedOver:
    """Rows, the condition as judged first, and the round that they are of; or why there are none to show."""

    rows: Frame | None
    round: str = ""
    why_not: Markup = field(default_factory=Markup)


def read_carried_over(path: Path, found: Artefacts) -> CarriedOver:
    """Read the table where it is there and is of this run's teacher.

    Raises:
        LeanmotionError: It is damaged.
    """
    if not path.is_file():
        return CarriedOver(None, why_not=Markup("Not measured. {}").format(_HOW))
    rows, meta = read_frame(path, "carry_over"), table_meta(read_table(path, "carry_over"))
    if rows.empty:
        return CarriedOver(None, why_not=Markup("Not measured. {}").format(_HOW))
    if meta.get("teacher_sha256") != found.teacher["sha256"]:
        return CarriedOver(None, why_not=Markup("{} is of another teacher than this run's. {}").format(str(path), _HOW))
    name = meta.get("round", "")
    if meta.get("student_weights") != _weights(found.folder / "students" / name / "adapter" / "config.json"):
        return CarriedOver(
            None, why_not=Markup("{} is of another {} than this run's. {}").format(str(path), name, _HOW)
        )
    return CarriedOver(rows, name)


def _weights(path: Path) -> str:
    """SHA-256 of a student's weights alone: its own record also tells apart what only its evidence does, to a bit."""
    return str(read_record(path, made_by="dvc repro")["sha256"]) if path.is_file() else ""


def finding(carried: CarriedOver, chosen: str) -> Markup:
    """Under how many conditions the lighter model is told from another seed of the whole one, and under which."""
    if carried.rows is None:
        return carried.why_not
    rows = carried.rows.to_dict("records")
    name = carried.round if carried.round == chosen else f"{carried.round} (not the round chosen now)"
    further = [
        f"{row['condition']} ({short(1 + row['excess'])} times the null)" for row in rows if row["excess_low"] > 0
    ]
    if not further:
        return Markup(
            "Under none of {} conditions do these clips tell {} from another seed of the whole model."
        ).format(len(rows), name)
    return Markup(
        "Under {} of {} conditions {} is further from the whole model than another seed of it: {}. Whether it is worse "
        "there than as judged is another question: compare their intervals."
    ).format(len(further), len(rows), name, listed(further))


def carry_over_figure(carried: CarriedOver) -> Figure | None:
    """FVD as a multiple of the null, condition by condition; None where nothing is to be shown."""
    if carried.rows is None:
        return None
    rows = carried.rows.to_dict("records")
    ratios = [[1 + row[f"excess{end}"] for end in ("", "_low", "_high")] for row in rows]
    known = [value for three in ratios for value in three]
    log = steep(value for value, _, _ in ratios)
    title = "FVD as a multiple of the null"
    # The part before a comma names a condition well enough for a chart; the table has it whole.
    names = [row["condition"].partition(",")[0] for row in rows]
    axis = Axis.over(title + (" (log)" if log else ""), [*known, 1.0], zero=True, log=log)
    chart = Chart(f"{title}, by condition", axis, rows=names, row_height=26, top=22, right=44)
    for i, (value, low, high) in enumerate(ratios):
        chart.span(low, high, i, "one")
        chart.mark(value, i, "one", "circle", f"{names[i]}: {short(value)} times the null")
        chart.beside(i, f"{value:.3g}×")
    chart.across(1.0, "null", "null: another seed")
    return Figure(
        "The lighter model against the whole one, under the same condition",
        [chart.svg()],
        legend(
            [("one", "circle", f"{carried.round}, with its interval"), ("null", "rule", "another seed of the whole")]
        ),
        note="Under each condition the whole model is the reference: asked is what deletion costs there, not whether "
        "the condition is a hard one.",
        table=_table(rows),
    )


def _table(rows: list[dict]) -> Table:
    cells: list[list[Cell]] = []
    for row in rows:
        read: list[Cell] = [
            "" if missing(row[f"{head}_accuracy"])
            else f"{percent(row[f'original_{head}_accuracy'])}, {percent(row[f'{head}_accuracy'])}"
            for head in ("motion", "colour", "shape")
        ]  # fmt: skip
        cells.append(
            [
                row["condition"], data(row["frames"]), data(row["steps"]), row["scheduler"], data(row["videos"]),
                data(row["null"]), within(row["excess"], row["excess_low"], row["excess_high"], percent),
                within(row["fvd"], row["fvd_low"], row["fvd_high"]), *read,
            ]
        )  # fmt: skip
    head = ["Condition", "Frames", "Steps", "Sampler", "Clips", "Null", "Excess", "FVD, same seeds"]
    return Table(
        "Every condition; what is read off the clips: of the whole model, of the lighter one",
        [*head, "Motion read", "Colour read", "Shape read"],
        cells,
    )
