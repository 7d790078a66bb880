"""The page's videos: a few prompts of each split, small, and only as many as the page has room for."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.numbers import data, short
from leanmotion.pipeline.tables import stream_table
from leanmotion.report.artefacts import BASE, Artefacts
from leanmotion.videos.codec import decode, mp4_bytes

BUDGET = 10_000_000
"""Bytes of base64 for all videos together."""
# Shown about so large; the browser enlarges what is still smaller. x264 was seen to give other bytes from call to call
# on noise enlarged 12 times, and never at 3 or 4.
_SHOWN, _SMALL, _ENLARGE = 192, 256, 4
_PRUNED = "pruned, before repair"


@dataclass(frozen=True)
class Slot:
    """A place for a video. `key` names its clips; `{round}` in it stands for the picked round.

    `note` stands below the label. Labels and notes of rounds change with the picker and are in `Media`; a round that
    was not repaired has no clips in the slot of the repaired ones, which is hidden then.
    """

    key: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Videos of the same prompts and seeds, side by side."""

    name: str
    split: str
    seeds: str
    prompts: list[str]
    slots: list[Slot]
    rule: str
    """By what rule these clips were picked."""


@dataclass(frozen=True)
class Media:
    """All groups and their clips: key -> one base64 MP4 a prompt; of rounds, key -> label and note."""

    groups: dict[str, Group]
    clips: dict[str, list[str]]
    edge: int
    notes: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class _Picked:
    """Places of clips in their split, which goes first, and what the picker calls each beside its prompt."""

    places: list[int]
    names: list[str]
    rule: str


@dataclass(frozen=True)
class _Take:
    key: str
    file: str
    variant: str
    split: str
    seeds: str


def read_media(found: Artefacts) -> Media:
    """Encode the clips, prompt by prompt, until the budget is reached; halve their size where one prompt exceeds it."""
    takes, groups = _takes(found)
    rows = {take.key: _rows(found.folder / "videos" / take.file, take) for take in takes}
    # Probes may be of the first prompts alone.
    fewest = {split: min(len(rows[take.key]) for take in takes if take.split == split) for split in ("rank", "report")}
    count = found.settings.report.clips
    picked = {
        "rank": _first_prompts([row["prompt"] for row in rows["rank/full"][: fewest["rank"]]], count),
        "report": _spread(found, rows, count),
    }
    edge = _SMALL
    while True:
        clips, count = _encode(takes, rows, {split: one.places for split, one in picked.items()}, found, edge)
        if count or edge <= 32:
            break
        edge //= 2
    named = {}
    for group in groups:
        one = picked[group.split]
        titles = [rows[f"{group.split}/full"][i]["prompt"] for i in one.places[:count]]
        said = [f"{title} ({name})" if name else title for title, name in zip(titles, one.names, strict=False)]
        named[group.name] = replace(group, prompts=said, rule=one.rule)
    return Media(named, clips, edge, _notes(found))


def finding(found: Artefacts) -> Markup:
    """How far the chosen round's clips are from the original's of the same seeds: those shown, and those at the top."""
    if found.chosen == BASE:
        return Markup("No round was chosen: the videos show what each would look like.")
    rows = found.evaluation[(found.evaluation["round"] == found.chosen) & (found.evaluation["split"] == "report")]
    shown = rows[rows["arm"] == "distilled"].to_dict("records")[0]
    together, *sets = found.confirmed.to_dict("records")
    return Markup(
        "Of the same prompts and seeds, clips of {} are at FVD {} to the original's on the report split ({} clips, of "
        "which some stand below), and at {} on the clips of the answer at the top ({} in sets of {})."
    ).format(
        found.chosen,
        *(data(value) for value in (shown["fvd"], shown["videos"], together["fvd"], together["videos"])),
        data(sets[0]["videos"]),
    )


