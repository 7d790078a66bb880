"""The ranking with its intervals, beside what each block costs: latency, MACs, parameters."""

from itertools import pairwise

from leanmotion.pipeline.numbers import amount, data, listed, milli, missing, percent, short, within
from leanmotion.ranking.rounding import rounded_table
from leanmotion.report.artefacts import Artefacts, Frame
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.svg import Axis, Chart, legend, steep


def ranking_figure(found: Artefacts) -> Figure:
    """Three charts that share their rows: importance, time saved, and what a block holds."""
    rows, names = found.ranking, found.ranking["block"].tolist()
    null = found.figure("null_fvd")
    gone = set(found.removed[found.chosen])
    ends = [*rows["fvd_low"], *rows["fvd_high"], *rows["fvd"]]
    log = steep(ends)
    axis = "FVD to the original, same seeds" + (" (log)" if log else "")
    fvd = Chart(
        "FVD when a block is removed, by block",
        Axis.over(axis, [*ends, null] if log else ends, zero=True, log=log),
        rows=names,
    )
    for i, row in enumerate(rows.to_dict("records")):
        style = "dim" if row["block"] in gone else "one"
        fvd.span(row["fvd_low"], row["fvd_high"], i, style)
        tip = f"{row['block']}: {short(row['fvd'])} [{short(row['fvd_low'])}, {short(row['fvd_high'])}]"
        fvd.mark(row["fvd"], i, style, "square" if row["block"] in gone else "circle", tip)
    if null is not None and null <= fvd.x.high:
        fvd.across(null, "null", f"null: the original under other seeds, {short(null)}")
    saved = found.profile.loc[names]
    time = Chart(
        "Measured time that removing a block saves, by block",
        Axis.over(
            "ms saved of a UNet call", [0, *(saved["saving_low"] * 1e3), *(saved["saving_high"] * 1e3)], zero=True
        ),
        rows=names,
    )
    costly = _costliest(found)
    for i, row in enumerate(saved.to_dict("records")):
        time.bar(row["saving"] * 1e3, i, "two" if row["variant"] in costly else "two pale")
        time.span(row["saving_low"] * 1e3, row["saving_high"] * 1e3, i, "ink")
    shares = {name: rows[name] / rows[name].sum() for name in ("macs", "parameters")}
    cost = Chart(
        "MACs and parameters of each block, as shares of all motion blocks",
        Axis.over("share of all motion blocks", [v for s in shares.values() for v in s], zero=True, write=percent),
        rows=names,
    )
    for i in range(len(names)):
        cost.bar(float(shares["macs"].iloc[i]), i - 0.2, "three", 0.36)
        cost.bar(float(shares["parameters"].iloc[i]), i + 0.2, "dim", 0.36)
    return Figure(
        "Least important first",
        [fvd.svg(), time.svg(), cost.svg()],
        legend(
            [
                ("dim", "square", f"deleted in {found.chosen}"),
                ("one", "circle", "kept"),
                ("null", "rule", f"null, another seed of the original: {short(null)}"),
                ("two", "bar", f"time saved, with its quartiles: the {len(costly)} that cost most"),
                ("two pale", "bar", "and the others"),
                ("three", "bar", "MACs"),
                ("dim", "bar", "parameters"),
            ]
        ),
        note=_null_note(null, fvd.x.high),
        csv="ranking.csv",
    )


def _null_note(null: float | None, high: float) -> str:
    if null is None or null <= high:
        return ""
    return f"The null lies outside the chart, at {short(null)}: no single removal changes as much as another seed does."


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
    out: list[Cell] = [_ties(found), _costly(found), _added(found), _agreement(found)]
    tau, settle = found.figure("split_half_tau"), found.figure("videos_to_settle")
    if tau is not None:
        words = f"Two halves of the videos rank the blocks alike with a Kendall tau of {short(tau)}"
        out.append(words + (f"; about {short(settle)} videos would settle the order." if settle is not None else "."))
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
    said = "; ".join(listed(group) for group in groups)
    return f"Neighbours that these videos cannot tell apart, run by run: {said}."


def _costly(found: Artefacts) -> str:
    saved, costly = found.profile.loc[found.blocks], _costliest(found)
    count = len(costly)
    least = set(found.ranking["block"].head(count))
    both = [block for block in costly if block in least]
    share = float(saved.loc[costly, "saving"].sum()) / max(float(saved["saving"].sum()), 1e-12)
    words = f"The {count} blocks that cost most time, {share:.0%} of the time of all blocks: {listed(costly)}."
    if not both:
        return f"{words} None of them is among the {count} least important."
    return f"{words} Of them, {len(both)} of {count} are among the {count} least important: {listed(both)}."


def _added(found: Artefacts) -> str:
    """How far the blocks' own times, added up, are from what whole calls without any of them save."""
    added, whole = (float(found.profile.loc[names, "saving"].sum()) for names in (found.blocks, ["none"]))
    watched = found.profile.loc["watched"]
    apart = f", {percent(abs(added / whole - 1))} apart" if whole > 0 else ""
    cost, low, high = (milli(-watched[name]) for name in ("saving", "saving_high", "saving_low"))
    return (
        f"Each block is timed where it runs, in {int(watched['rounds'])} calls of the whole UNet: together they take "
        f"{milli(added)} ms, and a call without any of them is {milli(whole)} ms shorter{apart}. The clocks cost a "
        f"call {cost} ms [{low}, {high}]."
    )


def _costliest(found: Artefacts) -> list[str]:
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
