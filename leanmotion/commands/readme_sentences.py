"""The README's sentences about a run: every figure in them is computed."""

from collections.abc import Mapping
from typing import Any

from leanmotion.commands.readme_results import Results, real, untrained
from leanmotion.pipeline.numbers import percent, short


def headline(found: Results, seconds: Mapping[str, float]) -> list[str]:
    """What the chosen round costs, by clips that nothing else has used; nothing where no round was chosen."""
    new = found.confirmed
    if not new or not new["removed"]:
        return []
    low, high = (f"{new[f'excess{end}']:.0%}" for end in ("_low", "_high"))
    excess = f"{abs(new['excess']):.0%} {'more' if new['excess'] >= 0 else 'less'}"
    interval, total = f"{found.settings.evaluation.interval:.0%}", len(found.settings.teacher.blocks)
    taken, whole = seconds.get(found.shown), seconds.get("base")
    time = f" the model needs {taken / whole:.0%} of the time for a UNet call, and" if taken and whole else ""
    said = [
        f"**Without {new['removed']} of its {total} motion blocks{time} the FVD to the original's clips is "
        f"{short(new['fvd_cross'])}, where the original with other seeds has {short(new['null'])}: {excess} "
        f"({interval} interval: {low} to {high}).**"
    ]
    if "motion_accuracy" in new:
        shown, original = percent(new["motion_accuracy"]), percent(new["original_motion_accuracy"])
        said.append(f"{shown} of these new clips show the motion asked for; of the original's, {original}.")
    return [" ".join(said)]


def measured(found: Results) -> list[str]:
    """On what the figures were measured: extractor, number of clips and frames, seeds."""
    official = found.settings.extractor.name == "i3d" and found.settings.extractor.sha256 is None
    papers = "" if official else ", not that of papers"
    videos, frames = found.selection["original_videos"], found.settings.sampling.frames
    said = [
        f"The table is of {videos} clips of {frames} frames that no choice used. FVD is in "
        f"`{found.ranking['extractor']}` features{papers}."
    ]
    if (new := found.confirmed) and new["removed"]:
        said.append(
            f"The sentence at the top is of {new['videos']} other clips, so that its figures differ ({new['captions']} "
            f"captions, new seeds; sets of {new['videos'] // new['sets']})."
        )
        said += _under_other_norm(found, new)
    return [" ".join(said)]


def _under_other_norm(found: Results, new: Mapping[str, Any]) -> list[str]:
    """What the choice costs where motion modules normalise the other way, if that was asked."""
    if "other_norm_excess" not in new:
        return []
    where = "frame by frame, as in ComfyUI"
    if found.settings.teacher.motion_norm == "frame":
        where = "over all frames, as in stock diffusers"
    excess, low, high = (f"{new[f'other_norm_excess{end}']:.0%}" for end in ("", "_low", "_high"))
    return [
        f"With motion normalised {where}, the difference is {excess} ({low} to {high}; "
        f"{new['other_norm_videos']} clips; below 0: closer than other seeds)."
    ]


def reading(found: Results, seconds: Mapping[str, float]) -> list[str]:
    """Paragraphs: how to read the table; why this round; what else the run says."""
    return [
        " ".join(part) for part in (_columns(found, seconds), _choice(found), [*_looks(found), *_trust(found)]) if part
    ]


def _columns(found: Results, seconds: Mapping[str, float]) -> list[str]:
    base = next(row for row in found.rounds if row["round"] == "base")
    low, high = (short(real(base, f"distilled_fvd_{end}")) for end in ("low", "high"))
    said = [
        "*FVD* is the distance to the original's clips of the same prompts and seeds: lower is closer. Other seeds of "
        f"the original give {short(real(base, 'null'))} [{low}, {high}]: the yardstick."
    ]
    if base.get("distilled_motion_accuracy"):
        said.append("*Motion shown* is the share of clips in which a reader finds the caption's motion.")
    if any(untrained(found, row) for row in found.rounds):
        said.append("*Not repaired*: too little harm to train for, or training did not help.")
    last = found.rounds[-1]["round"]
    if found.removed(last) == len(found.settings.teacher.blocks) and "none" in seconds:
        said.append(f"{last} and *no motion module* compute the same: their times differ by chance.")
    return said


def _choice(found: Results) -> list[str]:
    if found.selection["round"] == "base":
        return []
    said = [f"*Excess* is by how much FVD across seeds is above the yardstick. {found.reason}"]
    if (new := found.confirmed) and new["removed"]:
        said.append(
            f"The table's clips say {float(found.selection['distilled_excess']):.0%}, the top's {new['excess']:.0%}. "
            "Each is of other clips. Believe the top, which has most and chose nothing."
        )
    if not found.confirmed:
        low, value, high = (float(found.selection[f"distilled_excess{end}"]) for end in ("_low", "", "_high"))
        said.append(
            f"On the report split, by which nothing is chosen, its excess is {value:.0%} [{low:.0%}, {high:.0%}]: the "
            f"interval is what {found.selection['original_videos']} clips tell."
        )
    return said


def _looks(found: Results) -> list[str]:
    """Whether students blur and stand still: the chosen round, and the next that has something left to train."""
    total, named = len(found.settings.teacher.blocks), found.shown
    later = [row for row in found.rounds if found.removed(named) <= int(row["removed"]) < total][:2]
    later = [row for row in later if row.get("distilled_sharpness") and row.get("distilled_movement")]
    if not later:
        return []

    def pair(row: Mapping[str, str]) -> str:
        return " and ".join(percent(real(row, f"distilled_{name}")) for name in ("sharpness", "movement"))

    told = [f"{pair(row)} in {row['round']}" for row in later]
    return [
        "Distilled models can blur or stand still ([V.I.P.](https://arxiv.org/abs/2508.03254)). Sharpness and movement "
        f"here, as shares of the original's: {', '.join(told)}."
    ]


def _trust(found: Results) -> list[str]:
    said = []
    if (tau := found.ranking.get("split_half_tau")) is not None:
        said.append(f"Rankings by two halves of the clips agree with a Kendall tau of {tau:.2f} (1: same order).")
    if found.teacher:
        read = [f"{found.teacher[f'original_{head}']:.0%} of the {head}s" for head in ("colour", "shape", "motion")]
        said.append(f"The embedded model draws {', '.join(read[:-1])} and {read[-1]} of new captions.")
    return said
