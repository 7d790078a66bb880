"""The ranking with its intervals, beside what each block costs: latency, MACs, parameters."""

from itertools import pairwise

from markupsafe import Markup

from leanmotion.pipeline.numbers import amount, data, listed, milli, missing, percent, short, within
from leanmotion.ranking.rounding import rounded_table
from leanmotion.report.artefacts import Artefacts, Frame
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.sections.savings import two_timings
from leanmotion.report.svg import Axis, Chart, legend, steep


def finding(found: Artefacts) -> Markup:
    """How many single removals change the videos less than another seed does."""
    rows, null = found.ranking, found.figure("null_fvd")
    by_harm = rows.sort_values("fvd", kind="stable")
    least, most = by_harm.iloc[0], by_harm.iloc[-1]
    ends = Markup("{} is the least harmful to lose (FVD {}), {} the most (FVD {})").format(
        least["block"], data(float(least["fvd"])), most["block"], data(float(most["fvd"]))
    )
    if null is None:
        return ends + Markup(".")
    return Markup("{} of {} blocks can each be removed with less change than another seed makes (FVD {}); {}.").format(
        int((rows["fvd"] < null).sum()), len(rows), data(null), ends
    )


def ranking_figure(found: Artefacts) -> Figure:
    """Three charts that share their rows: importance, time saved, and what a block holds."""
    costly = costliest(found)
    return Figure(
        "Blocks in the order of the ranking, the least important first",
        [_fvd(found), _time(found, costly), _cost(found)],
        legend(
            [
                ("dim", "square", f"deleted in {found.chosen}"),
                ("one", "circle", "kept; lines are intervals"),
                ("two", "bar", f"time saved: the {len(costly)} that cost most"),
                ("two pale", "bar", "and the others"),
                ("three", "bar", "MACs"),
                ("dim", "bar", "parameters"),
            ]
        ),
        note=two_timings(found),
        csv="ranking.csv",
    )


def _fvd(found: Artefacts) -> Markup:
    """Importance with its interval, on a logarithmic axis where values span decades; the null is a line across."""
    rows, null = found.ranking, found.figure("null_fvd")
    gone = set(found.removed[found.chosen])
    log = steep([*rows["fvd"], null])
    known = [*rows["fvd_low"], *rows["fvd_high"], *rows["fvd"], null]
    axis = "FVD to the original, same seeds" + (" (log)" if log else "")
    chart = _rows(found, "FVD when a block is removed, by block", Axis.over(axis, known, zero=True, log=log), right=58)
    for i, row in enumerate(rows.to_dict("records")):
        style = "dim" if row["block"] in gone else "one"
        chart.span(row["fvd_low"], row["fvd_high"], i, style)
        tip = f"{row['block']}: {short(row['fvd'])} [{short(row['fvd_low'])}, {short(row['fvd_high'])}]"
        chart.mark(row["fvd"], i, style, "square" if row["block"] in gone else "circle", tip)
        chart.beside(i, short(row["fvd"]))
    if null is not None:
        chart.across(null, "null", f"null: FVD {short(null)}, by another seed")
    return chart.svg()


def _time(found: Artefacts, costly: list[str]) -> Markup:
    saved = found.profile.loc[found.ranking["block"].tolist()]
    ends = [0, *(saved["saving_low"] * 1e3), *(saved["saving_high"] * 1e3)]
    chart = _rows(found, "Time that removing a block saves", Axis.over("ms saved of a UNet call", ends, zero=True))
    for i, row in enumerate(saved.to_dict("records")):
        chart.bar(row["saving"] * 1e3, i, "two" if row["variant"] in costly else "two pale")
        chart.span(row["saving_low"] * 1e3, row["saving_high"] * 1e3, i, "ink")
    return chart.svg()


def _cost(found: Artefacts) -> Markup:
    shares = {name: found.ranking[name] / found.ranking[name].sum() for name in ("macs", "parameters")}
    values = [v for share in shares.values() for v in share]
    axis = Axis.over("share of all motion blocks", values, zero=True, write=lambda value: f"{value:.0%}")
    chart = _rows(found, "MACs and parameters of each block, as shares of all motion blocks", axis)
    for i in range(len(found.ranking)):
        chart.bar(float(shares["macs"].iloc[i]), i - 0.2, "three", 0.36)
        chart.bar(float(shares["parameters"].iloc[i]), i + 0.2, "dim", 0.36)
    return chart.svg()


def _rows(found: Artefacts, title: str, x: Axis, right: int = 12) -> Chart:
    """A chart whose rows are the blocks in order, every other one on a pale ground."""
    return Chart(title, x, rows=found.ranking["block"].tolist(), top=22, right=right, striped=True)