def _encode(
    takes: Sequence[_Take],
    rows: dict[str, list[dict[str, Any]]],
    order: dict[str, list[int]],
    found: Artefacts,
    edge: int,
) -> tuple[dict[str, list[str]], int]:
    clips: dict[str, list[str]] = {take.key: [] for take in takes}
    used, count = 0, 0
    for place in range(max(len(indices) for indices in order.values())):
        new = {}
        for take in takes:
            if place < len(order[take.split]):
                row = rows[take.key][order[take.split][place]]
                frames = _sized(decode(row["video"]), edge)
                scale = min(max(1, _SHOWN // max(frames.shape[1:3])), _ENLARGE)
                new[take.key] = base64.b64encode(mp4_bytes(frames, found.settings.report.fps, scale)).decode("ascii")
        used += sum(map(len, new.values()))
        if used > BUDGET:
            break
        for key, clip in new.items():
            clips[key].append(clip)
        count = place + 1
    return clips, count


def _takes(found: Artefacts) -> tuple[list[_Take], list[Group]]:
    by_harm = found.ranking.sort_values("fvd", kind="stable")["block"].tolist()
    least, most = str(by_harm[0]), str(by_harm[-1])
    distances = found.ranking.set_index("block")["fvd"].to_dict()
    takes = [
        _Take("rank/full", "full/rank_a.parquet", "full", "rank", "a"),
        _Take("rank/least", f"ablate/{least}.parquet", least, "rank", "a"),
        _Take("rank/most", f"ablate/{most}.parquet", most, "rank", "a"),
        _Take("report/full", "full/report_b.parquet", "full", "report", "b"),
    ]
    for name in found.rounds:
        for arm in ("pruned", "distilled") if name in found.repaired else ("pruned",):
            takes.append(_Take(f"report/{name}/{arm}", f"rounds/{name}.parquet", arm, "report", "b"))
    singles = [
        Slot("rank/full", "original"),
        Slot("rank/least", f"without {least}, the least harmful to lose", f"FVD {short(distances[least])}"),
        Slot("rank/most", f"without {most}, the most harmful to lose", f"FVD {short(distances[most])}"),
    ]
    rounds = [
        Slot("report/full", "original"),
        Slot("report/{round}/pruned", _PRUNED),
        Slot("report/{round}/distilled", "repaired (distilled)"),
    ]
    probes = [Slot("rank/full", "original")]
    for set_name, probe in _probes(found):
        key = f"rank/probe/{probe['probe']}"
        takes.append(_Take(key, f"probe/{set_name}.parquet", str(probe["probe"]), "rank", "a"))
        unit = {"temporal_transformer": "temporal transformer", "attention": "attention layer"}[probe["granularity"]]
        some = f"{probe['count']} {unit}{'s' if probe['count'] > 1 else ''}"
        probes.append(Slot(key, f"without {some} (most similar)", f"FVD {short(probe['fvd'])}"))
    groups = [Group("rounds", "report", "b", [], rounds, ""), Group("singles", "rank", "a", [], singles, "")]
    if len(probes) > 1:
        groups.append(Group("probes", "rank", "a", [], probes, ""))
    return takes, groups


def _notes(found: Artefacts) -> dict[str, tuple[str, str]]:
    """A round's clips by key -> what they are, and how far they are from the original's of the same seeds."""
    notes = {}
    for row in found.evaluation[found.evaluation["split"] == "report"].to_dict("records"):
        name, arm = row["round"], row["arm"]
        label = "repaired (distilled)" if arm == "distilled" else _PRUNED
        if name != BASE and name not in found.repaired:
            if arm == "distilled":
                continue
            label = f"pruned, not repaired: {found.not_repaired(name)}"
        notes[f"report/{name}/{arm}"] = label, f"FVD {short(row['fvd'])}"
    return notes


def _probes(found: Artefacts) -> Iterable[tuple[str, dict[str, Any]]]:
    """Of the most similar units: the largest set of transformers, the smallest and largest of attention layers."""
    for granularity, which in (("temporal_transformer", (-1,)), ("attention", (0, -1))):
        rows = found.probes[(found.probes["granularity"] == granularity) & (found.probes["pick"] == "similar")]
        rows = rows.sort_values("count", kind="stable")
        for i in sorted({which_one % len(rows) for which_one in which} if len(rows) else ()):
            row: dict[str, Any] = {str(k): v for k, v in rows.iloc[i].to_dict().items()}
            sets = found.settings.probe.sets
            yield next(n for n in sets if row["probe"].startswith(f"{n}_similar_")), row


def _rows(path: Path, take: _Take) -> list[dict[str, Any]]:
    """One take's rows, videos still encoded."""
    wanted = (take.variant, take.split, take.seeds)
    fits = [
        group.select(["index", "prompt", "seed", "video"]).to_pylist()
        for group in stream_table(path, "videos")
        if group.num_rows and tuple(group[k][0].as_py() for k in ("variant", "split", "seeds")) == wanted
    ]
    if len(fits) != 1:
        raise LeanmotionError(f"{path}: {len(fits)} takes of {'/'.join(wanted)}, not one: `dvc repro` makes it anew")
    return sorted(fits[0], key=lambda row: row["index"])


def _first_prompts(prompts: Sequence[str], count: int) -> _Picked:
    """The first clips of a split, prompts not seen before first."""
    first = [i for i, prompt in enumerate(prompts) if prompt not in prompts[:i]]
    rest = [i for i in range(len(prompts)) if i not in set(first)]
    places = [*first, *rest][:count]
    return _Picked(
        places, [""] * len(places), "The clips are the first of the split, each prompt once where it can be."
    )


def _spread(found: Artefacts, rows: dict[str, list[dict[str, Any]]], count: int) -> _Picked:
    """Clips by how far a round's are from the original's: the median, the furthest, the nearest, then evenly between.

    The distance is the mean squared difference of pixels: features of rounds' clips are not stored.
    """
    name = found.rounds[-1] if found.chosen == BASE else found.chosen
    theirs = rows[f"report/{name}/{'distilled' if name in found.repaired else 'pruned'}"]
    far = [_apart(one["video"], other["video"]) for one, other in zip(rows["report/full"], theirs, strict=True)]
    by_distance = sorted(range(len(far)), key=lambda i: far[i])
    last = len(far) - 1
    # Halves of halves: whatever fits on the page is spread over all clips.
    shares = [1 / 2, 1.0, 0.0, *(odd / 2**power for power in range(2, 12) for odd in range(1, 2**power, 2))]
    at = list(dict.fromkeys(round(share * last) for share in shares))[:count]
    words = {round(last / 2): "the median clip", last: "the furthest", 0: "the nearest"}
    names = [words.get(place, f"{place} of {last} others nearer") for place in at]
    return _Picked(
        [by_distance[place] for place in at],
        names,
        f"No clip was picked by hand. By how far {name}'s are from the original's, in squared difference of pixels, "
        f"the median of {len(far)} clips comes first, then the furthest, the nearest, and others evenly between.",
    )


def _apart(one: bytes, other: bytes) -> float:
    return float(np.square(decode(one).astype(np.float32) - decode(other)).mean(dtype=np.float64))


def _sized(frames: np.ndarray, edge: int) -> np.ndarray:
    """Frames with no side over `edge`, by means over whole blocks of pixels."""
    factor = -(-max(frames.shape[1:3]) // edge)
    if factor <= 1:
        return frames
    high, wide = (max(side // factor, 1) for side in frames.shape[1:3])
    cut = frames[:, : high * factor, : wide * factor].reshape(len(frames), high, factor, wide, factor, 3)
    return cut.mean(axis=(2, 4)).round().astype(np.uint8)
