"""From takes to video tables by way of the store: order, resuming, and pairs that are none."""

import numpy as np
import pytest
from tiny import tiny_settings

from leanmotion.errors import LeanmotionError
from leanmotion.features.video_tables import find_clips, read_clips, require_pairs
from leanmotion.model.requests import Variant, requests_of
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.prompts.splits import SPLITS, prompt_rows
from leanmotion.videos import rendering
from leanmotion.videos.rendering import Take, render
from leanmotion.videos.store import ChunkStore, cut

pytestmark = pytest.mark.numeric

SETTINGS = tiny_settings(sampling={"frames": 2, "height": 8, "width": 8, "chunk": 3})
COUNT = 5
TEACHER, WITHOUT = Variant("a" * 64), Variant("a" * 64, ("mid_0",))


class Samplers:
    """Draws a plain colour that depends on variant and seed; counts the clips of each variant."""

    def __init__(self) -> None:
        self.drawn: dict[Variant, int] = {}

    def __call__(self, variant: Variant):
        def draw(requests):
            self.drawn[variant] = self.drawn.get(variant, 0) + len(requests)
            return np.stack([colour(variant, request.seed) for request in requests])

        return draw


def colour(variant: Variant, seed: int) -> np.ndarray:
    return np.full((2, 8, 8, 3), (seed + 100 * len(variant.removed)) % 256, np.uint8)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture
def prompts(tmp_path):
    return table(tmp_path / "prompts", COUNT)


def table(folder, count: int):
    for split in SPLITS:
        rows = prompt_rows(tiny_settings(prompts=dict.fromkeys(SPLITS, count)).prompts, split)
        write_table(folder / f"{split}.parquet", "prompts", rows)
    return folder


def draw(takes, out, prompts) -> Samplers:
    samplers = Samplers()
    render(takes, out, prompts=prompts, settings=SETTINGS, samplers=samplers, label="test")
    return samplers


def test_requests_are_the_prompt_tables(prompts) -> None:
    rows = prompt_rows(tiny_settings(prompts=dict.fromkeys(SPLITS, COUNT)).prompts, "select")
    for seeds in "ab":
        found = requests_of(prompts, "select", seeds)
        assert [(r.prompt, r.negative, r.seed) for r in found] == [
            (row["prompt"], row["negative"], row[f"seed_{seeds}"]) for row in rows
        ]
    with pytest.raises(LeanmotionError, match="no such file"):
        requests_of(prompts, "other", "a")


def test_takes_are_row_groups_in_order(tmp_path, prompts) -> None:
    takes = [Take("pruned", WITHOUT, "select", "b"), Take("full", TEACHER, "select", "b")]
    samplers = draw(takes, tmp_path / "v", prompts)
    assert samplers.drawn == {WITHOUT: COUNT, TEACHER: COUNT}
    first, second = read_clips(tmp_path / "v")
    requests = requests_of(prompts, "select", "b")
    for clips, take in zip((first, second), takes, strict=True):
        assert (clips.name, clips.split, clips.seeds, clips.removed) == (
            take.name, "select", "b", take.variant.removed,
        )  # fmt: skip
        assert np.array_equal(clips.frames, np.stack([colour(take.variant, r.seed) for r in requests]))
        assert clips.rows["index"].tolist() == list(range(COUNT))
        assert clips.rows["prompt"].tolist() == [r.prompt for r in requests]
        require_pairs(first.rows, clips.rows)


def test_what_is_stored_is_not_drawn_again(tmp_path, prompts) -> None:
    take = Take("full", TEACHER, "rank")
    assert draw([take], tmp_path / "v", prompts).drawn == {TEACHER: COUNT}
    assert draw([take], tmp_path / "w", prompts).drawn == {}
    assert (tmp_path / "v").read_bytes() == (tmp_path / "w").read_bytes()
    # 3 + 2 clips before; with 8 the first chunk stays, 3 + 2 follow.
    more = table(tmp_path / "more", 8)
    assert draw([take], tmp_path / "x", more).drawn == {TEACHER: 5}
    assert read_frame(tmp_path / "x", "videos")[:COUNT].equals(read_frame(tmp_path / "v", "videos"))
    # Another name for the same variant is the same work.
    assert draw([Take("other", TEACHER, "rank")], tmp_path / "y", prompts).drawn == {}


def ahead(tmp_path, prompts, monkeypatch, sure: list[str], samplers: Samplers) -> None:
    """A stage `mine` that draws the teacher, with a sibling `other`; `sure`: what the running dvc will ask for."""
    monkeypatch.setattr(rendering, "running_command", lambda: ["repro"])
    monkeypatch.setattr(rendering, "will_run", lambda stages, own: [name for name in stages if name in sure])
    mine, other = Take("full", TEACHER, "rank"), Take("mid_0", WITHOUT, "rank")
    render(
        [mine], tmp_path / "v", prompts=prompts, settings=SETTINGS, samplers=samplers, label="test", stage="mine",
        siblings=lambda: {"mine": [mine], "other": [other]},
    )  # fmt: skip