def ranking_table(found: Artefacts) -> Table:
    """One row a block with everything known of it."""
    rows = []
    for row in found.ranking.to_dict("records"):
        saved = found.profile.loc[row["block"]]
        rank = "" if missing(row["rank_low"]) else f"{int(row['rank_low']) + 1} to {int(row['rank_high']) + 1}"
        rows.append(
            [
                str(row["block"]),
                within(row["fvd"], row["fvd_low"], row["fvd_high"]),
                rank,
                "tied" if row["tied"] else "",
                within(float(saved["saving"]), float(saved["saving_low"]), float(saved["saving_high"]), milli),
                data(float(saved["saving_fraction"]), percent(saved["saving_fraction"])),
                data(row["macs"], amount(row["macs"])),
                data(row["parameters"], amount(row["parameters"])),
                data(row["kvd"]),
                data(row["paired"]),
                data(row["motion"]),
                data(row["similarity"]),
                data(row["influence"]),
            ]
        )
    head = [
        "Block", "FVD", "Rank, interval", "Tie", "Time saved, ms", "of the call", "MACs", "Parameters", "KVD", "Paired",
        "Motion", "Cosine", "Influence",
    ]  # fmt: skip
    return Table(f"The {len(rows)} motion blocks, least important first", head, rows)


def reading(found: Artefacts) -> list[Cell]:
    """Computed sentences: ties, the costly blocks, how settled the order is."""
    out: list[Cell] = [_ties(found), _costly(found), _agreement(found)]
    tau, settle = found.figure("split_half_tau"), found.figure("videos_to_settle")
    if tau is not None:
        words = f"Two halves of the videos rank the blocks alike with a Kendall tau of {short(tau)} (1: the same order)"
        enough = "" if settle is None else f"; from about {short(settle)} videos a block on, two halves agree to 0.8"
        out.append(f"{words}{enough}.")
    if found.meta.get("criterion", "fvd") == "fvd_per_latency":
        out.append("This order uses measured time: another run of it can differ.")
    return [words for words in out if words]


def tied_groups(found: Artefacts) -> list[list[str]]:
    """Runs of neighbours in the order of which none is told from the next at the ranking's level."""
    chance = {(p.block, p.other): p.probability for p in found.pairs.itertuples()}
    level = 0.5 + float(found.meta.get("interval", found.settings.ranking.interval)) / 2
    names = found.ranking["block"].tolist()
    runs = [names[:1]]
    for one, other in pairwise(names):
        if chance.get((one, other), 1.0) < level:
            runs[-1].append(other)
        else:
            runs.append([other])
    return [run for run in runs if len(run) > 1]


def _ties(found: Artefacts) -> str:
    groups = tied_groups(found)
    if not groups:
        return "No two neighbours in this order are tied."
    fvd = found.ranking.set_index("block")["fvd"].astype(float)
    said = "; ".join(
        f"{', '.join(group)} (FVD {short(fvd[group].min())} to {short(fvd[group].max())})" for group in groups
    )
    return (
        f"Ties: these videos do not tell a block from the next in its chain; ends of a chain may well differ. {said}."
    )


def _costly(found: Artefacts) -> str:
    saved, costly = found.profile.loc[found.blocks], costliest(found)
    count = len(costly)
    least = set(found.ranking["block"].head(count))
    both = [block for block in costly if block in least]
    share = float(saved.loc[costly, "saving"].sum()) / max(float(saved["saving"].sum()), 1e-12)
    words = f"The {count} blocks that cost most time, {share:.0%} of the time of all blocks: {listed(costly)}."
    if not both:
        return f"{words} None of them is among the {count} least important."
    return f"{words} Of them, {len(both)} of {count} are among the {count} least important: {listed(both)}."


def costliest(found: Artefacts) -> list[str]:
    """The third of the blocks whose removal saves most time, most first."""
    saved = found.profile.loc[found.blocks].sort_values("saving", ascending=False, kind="stable")
    return saved["variant"].head(max(1, round(len(found.blocks) / 3))).tolist()


def _agreement(found: Artefacts) -> str:
    rows = found.correlations[
        (found.correlations["first"] == "fvd") & found.correlations["second"].isin(["paired", "motion", "similarity"])
    ]
    said = [
        f"{r.second} {short(r.kendall)} [{short(r.kendall_low)}, {short(r.kendall_high)}]" for r in rows.itertuples()
    ]
    return f"Kendall tau of the order by FVD with that by other measures: {listed(said)}." if said else ""


def ranking_csv(found: Artefacts) -> Frame:
    """Plain columns for `dvc plots`. No measured time: this file is in git, and reruns give it the same bytes."""
    columns = [
        "block", "position", "fvd", "fvd_low", "fvd_high", "kvd", "paired", "motion", "tied", "macs", "parameters",
        "similarity", "influence",
    ]  # fmt: skip
    # A count of MACs is a float in the artefact.
    return rounded_table(found.ranking[columns].astype({"macs": "int64"}), found.nulls)
