"""The answer in one sentence, and what its numbers are of. Nothing here is written by hand: every claim is computed."""

from typing import Any

from markupsafe import Markup

from leanmotion.pipeline.numbers import amount, data, listed, milli, missing, percent, short, within
from leanmotion.ranking.rounding import UNIT, rounded
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
    """The answer, in the README's words: blocks that go, the time of a call, and what it costs by clips of its own."""
    total = len(found.blocks)
    if found.chosen == BASE:
        return Markup("No block of {} is deleted: {}").format(total, found.selection["reason"])
    together = found.confirmed.to_dict("records")[0]
    share = call_share(found, found.chosen)
    # As in metrics/, and so in the README: rounded once more from all digits, a half would go the other way.
    excess, low, high = (rounded(together[f"excess{end}"], UNIT) for end in ("", "_low", "_high"))
    return Markup(
        "Without {} of its {} motion blocks the model needs {} of the time for a UNet call. FVD to the original's "
        "clips is {} {} than that of another seed ({:.0%} interval: {} to {})."
    ).format(
        data(len(found.removed[found.chosen])),
        total,
        data(share, f"{share:.0%}"),
        data(together["excess"], f"{abs(excess):.0%}"),
        "more" if excess >= 0 else "less",
        found.settings.evaluation.interval,
        data(together["excess_low"], f"{low:.0%}"),
        data(together["excess_high"], f"{high:.0%}"),
    )


def call_share(found: Artefacts, name: str) -> float:
    """A round's time of a UNet call, as a share of the whole model's."""
    return float(found.latency.loc[name, "seconds"]) / float(found.latency.loc["full", "seconds"])


def motion_time(found: Artefacts) -> Markup | None:
    """What the motion modules alone take of a call, before and after; None where no round was chosen."""
    if found.chosen == BASE:
        return None
    whole = float(found.latency.loc["none", "saving"])
    left = whole - float(found.latency.loc[found.chosen, "saving"])
    times = motion_speed(found, found.chosen)
    if times is None:
        return Markup("Of the time that motion modules take of a call ({} ms) nothing measurable is left.").format(
            data(whole, milli(whole))
        )
    return Markup(
        "Of such a call the motion modules take {} ms instead of {} ms: they alone run {}x as fast. The rest is the "
        "image model's, and stays."
    ).format(
        data(left, milli(left)),
        data(whole, milli(whole)),
        data(times, short(times, 2)),
    )


def evidence(found: Artefacts) -> Markup | None:
    """What stands behind the answer; None where no round was chosen."""
    if found.chosen == BASE:
        return None
    together, *sets = found.confirmed.to_dict("records")
    sure = (
        "The interval holds 0%: these clips do not tell the lighter model from another seed of the original."
        if together["excess_low"] <= 0 <= together["excess_high"]
        else "The interval lies above 0%: the lighter model is further from the original than another seed."
        if together["excess_low"] > 0
        else "The interval lies below 0%: the lighter model is nearer to the original than another seed."
    )
    return Markup(
        "The choice was measured once more, on {} clips under seeds that nothing else used: FVD {} to the original, "
        "where another seed of the original is at {}. Both are means over sets of {} of these clips, dealt anew {} "
        "times. {}"
    ).format(
        data(together["videos"]),
        data(together["fvd_cross"]),
        data(together["null"]),
        data(sets[0]["videos"]),
        found.settings.evaluation.resamples,
        sure,
    )


def three_excesses(found: Artefacts) -> Markup | None:
    """The chosen round's excess by each of its clips, why they differ, and which to believe; None without a choice."""
    if found.chosen == BASE:
        return None
    together = found.confirmed.to_dict("records")[0]
    rows = found.evaluation[(found.evaluation["round"] == found.chosen) & (found.evaluation["arm"] == "distilled")]
    by = rows.set_index("split").to_dict("index")
    return Markup(
        "This page has three excesses of {}, each of other clips: {} on the select split ({} clips), by which it was "
        "chosen, so that luck lowers it; {} on the report split ({} clips); {} at the top ({} clips). Believe the "
        "last: it has the most clips, and no choice used them."
    ).format(
        found.chosen,
        *(
            data(value, text)
            for row in (by["select"], by["report"], together)
            for value, text in ((row["excess"], percent(row["excess"])), (row["videos"], None))
        ),
    )


def confirmed(found: Artefacts) -> list[Table]:
    """The chosen round in all sets that confirm it together, and in each; likewise under the other motion norm.

    Empty where no round was chosen.
    """
    tables = []
    for rows, norm in (
        (found.confirmed, ""),
        (found.confirmed_under_other_norm, f", with motion modules that {_other_norm(found)}"),
    ):
        if len(rows):
            tables.append(_sets(rows, f"{found.chosen} under seeds that nothing else used{norm}"))
    return tables


def _sets(confirming: Any, title: str) -> Table:
    rows: list[list[Cell]] = []
    for i, row in enumerate(confirming.to_dict("records")):
        cells: list[Cell] = [
            row["set"] if i else f"{row['set']}, dealt anew",
            data(row["videos"]),
            data(row["captions"]),
            data(row["null"]),
        ]
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


