"""Video tables -> feature tables: once per video and extractor, never mixed."""

import numpy as np
import pandas as pd
import pytest

from leanmotion.errors import LeanmotionError
from leanmotion.features import embedding as module
from leanmotion.features.embedding import embed, embedded
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.features.motion import motion_descriptor
from leanmotion.pipeline.tables import read_frame, read_table, table_meta, write_table
from leanmotion.videos.codec import encode

pytestmark = pytest.mark.numeric

FRAMES, SIZE = 4, 8


class Means:
    """An extractor: the mean of each channel. Counts how often it is asked."""

    name, official, dimensions, digest = "means", False, 3, "0" * 64

    def __init__(self) -> None:
        self.calls = 0

    def check_frames(self, frames: int, height: int, width: int) -> None:
        """Any."""

    def features(self, clips):
        self.calls += 1
        return clips.mean(axis=(1, 2, 3)).astype(np.float32)


class Reading(Means):
    """One that reads labels too."""

    name = "reading"

    def read(self, clips):
        return {head: np.array([head] * len(clips)) for head in module.HEADS}


class Broken(Means):
    """One whose second clip is NaN."""

    def features(self, clips):
        found = super().features(clips)
        found[1] = np.nan
        return found


def clips(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, FRAMES, SIZE, SIZE, 3), dtype=np.uint8)


def videos(path, *takes: tuple[str, str, str], count: int = 3, seed: int = 0):
    """A video table of random clips; prompts and seeds by index."""
    from leanmotion.pipeline.tables import TableWriter

    with TableWriter(path, "videos") as writer:
        for i, (variant, split, seeds) in enumerate(takes):
            writer.write(
                [
                    {"variant": variant, "split": split, "seeds": seeds, "index": j, "prompt": f"p{j}", "seed": j,
                     "removed": [], "frames": FRAMES, "height": SIZE, "width": SIZE, "video": encode(clip)}
                    for j, clip in enumerate(clips(count, seed + i))
                ]
            )  # fmt: skip
    return path


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def test_rows_are_those_of_the_videos(tmp_path) -> None:
    path = videos(tmp_path / "v", ("full", "rank", "a"), ("full", "rank", "b"))
    embed(path, tmp_path / "deep" / "f", Means())
    rows = read_frame(tmp_path / "deep" / "f", "features")
    assert rows[["variant", "seeds", "index", "prompt"]].values.tolist() == [
        ["full", seeds, j, f"p{j}"] for seeds in "ab" for j in range(3)
    ]
    drawn = np.concatenate([clips(3, 0), clips(3, 1)])
    assert np.array_equal(np.stack(rows["features"].to_list()), drawn.mean(axis=(1, 2, 3)).astype(np.float32))
    assert np.array_equal(np.stack(rows["motion"].to_list()), motion_descriptor(drawn))
    assert all(len(labels) == 0 for labels in rows["labels"])
    meta = table_meta(read_table(tmp_path / "deep" / "f", "features"))
    assert meta["extractor"] == "means" and meta["extractor_sha256"] == "0" * 64
    assert meta["extractor_official"] == "false" and meta["extractor_dimensions"] == "3"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["f"]


def test_what_heads_read_is_kept(tmp_path) -> None:
    embed(videos(tmp_path / "v", ("full", "rank", "a")), tmp_path / "f", Reading())
    assert [list(x) for x in read_frame(tmp_path / "f", "features")["labels"]] == [list(module.HEADS)] * 3


def test_each_video_is_seen_once(tmp_path, monkeypatch) -> None:
    extractor = Means()
    one, same, other = (
        videos(tmp_path / name, ("full", "rank", "a"), seed=seed) for name, seed in (("v", 0), ("w", 0), ("x", 9))
    )
    for path in (one, same, one):
        embed(path, tmp_path / "f", extractor)
    assert extractor.calls == 1, "by content, not by path"
    embed(other, tmp_path / "f", extractor)
    assert extractor.calls == 2
    reading = Reading()
    embed(one, tmp_path / "f", reading)
    assert reading.calls == 1, "another extractor"
    monkeypatch.setattr(module, "code_address", lambda *roots: "changed")
    embed(one, tmp_path / "f", extractor)
    assert extractor.calls == 3, "another version of its code"


def test_features_that_are_not_finite_name_the_prompt(tmp_path, scratch) -> None:
    with pytest.raises(LeanmotionError, match=r"features of up_0_0, prompt 'p1', are not finite"):
        embedded(videos(tmp_path / "v", ("up_0_0", "rank", "a")), Broken())
    assert not list(scratch.rglob("*.p*"))


def test_damaged_videos_leave_no_features(tmp_path) -> None:
    path = videos(tmp_path / "v", ("full", "rank", "a"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(LeanmotionError, match="corrupt"):
        embed(path, tmp_path / "f", Means())
    assert not (tmp_path / "f").exists()


def test_a_set_by_takes(tmp_path) -> None:
    embed(videos(tmp_path / "v", ("full", "rank", "a"), ("full", "rank", "b")), tmp_path / "f", Means())
    embed(videos(tmp_path / "w", ("mid_0", "rank", "a"), seed=5), tmp_path / "g", Means())
    read = FeatureSet([tmp_path / "f", tmp_path / "g"])
    assert read.variants == ["full", "mid_0"]
    expected = clips(3, 1).mean(axis=(1, 2, 3)).astype(np.float32)
    assert (
        np.array_equal(read.features("full", "rank", "b"), expected)
        and read.features("full", "rank", "b").dtype == np.float64
    )
    assert read.motion("mid_0", "rank", "a").shape == (3, (FRAMES - 1) * 64)
    with pytest.raises(LeanmotionError, match="no features of 'mid_0', split rank, seeds b"):
        read.take("mid_0", "rank", "b")


def test_extractors_are_never_mixed(tmp_path) -> None:
    path = videos(tmp_path / "v", ("full", "rank", "a"))
    embed(path, tmp_path / "f", Means())
    embed(path, tmp_path / "g", Reading())
    with pytest.raises(LeanmotionError, match="another extractor than the rest"):
        FeatureSet([tmp_path / "f", tmp_path / "g"])
    with pytest.raises(LeanmotionError, match="r04 are of another extractor"):
        FeatureSet([tmp_path / "f"]).adopt(FeatureSet([tmp_path / "g"]), "full", as_variant="r04")
    altered = Means()
    altered.digest = "1" * 64
    embed(path, tmp_path / "h", altered)
    with pytest.raises(LeanmotionError, match="another extractor than the rest"):
        FeatureSet([tmp_path / "f", tmp_path / "h"])


def test_a_variant_is_adopted_under_a_name_of_its_own(tmp_path) -> None:
    embed(videos(tmp_path / "v", ("full", "select", "b")), tmp_path / "f", Means())
    embed(
        videos(tmp_path / "w", ("pruned", "select", "b"), ("distilled", "select", "b"), seed=3), tmp_path / "g", Means()
    )
    read, theirs = FeatureSet([tmp_path / "f"]), FeatureSet([tmp_path / "g"])
    read.adopt(theirs, "pruned", as_variant="r04/pruned")
    assert read.variants == ["full", "r04/pruned"]
    pd.testing.assert_frame_equal(read.take("r04/pruned", "select", "b"), theirs.take("pruned", "select", "b"))


def test_a_table_of_something_else_is_refused(tmp_path) -> None:
    write_table(tmp_path / "t", "losses", [])
    with pytest.raises(LeanmotionError, match="not a features table"):
        FeatureSet([tmp_path / "t"])
