"""The answer in one sentence, and what its numbers are of. Nothing here is written by hand: every claim is computed."""

from typing import Any

from markupsafe import Markup

from leanmotion.pipeline.numbers import amount, data, listed, milli, missing, percent, short, within
from leanmotion.report.artefacts import BASE, Artefacts
from leanmotion.report.elements import Cell, Table


def motion_speed(found: Artefacts, name: str) -> float | None:
    """How many times faster the motion modules are: all of their time over what is left of it in a round.

    Their time is what removing all of them saves. None where nothing measurable is left, or there was nothing.
    """
    whole = float(found.latency.loc["none", "saving"])
    left = whole - float(found.latency.loc[name, "saving"])
    return whole / left if whole > 0 and left > 0.01 * whole else None


def sentence(found: Artefacts) -> Markup:
    """The answer: how many blocks go, what is gained, what it costs by clips that nothing else has used."""
    total = len(found.blocks)
    if found.chosen == BASE:
        return Markup("No block of {} is deleted: {}").format(total, found.selection["reason"])
    together, *sets = found.confirmed.to_dict("records")
    return Markup(
        "{} of {} blocks deleted: {}. The excess of FVD over another seed of the original is {}: {} where that is at "
        "{}, in {} sets of {} clips under seeds that nothing else used."
    ).format(
        data(len(found.removed[found.chosen])),
        total,
        _speed(found),
        within(together["excess"], together["excess_low"], together["excess_high"], percent),
        data(together["fvd_cross"]),
        data(together["null"]),
        len(sets),
        data(sets[0]["videos"]),
    )


def confirmed(found: Artefacts) -> list[Table]:
    """The chosen round in all sets that confirm it together, and in each; likewise under the other motion norm.

    None where no round was chosen.
    """
    tables = []
    for rows, norm in ((found.confirmed, ""), (found.confirmed_under_other_norm, f", {_other_norm(found)}")):
        if len(rows):
            tables.append(_sets(rows, f"{found.chosen} under seeds that nothing else used{norm}"))
    return tables


def _sets(confirming: Any, title: str) -> Table:
    rows: list[list[Cell]] = []
    for row in confirming.to_dict("records"):
        cells: list[Cell] = [row["set"], data(row["videos"]), data(row["captions"]), data(row["null"])]
        cells += [
            within(row[name], row[f"{name}_low"], row[f"{name}_high"], write)
            for name, write in (
                ("fvd_cross", short), ("excess", percent), ("fvd", short), ("motion_accuracy", percent),
                ("original_motion_accuracy", percent),
            )
        ]  # fmt: skip
        rows.append(cells if confirming["motion_accuracy"].notna().any() else cells[:-2])
    head = ["Set", "Clips", "Captions", "Null", "FVD, other seeds", "Excess", "FVD, same seeds"]
    head += ["Motion read", "Of the original"]
    return Table(title, head[: len(rows[0])], rows)


def under_other_norm(found: Artefacts) -> Markup | None:
    """What the chosen round costs where motion modules normalise the other way; None where it was not asked."""
    rows = found.confirmed_under_other_norm.to_dict("records")
    if not rows:
        return None
    together, *sets = rows
    return Markup("With motion modules that {}, its excess is {}, in {} sets of {} clips.").format(
        _other_norm(found),
        within(together["excess"], together["excess_low"], together["excess_high"], percent),
        len(sets),
        data(sets[0]["videos"]),
    )


def _other_norm(found: Artefacts) -> str:
    if found.settings.teacher.motion_norm == "clip":
        return "normalise each frame by itself, as in AnimateDiff's own code and ComfyUI"
    return "normalise over all frames, as in stock diffusers"


def _speed(found: Artefacts) -> Markup:
    call = found.latency.loc[found.chosen]
    share = Markup("the whole UNet call takes {} less time").format(
        data(float(call["saving_fraction"]), percent(call["saving_fraction"]))
    )
    times = motion_speed(found, found.chosen)
    if times is None:
        return Markup("no measurable motion time left, {}").format(share)
    return Markup("motion {}x {}, {}").format(
        data(times, short(times, 2)), "faster" if times >= 1 else "as fast", share
    )


def labels(found: Artefacts) -> str:
    """Extractor, number of videos and frames: what a distance is of."""
    clock = "processor time of one core, " if found.latency.loc["full", "clock"] == "processor" else ""
    meta, videos = found.meta, found.selection.get("original_videos", "?")
    frames, interval = meta.get("frames", found.settings.sampling.frames), found.settings.evaluation.interval
    official = "the official I3D" if found.official else "not the FVD of papers, which takes the official I3D"
    return (
        f"FVD by {meta.get('extractor', found.settings.extractor.name)} features ({official}); "
        f"in the table N = {videos} videos of {frames} frames, report split, which nothing chose anything by; "
        f"[low, high] is the {interval:.0%} interval, above the table for fresh seeds of the same captions. Time is "
        f"measured ({clock}on the machine that ran this), and holds there."
    )


def facts(found: Artefacts) -> Table:
    """Original, pruned only and distilled of the chosen round side by side."""
    figures, name = found.selection, found.chosen
    arms = [("original", "full", "Original")]
    if name != BASE:
        arms += [("pruned", name, "Pruned only"), ("distilled", name, "Pruned and distilled")]

    def row(words: str, key: str, write: Any = short, interval: bool = False) -> list[Cell] | None:
        cells: list[Cell] = [words]
        for arm, _, _ in arms:
            value, low, high = (figures.get(f"{arm}_{key}{end}") for end in ("", "_low", "_high"))
            cells.append(within(value, low, high, write) if interval else data(value, write(value)))
        return None if all(missing(figures.get(f"{arm}_{key}")) for arm, _, _ in arms) else cells

    times: list[Cell] = ["UNet call, measured"]
    times += [data(float(s), f"{milli(s)} ms") for s in (found.latency.loc[v, "seconds"] for _, v, _ in arms)]
    rows = [
        row("Blocks deleted", "removed"),
        row("FVD to the original under other seeds", "fvd_cross", interval=True),
        row("Excess over the null", "excess", percent, interval=True),
        row("FVD to the original, same seeds", "fvd", interval=True),
        row("Captions' motion read off the videos", "motion_accuracy", percent, interval=True),
        times,
        row("MACs of a UNet call", "macs", amount),
        row("Parameters of the UNet", "parameters", amount),
    ]
    head = ["", *(words for _, _, words in arms)]
    return Table("The selected round on the report split", head, [cells for cells in rows if cells is not None])


def reading(found: Artefacts) -> list[str]:
    """Sentences below the answer: under the other norm, which blocks, the reason in the rule's words, the ceiling."""
    out: list[str] = [said] if (said := under_other_norm(found)) else []
    out += [str(found.selection["reason"])] if found.chosen != BASE else []
    if found.chosen != BASE:
        out.append(f"Deleted in {found.chosen}: {listed(found.removed[found.chosen])}.")
    ceiling = float(found.latency.loc["none", "saving_fraction"])
    out.append(
        f"The ceiling: without any motion module a UNet call takes {percent(ceiling)} less time; no deletion of motion "
        "blocks can save more."
    )
    if found.chosen != BASE:
        call = found.latency.loc[found.chosen]
        out.append(
            f"Saved of a call: {milli(call['saving'])} ms measured, {milli(call['predicted'])} ms predicted by "
            f"the times of single blocks, {milli(found.latency.loc['none', 'saving'])} ms at the ceiling."
        )
    return out