def dealt_anew(found: Artefacts) -> Markup:
    """What the rows of all sets are, and why they are no mean of the rows below them."""
    if found.chosen == BASE:
        return Markup("")
    return Markup(
        "A row of a set is of the clips that were drawn for it. The row of all deals these clips into as many sets "
        "anew, {} times, each caption spread evenly, and takes the mean over all sets so made. So it is not the mean "
        "of the rows below it, and can lie above or below all of them: they are one deal, it is the mean of many. Its "
        "excess is the ratio of two such means, less 1. No FVD here is of all clips at once: FVD falls as clips grow "
        "in number, so that only sets of one size compare."
    ).format(found.settings.evaluation.resamples)


def under_other_norm(found: Artefacts) -> Markup | None:
    """What the chosen round costs where motion modules normalise the other way; None where it was not asked."""
    rows = found.confirmed_under_other_norm.to_dict("records")
    if not rows:
        return None
    together, *sets = rows
    return Markup(
        "With motion modules that {}, in the original too, its excess is {}, where other seeds of that original are "
        "at {}, in {} sets of {} clips."
    ).format(
        _other_norm(found),
        within(together["excess"], together["excess_low"], together["excess_high"], percent),
        data(together["null"]),
        len(sets),
        data(sets[0]["videos"]),
    )


def _other_norm(found: Artefacts) -> str:
    if found.settings.teacher.motion_norm == "clip":
        return "normalise each frame by itself, as in AnimateDiff's own code and ComfyUI"
    return "normalise over all frames, as in stock diffusers"


def labels(found: Artefacts) -> str:
    """Extractor, number of videos and frames: what a distance is of."""
    clock = "processor time of one core, " if found.latency.loc["full", "clock"] == "processor" else ""
    meta, interval = found.meta, found.settings.evaluation.interval
    frames = meta.get("frames", found.settings.sampling.frames)
    official = "the official I3D" if found.official else "not the FVD of papers, which takes the official I3D"
    return (
        f"FVD by {meta.get('extractor', found.settings.extractor.name)} features ({official}); "
        f"clips of {frames} frames; [low, high] is the {interval:.0%} interval, for fresh seeds of the same captions. "
        f"Time is measured ({clock}on the machine that ran this), and holds there."
    )


def facts(found: Artefacts) -> Table:
    """The original and the chosen student side by side, by the clips that confirm the choice."""
    head, rows = ["", "Original"], list[list[Cell]]()
    variants = ["full"]
    if found.chosen != BASE:
        variants.append(found.chosen)
        head.append("Lighter")
        rows = _measured(found.confirmed.to_dict("records")[0])
    calls = [found.latency.loc[name] for name in variants]
    gone: list[Cell] = [data(len(found.removed.get(name, []))) for name in variants]
    rows = [
        ["Blocks deleted", *gone],
        *rows,
        ["UNet call, measured", *(data(float(call["seconds"]), f"{milli(call['seconds'])} ms") for call in calls)],
        ["MACs of a UNet call", *(data(int(call["macs"]), amount(call["macs"])) for call in calls)],
        ["Parameters of the UNet", *(data(int(call["parameters"]), amount(call["parameters"])) for call in calls)],
    ]
    return Table("The whole model and the lighter one", head, rows)


def _measured(row: dict[str, Any]) -> list[list[Cell]]:
    """What the clips of all confirming sets come to: of the original, of the student."""
    rows: list[list[Cell]] = [
        ["FVD to the original, other seeds", data(row["null"])],
        ["Excess over the null", data(0, percent(0.0))],
        ["FVD to the original, same seeds", data(0)],
    ]
    for cells, name, write in zip(rows, ("fvd_cross", "excess", "fvd"), (short, percent, short), strict=True):
        cells.append(within(row[name], row[f"{name}_low"], row[f"{name}_high"], write))
    if not missing(row["motion_accuracy"]):
        read = [
            within(row[name], row[f"{name}_low"], row[f"{name}_high"], percent)
            for name in ("original_motion_accuracy", "motion_accuracy")
        ]
        rows.append(["Captions' motion read off the videos", *read])
    return rows


def reading(found: Artefacts) -> list[Cell]:
    """Sentences below the answer: which blocks, the reason in the rule's words, the ceiling."""
    out: list[Cell] = []
    if found.chosen != BASE:
        gone = f"Deleted in {found.chosen}: {listed(found.removed[found.chosen])}."
        repair = (
            "What is left was trained to make up for it (distillation)."
            if found.chosen in found.repaired
            else f"It was not repaired: {found.not_repaired(found.chosen)}."
        )
        out += [str(found.selection["reason"]), f"{gone} {repair}"]
    return [*out, ceiling(found)]


def ceiling(found: Artefacts) -> Markup:
    """What no deletion can go beyond but by the noise of timing, beside the rounds that are that very model."""
    call = found.latency.loc["none"]
    said = Markup(
        "The ceiling: without any motion module a UNet call takes {} ms instead of {} ms. That saves {} ms "
        "(median and quartiles of pairs of calls), the most that deletion can: what measures as more is noise."
    ).format(
        data(float(call["seconds"]), milli(call["seconds"])),
        data(float(found.latency.loc["full", "seconds"]), milli(found.latency.loc["full", "seconds"])),
        _saved(call),
    )
    for name in found.bare:
        same = found.latency.loc[name]
        said += Markup(" {} is that same model, timed once more: {} ms, {} ms saved.").format(
            name, data(float(same["seconds"]), milli(same["seconds"])), _saved(same)
        )
    return said


def _saved(call: Any) -> Markup:
    value, low, high = (float(call[f"saving{end}"]) for end in ("", "_low", "_high"))
    return within(value, low, high, milli)
