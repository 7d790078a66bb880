"""The README's sentences about a run: every figure in them is computed."""

from collections.abc import Mapping
from typing import Any

from leanmotion.commands.readme_results import Results, real, untrained
from leanmotion.pipeline.numbers import percent, short


def headline(found: Results) -> list[str]:
    """What the chosen round costs, by clips that nothing else has used; nothing where no round was chosen."""
    new = found.confirmed
    if not new or not new["removed"]:
        return []
    excess, low, high = (f"{new[f'excess{end}']:.0%}" for end in ("", "_low", "_high"))
    interval, clips = f"{found.settings.evaluation.interval:.0%}", new["videos"] // new["sets"]
    total = len(found.settings.teacher.blocks)
    said = (
        f"**{new['removed']} of {total} motion blocks deleted: the excess of FVD over another seed of the original is "
        f"{excess} [{low}, {high}]**, {short(new['fvd_cross'])} where that is at {short(new['null'])}. It is measured "
        f"on {new['sets']} sets of {clips} clips under seeds that nothing else used; the {interval} interval is for "
        f"fresh seeds of these {new['captions']} captions."
    )
    if "motion_accuracy" in new:
        shown, original = percent(new["motion_accuracy"]), percent(new["original_motion_accuracy"])
        said += f" {shown} of the clips show the motion asked for, {original} of the original's."
    return [said + _under_other_norm(found, new)]


def _under_other_norm(found: Results, new: Mapping[str, Any]) -> str:
    """What it costs where motion modules normalise the other way, if that was asked."""
    if "other_norm_excess" not in new:
        return ""
    where = "frame by frame, as AnimateDiff's own code and ComfyUI do"
    if found.settings.teacher.motion_norm == "frame":
        where = "over all frames, as stock diffusers does"
    excess, low, high = (f"{new[f'other_norm_excess{end}']:.0%}" for end in ("", "_low", "_high"))
    return (
        f" Where motion modules normalise {where}, the excess is {excess} [{low}, {high}] "
        f"({new['other_norm_sets']} sets)."
    )


def labels(found: Results) -> str:
    """Extractor, number of clips and frames of the table."""
    official = found.settings.extractor.name == "i3d" and found.settings.extractor.sha256 is None
    papers = "" if official else "; not the FVD of papers"
    videos, frames = found.selection["original_videos"], found.settings.sampling.frames
    return f"{found.ranking['extractor']} features, N = {videos} clips of {frames} frames, report split{papers}"


def reading(found: Results) -> str:
    """How to read the table, the stop rule's reason, and what else the run says."""
    base = next(row for row in found.rounds if row["round"] == "base")
    said = [
        "FVD is to the original's clips of the same prompts and seeds; *across seeds* is to the original's under other "
        f"seeds, where the original itself is at {short(real(base, 'null'))}."
    ]
    if base.get("distilled_motion_accuracy"):
        said.append(
            "*Motion read*: how often the clips show the motion that the caption asks for, by the small reader."
        )
    if any(untrained(found, row) for row in found.rounds):
        said.append(
            "*Kept untrained*: deletion did too little harm to train for, or training did not bring drawn clips closer "
            "to the original's, and was dropped."
        )
    if found.selection["round"] != "base":
        said.append(f"The stop rule: {found.reason}")
    if found.selection["round"] != "base" and not found.confirmed:
        low, value, high = (float(found.selection[f"distilled_excess{end}"]) for end in ("_low", "", "_high"))
        said.append(
            f"On the report split, by which nothing is chosen, its excess is {value:.0%} [{low:.0%}, {high:.0%}]: the "
            f"interval is what {found.selection['original_videos']} clips tell."
        )
    said += _looks(found)
    if (tau := found.ranking.get("split_half_tau")) is not None:
        said.append(f"The split-half Kendall tau of the ranking is {tau:.2f}.")
    if found.teacher:
        read = [f"{found.teacher[f'original_{head}']:.0%} of the {head}s" for head in ("colour", "shape", "motion")]
        said.append(
            f"The teacher is a small one: of captions that it never saw, {', '.join(read[:-1])} and {read[-1]} that it "
            f"draws are read as asked for ({found.teacher['clips']} clips: `make teacher-check`)."
        )
    return " ".join(said)


def _looks(found: Results) -> list[str]:
    """Whether students blur and stand still: the chosen round, and the next that has something left to train."""
    total, named = len(found.settings.teacher.blocks), found.shown
    later = [row for row in found.rounds if found.removed(named) <= int(row["removed"]) < total][:2]
    later = [row for row in later if row.get("distilled_sharpness") and row.get("distilled_movement")]
    if not later:
        return []

    def pair(row: Mapping[str, str], arm: str) -> str:
        return " and ".join(percent(real(row, f"{arm}_{name}")) for name in ("sharpness", "movement"))

    each = [f"{pair(row, 'distilled')} in {row['round']} (pruned only {pair(row, 'pruned')})" for row in later]
    return [
        "Students that match outputs are said to blur and to stand still ([V.I.P.](https://arxiv.org/abs/2508.03254)): "
        f"sharpness and movement are {', '.join(each)} of the original's."
    ]