def test_a_sibling_is_drawn_while_networks_are_there(tmp_path, prompts, monkeypatch) -> None:
    samplers = Samplers()
    ahead(tmp_path, prompts, monkeypatch, ["other"], samplers)
    assert samplers.drawn == {TEACHER: COUNT, WITHOUT: COUNT}
    # The sibling then draws nothing, and its table is the one that it would have written itself.
    assert draw([Take("mid_0", WITHOUT, "rank")], tmp_path / "w", prompts).drawn == {}
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "elsewhere"))
    assert draw([Take("mid_0", WITHOUT, "rank")], tmp_path / "x", prompts).drawn == {WITHOUT: COUNT}
    assert (tmp_path / "w").read_bytes() == (tmp_path / "x").read_bytes()


def test_nothing_is_drawn_that_is_not_sure_to_be_asked_for(tmp_path, prompts, monkeypatch) -> None:
    samplers = Samplers()
    ahead(tmp_path, prompts, monkeypatch, [], samplers)
    assert samplers.drawn == {TEACHER: COUNT}
    # Nor by a stage that has nothing to draw itself: a missing chunk is not a missing result.
    ahead(tmp_path, prompts, monkeypatch, ["other"], samplers)
    assert samplers.drawn == {TEACHER: COUNT}


def test_what_fails_for_a_sibling_is_a_warning(tmp_path, prompts, monkeypatch, capsys) -> None:
    class Failing(Samplers):
        def __call__(self, variant: Variant):
            if variant == WITHOUT:
                raise LeanmotionError("latents are not finite")
            return super().__call__(variant)

    ahead(tmp_path, prompts, monkeypatch, ["other"], Failing())
    assert [clips.name for clips in read_clips(tmp_path / "v")] == ["full"]
    said = capsys.readouterr().err
    assert "warning: drawing ahead for other: latents are not finite: left to that stage" in said
    with pytest.raises(LeanmotionError, match="not finite"):
        render(
            [Take("mid_0", WITHOUT, "rank")], tmp_path / "w", prompts=prompts, settings=SETTINGS, samplers=Failing(),
            label="test",
        )  # fmt: skip


def test_two_takes_of_one_variant_and_split_are_drawn_once(tmp_path, prompts) -> None:
    takes = [Take("one", TEACHER, "rank"), Take("two", TEACHER, "rank")]
    assert draw(takes, tmp_path / "v", prompts).drawn == {TEACHER: COUNT}
    assert [clips.name for clips in read_clips(tmp_path / "v")] == ["one", "two"]


def test_a_killed_render_goes_on(tmp_path, prompts) -> None:
    take = Take("full", TEACHER, "rank")
    chunks = cut(TEACHER, requests_of(prompts, "rank", "a"), SETTINGS.sampling)
    ChunkStore().put(chunks[0], Samplers()(TEACHER)(chunks[0].requests))
    assert draw([take], tmp_path / "v", prompts).drawn == {TEACHER: 2}


def test_a_damaged_chunk_leaves_no_table_and_is_drawn_again(tmp_path, prompts) -> None:
    take = Take("full", TEACHER, "rank")
    draw([take], tmp_path / "v", prompts)
    chunk = cut(TEACHER, requests_of(prompts, "rank", "a"), SETTINGS.sampling)[1]
    path = ChunkStore().path(chunk)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LeanmotionError, match="deleted: run again"):
        draw([take], tmp_path / "w", prompts)
    assert not list(tmp_path.glob("*w*"))
    assert draw([take], tmp_path / "w", prompts).drawn == {TEACHER: 2}
    assert (tmp_path / "v").read_bytes() == (tmp_path / "w").read_bytes()


def test_one_take_is_found(tmp_path, prompts) -> None:
    draw([Take("one", TEACHER, "rank"), Take("two", WITHOUT, "rank")], tmp_path / "v", prompts)
    assert find_clips(tmp_path / "v", variant="two", split="rank").removed == ("mid_0",)
    for wanted, count in (({"split": "rank"}, 2), ({"variant": "three"}, 0)):
        with pytest.raises(LeanmotionError, match=rf"{count} takes fit .*, not one"):
            find_clips(tmp_path / "v", **wanted)


def test_pairs_that_are_none_are_refused(tmp_path, prompts) -> None:
    takes = [
        Take("full", TEACHER, "rank", "a"),
        Take("full", TEACHER, "rank", "b"),
        Take("full", TEACHER, "report", "a"),
    ]
    draw(takes, tmp_path / "v", prompts)
    a, b, other = (clips.rows for clips in read_clips(tmp_path / "v"))
    require_pairs(a, a.copy())
    for rows, column in ((b, "seed"), (other, "prompt"), (a[:-1], "number"), (a[::-1], "prompt")):
        with pytest.raises(LeanmotionError, match=f"videos differ in {column}"):
            require_pairs(a, rows)  # pyright: ignore
