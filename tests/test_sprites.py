"""The sprites world: captions, the renderer, and the reader."""

import json

import numpy as np
import pytest
import torch

from leanmotion.sprites.reader import SpriteReader
from leanmotion.sprites.recipe import Recipe
from leanmotion.sprites.renderer import render
from leanmotion.sprites.vocabulary import byte_pairs, new_tokenizer
from leanmotion.sprites.world import (
    COLOURS,
    MOTIONS,
    NO_MOTION,
    SHAPES,
    Scene,
    all_captions,
    all_scenes,
    caption_labels,
    held_out_captions,
    label_names,
    parse_caption,
    training_captions,
)


def brightness(clips: np.ndarray) -> np.ndarray:
    """[n, f, h, w] in 0..1: how bright the brightest channel is."""
    return clips.max(-1) / 255


def centroid(clips: np.ndarray, axis: str) -> np.ndarray:
    """[n, f]: where the bright mass lies, in picture widths."""
    mass = np.where(brightness(clips) > 0.75, 1.0, 0.0)
    along = mass.sum(2 if axis == "x" else 3)
    return (along * np.linspace(0, 1, along.shape[-1])).sum(-1) / along.sum(-1)


def test_captions_round_trip() -> None:
    captions = all_captions()
    assert len(set(captions)) == len(COLOURS) * len(SHAPES) * len(MOTIONS) == 144
    assert [parse_caption(caption) for caption in captions] == all_scenes()
    names = label_names()
    for scene in all_scenes():
        labels = caption_labels(scene.caption)
        assert {head: names[head][i] for head, i in labels.items()} == vars(scene)
    assert names["motion"][-1] == NO_MOTION


@pytest.mark.parametrize(
    "caption", ["", "a red circle", "a pink circle turns", "a red circle turns ", "A red circle turns"]
)
def test_other_captions_are_refused(caption: str) -> None:
    with pytest.raises(ValueError, match="not a caption"):
        parse_caption(caption)


def test_held_out_captions_are_balanced_and_apart() -> None:
    held_out = [parse_caption(caption) for caption in held_out_captions()]
    assert len(set(held_out)) == 24
    assert not {scene.caption for scene in held_out} & set(training_captions())
    for motion in MOTIONS:
        assert sum(scene.motion == motion for scene in held_out) == 2
    for colour in COLOURS:
        for shape in SHAPES:
            assert sum((scene.colour, scene.shape) == (colour, shape) for scene in held_out) == 2


def test_a_clip_depends_on_its_own_caption_and_seed_only() -> None:
    captions = all_captions()[::7]
    together = render(captions, range(len(captions)), size=32)
    assert together.shape == (len(captions), 8, 32, 32, 3) and together.dtype == np.uint8
    order = np.random.default_rng(0).permutation(len(captions))
    shuffled = render([captions[i] for i in order], order.tolist(), size=32)
    assert np.array_equal(shuffled, together[order])
    alone = render([captions[3]], [3], size=32)
    assert np.array_equal(alone[0], together[3])
    assert not np.array_equal(render([captions[3]], [4], size=32), alone)


@pytest.mark.parametrize("frames", [8, 11, 16])
@pytest.mark.parametrize("size", [32, 64])
def test_more_frames_sample_the_same_motion_finer(frames: int, size: int) -> None:
    captions = [Scene("red", "circle", motion).caption for motion in MOTIONS]
    seeds = list(range(len(captions)))
    clips = render(captions, seeds, frames=frames, size=size)
    assert clips.shape == (len(captions), frames, size, size, 3)
    shortest = render(captions, seeds, frames=2, size=size)
    assert np.array_equal(clips[:, [0, -1]], shortest)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", "x", -1), ("right", "x", 1), ("up", "y", -1), ("down", "y", 1)]
)
def test_sprites_go_where_captions_say(motion: str, axis: str, sign: int) -> None:
    captions = [scene.caption for scene in all_scenes() if scene.motion == motion and scene.colour != "blue"]
    steps = sign * np.diff(centroid(render(captions, range(len(captions))), axis), axis=1)
    assert (steps > 0.01).all()


def test_the_way_it_moves_is_visible_in_one_frame() -> None:
    left, right = (render([Scene("red", "circle", m).caption] * 4, range(4)).astype(float) for m in ("left", "right"))
    # The trail: dim red, on the side that the sprite came from.
    for clips, sign in ((left, 1), (right, -1)):
        red = clips[:, 4, ..., 0] / 255
        columns = np.arange(red.shape[-1])
        dim, bright = (red > 0.1) & (red < 0.6), red > 0.8
        offset = [np.mean(np.where(d)[1]) - np.mean(np.where(b)[1]) for d, b in zip(dim, bright, strict=True)]
        assert len(columns) == 64 and (sign * np.asarray(offset) > 5).all()


def test_sizes_light_and_partners() -> None:
    def area(motion: str) -> np.ndarray:
        clips = render([Scene("green", shape, motion).caption for shape in SHAPES] * 2, range(6))
        green = (clips[..., 1] > 180) & (clips[..., 0] < 60)
        return green.sum((2, 3))

    assert (np.diff(area("grow"), axis=1) > 0).all()
    assert (np.diff(area("shrink"), axis=1) < 0).all()
    corner = {m: render([Scene("red", "square", m).caption], [1])[0, :, 0, 0].sum(-1).astype(int) for m in MOTIONS}
    assert (np.diff(corner["fade"]) < 0).all() and (np.diff(corner["dawn"]) > 0).all()
    x = render(["two red squares meet"], [0])[0, ..., 0] > 200
    width = [np.ptp(np.where(frame.any(0))[0]) for frame in x]
    assert (np.diff(width) < 0).all()


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="1 captions but 2 seeds"):
        render(["a red circle turns"], [0, 1])
    with pytest.raises(ValueError, match="2 frames"):
        render(["a red circle turns"], [0], frames=1)


def test_every_word_is_one_token() -> None:
    tokenizer = new_tokenizer(all_captions(), Recipe())
    for caption in all_captions():
        assert len(tokenizer(caption).input_ids) == len(caption.split()) + 2
    vocabulary, merges = byte_pairs(["left", "lefts"])
    assert {"left</w>", "lefts</w>"} <= set(vocabulary) and len(set(merges)) == len(merges)


@pytest.mark.parametrize(("frames", "size"), [(8, 64), (16, 64), (8, 32)])
def test_reader_shapes_and_round_trip(tmp_path, frames: int, size: int) -> None:
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        reader = SpriteReader(label_names(), width=8, features=12).eval()
    clips = torch.rand(3, frames, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    features, logits = reader(clips)
    assert features.shape == (3, 12)
    assert {head: tuple(v.shape) for head, v in logits.items()} == {
        "colour": (3, 4),
        "shape": (3, 3),
        "motion": (3, 13),
    }
    reader.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["labels"] == label_names()
    again, _ = SpriteReader.from_folder(tmp_path)(clips)
    assert torch.equal(again, features)
