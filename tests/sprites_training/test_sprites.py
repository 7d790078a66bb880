"""The sprites world: captions, the renderer, and the reader."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from committed import weights
from diffusers import UNetMotionModel

from leanmotion.features.extractors import SpritesExtractor, load_extractor
from leanmotion.features.sprites_reader import SpriteReader
from leanmotion.model.removal import without_units
from leanmotion.model.units import block_ids
from leanmotion.sprites.renderer import render
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
    partial_caption,
    training_captions,
)
from leanmotion.sprites_training.autoencoder import (
    decode,
    encode,
    low_precision,
    new_autoencoder,
    rendered_clips,
    standardise,
    train_autoencoder,
)
from leanmotion.sprites_training.joint import closed_at_random, draws_pictures, not_yet_open, weakened
from leanmotion.sprites_training.loop import rate_scale, train
from leanmotion.sprites_training.networks import new_adapter, new_unet, plain_unet
from leanmotion.sprites_training.proof import shares_read, with_intervals
from leanmotion.sprites_training.reader_training import train_reader
from leanmotion.sprites_training.recipe import Recipe
from leanmotion.sprites_training.vocabulary import byte_pairs, new_tokenizer

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parents[2]


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
    assert len(set(captions)) == len(COLOURS) * len(SHAPES) * len(MOTIONS) == 96
    assert [parse_caption(caption) for caption in captions] == all_scenes()
    names = label_names()
    for scene in all_scenes():
        labels = caption_labels(scene.caption)
        assert {head: names[head][i] for head, i in labels.items()} == vars(scene)
    assert names["motion"][-1] == NO_MOTION


@pytest.mark.parametrize("caption", ["", "a red ring", "a pink ring falls", "a red ring falls ", "A red ring falls"])
def test_other_captions_are_refused(caption: str) -> None:
    with pytest.raises(ValueError, match="not a caption"):
        parse_caption(caption)


def test_held_out_captions_are_balanced_and_apart() -> None:
    held_out = [parse_caption(caption) for caption in held_out_captions()]
    assert len(set(held_out)) == 16
    assert not {scene.caption for scene in held_out} & set(training_captions())
    for motion in MOTIONS:
        assert sum(scene.motion == motion for scene in held_out) == 2
    for colour in COLOURS:
        for shape in SHAPES:
            assert sum((scene.colour, scene.shape) == (colour, shape) for scene in held_out) <= 2


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
    captions = [Scene("red", "ring", motion).caption for motion in MOTIONS]
    seeds = list(range(len(captions)))
    clips = render(captions, seeds, frames=frames, size=size)
    assert clips.shape == (len(captions), frames, size, size, 3)
    shortest = render(captions, seeds, frames=2, size=size)
    assert np.array_equal(clips[:, [0, -1]], shortest)


@pytest.mark.parametrize(("motion", "axis"), [("slide", "x"), ("fall", "y")])
def test_sprites_go_where_captions_say(motion: str, axis: str) -> None:
    captions = [scene.caption for scene in all_scenes() if scene.motion == motion and scene.colour != "blue"]
    along = np.diff(centroid(render(captions, range(len(captions))), axis), axis=1)
    across = np.diff(centroid(render(captions, range(len(captions))), "y" if axis == "x" else "x"), axis=1)
    # In picture widths; across, antialiasing moves a centroid by less than half a pixel of 48.
    assert (along > 0.03).all() and (np.abs(across) < 0.01).all()


def test_paths_that_need_more_than_neighbouring_frames() -> None:
    def path(motion: str, axis: str) -> np.ndarray:
        return centroid(render([Scene("red", shape, motion).caption for shape in SHAPES] * 3, range(9)), axis)

    # 7/8 of a turn in 7 steps: the mean of places an eighth of a turn apart is the middle, and all are as far from it.
    x, y = path("orbit", "x"), path("orbit", "y")
    radius = np.hypot(x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True))
    assert (np.abs(radius - 0.26) < 0.03).all()
    assert (x[:, 2] > x[:, 6] + 0.4).all() and (y[:, 4] > y[:, 0] + 0.4).all()
    # Down, up and down again. The floor is darker than what counts as bright.
    height = np.diff(path("bounce", "y"), axis=1)
    assert (height[:, 0] > 0).all() and (height[:, 3] < 0).all() and (height[:, -1] > 0).all()


def test_a_camera_pans_past_a_thing_that_stays() -> None:
    clips = render(["a red square the camera pans past"] * 4, range(4)).astype(int)
    posts = (clips.min(-1) > 60)[:, :, 0]  # the top row: 48 columns
    for clip in posts:
        # From frame to frame the posts are where they were, 0.65 / 7 picture widths or 4.5 pixels further to the left.
        shifts = [max(range(12), key=lambda s: (np.roll(a, -s) & b)[:36].sum()) for a, b in pairwise(clip)]
        assert set(shifts) <= {4, 5}
    square = (clips[..., 0] > 200) & (clips[..., 2] < 100)
    assert (square == square[:, :1]).mean() > 0.99


def test_sizes_light_and_partners() -> None:
    def area(motion: str) -> np.ndarray:
        clips = render([Scene("green", shape, motion).caption for shape in SHAPES] * 2, range(6))
        green = (clips[..., 1] > 180) & (clips[..., 0] < 60)
        return green.sum((2, 3))

    assert (np.diff(area("grow"), axis=1) > 0).all()
    corner = {m: render([Scene("red", "square", m).caption], [1])[0, :, 0, 0].sum(-1).astype(int) for m in MOTIONS}
    assert (np.diff(corner["fade"]) < 0).all() and (np.diff(corner["grow"]) == 0).all()
    x = render(["two red squares meet"], [0])[0, ..., 0] > 200
    width = [np.ptp(np.where(frame.any(0))[0]) for frame in x]
    assert (np.diff(width) < 0).all()


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="1 captions but 2 seeds"):
        render(["a red ring falls"], [0, 1])
    with pytest.raises(ValueError, match="2 frames"):
        render(["a red ring falls"], [0], frames=1)


def test_every_word_is_one_token() -> None:
    tokenizer = new_tokenizer(all_captions(), Recipe())
    for caption in all_captions():
        assert len(tokenizer(caption).input_ids) == len(caption.split()) + 2
    vocabulary, merges = byte_pairs(["left", "lefts"])
    assert {"left</w>", "lefts</w>"} <= set(vocabulary) and len(set(merges)) == len(merges)


@pytest.mark.parametrize(("frames", "size"), [(8, 48), (16, 64), (8, 32)])
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
        "motion": (3, 9),
    }
    reader.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["labels"] == label_names()
    again, _ = SpriteReader.from_folder(tmp_path)(clips)
    assert torch.equal(again, features)


def test_partial_captions_say_what_is_kept() -> None:
    caption = "two red squares meet"
    assert partial_caption(caption, True, True, True) == caption
    assert partial_caption(caption, False, True, True) == "two squares meet"
    assert partial_caption(caption, True, False, True) == "two red sprites meet"
    assert partial_caption(caption, True, True, False) == "a red square"
    assert partial_caption(caption, False, False, False) == ""


def test_weakened_captions_are_a_share_and_belong_to_the_step() -> None:
    recipe = Recipe()
    captions = training_captions() * 20
    first, again = (weakened(captions, recipe, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first == again
    whole = np.mean([a == b for a, b in zip(first, captions, strict=True)])
    expected = (1 - recipe.caption_dropout) * (1 - recipe.word_dropout) ** 3
    # A share of 2,400 draws: five standard deviations.
    assert abs(whole - expected) < 5 * (expected * (1 - expected) / len(captions)) ** 0.5


def test_pictures_are_drawn_without_motion_modules() -> None:
    small = {"unet_channels": (8, 8, 8, 8), "unet_groups": 4, "unet_heads": 1, "motion_heads": 1}
    recipe = replace(Recipe(), image_steps=12, image_every=4, **small)
    unet = UNetMotionModel.from_unet2d(new_unet(recipe), new_adapter(recipe))
    assert isinstance(unet, UNetMotionModel)
    steps = range(recipe.image_steps - 1, recipe.image_steps + 4 * recipe.image_every)
    assert [draws_pictures(step, recipe) for step in steps] == [True, *[True, *[False] * (recipe.image_every - 1)] * 4]

    # Blocks speak from the first step; without them, the video network is the picture network.
    blocks = block_ids(unet)
    x, t, h = torch.randn(1, 4, 2, 12, 12), torch.tensor(5), torch.randn(2, 3, recipe.text_width)
    with torch.no_grad():
        whole = unet(x, t, h).sample
        with without_units(unet, blocks):
            without = unet(x, t, h).sample
        plain = plain_unet(unet, recipe)(x.transpose(1, 2)[0], t, h).sample
    assert not torch.allclose(whole, without, atol=1e-2)
    # float32 sums in another order: 1e-5 of values of order 1.
    assert torch.allclose(plain, without.transpose(1, 2)[0], atol=1e-5)
    assert block_ids(unet) == blocks and len(blocks) == 21


LEVELS = {"down_0_0": 0, "down_1_1": 1, "down_2_0": 2, "down_3_0": 3, "mid_0": 3, "up_1_0": 2, "up_2_1": 1, "up_3_2": 0}


def test_blocks_of_small_maps_come_first() -> None:
    recipe = replace(Recipe(), joint_steps=100, motion_from=(0.5, 0.2, 0.0, 0.0))
    closed = [set(not_yet_open(step, LEVELS, recipe)) for step in range(100)]
    assert closed[0] == closed[19] == {"down_0_0", "down_1_1", "up_2_1", "up_3_2"}
    assert closed[20] == closed[49] == {"down_0_0", "up_3_2"}
    assert closed[50] == closed[99] == set()


def test_large_maps_are_closed_on_a_share_of_the_steps() -> None:
    recipe = replace(Recipe(), deepen_closed=(0.4, 0.2, 0.3, 0.1))
    closed = [tuple(closed_at_random(step, LEVELS, recipe)) for step in range(4000)]
    assert closed[:50] == [tuple(closed_at_random(step, LEVELS, recipe)) for step in range(50)]
    for shut, share in enumerate(recipe.deepen_closed):
        found = np.mean([blocks == tuple(b for b, level in LEVELS.items() if level < shut) for blocks in closed])
        # A share of 4,000 draws: five standard deviations.
        assert abs(found - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert sum(recipe.deepen_closed) == pytest.approx(1) == sum(Recipe().deepen_closed)


def test_a_step_is_the_mean_of_its_parts(tmp_path) -> None:
    seen: list[float] = []

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        seen.append(float(torch.rand((), generator=generator)))
        return model.weight.sum() * seen[-1]

    model = torch.nn.Linear(1, 1, bias=False)
    train("parts", model, 0.0, loss, steps=3, recipe=replace(Recipe(), parts=2), scratch=tmp_path)
    assert len(set(seen)) == 6
    assert model.weight.grad is not None
    assert float(model.weight.grad) == pytest.approx((seen[4] + seen[5]) / 2, rel=1e-6)
    # A run that is through is not repeated; a longer one goes on with the draws of a run that never stopped.
    train("parts", model, 0.0, loss, steps=4, recipe=replace(Recipe(), parts=2), scratch=tmp_path)
    assert len(seen) == 8 and len(set(seen)) == 8


@pytest.mark.parametrize("there", [True, False, None], ids=["matrix units", "none", "another architecture"])
def test_low_precision_is_for_processors_with_units_for_it(monkeypatch: pytest.MonkeyPatch, there: bool | None) -> None:
    """A processor of another architecture has not even a name for them."""
    found = {"avx2": True} if there is None else {"avx2": True, "amx_bf16": there}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    with low_precision():
        assert torch.is_autocast_enabled("cpu") is bool(there)
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if there else torch.float32)


@pytest.fixture(params=["float32", "bfloat16"])
def rounding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Either branch of `low_precision`, on any processor: the rounding of a number in it, relative to the number.

    float32 has 24 bits; a product of few terms rounds once a term and sum, some twenty times. bfloat16 has 8, and is
    rounded to once a weight and once a result: sums inside are float32. A hundredth more, for errors of errors.
    """
    low = request.param == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": low})
    return 1.01 * 2**-8 if low else 20 * 2**-24


class Standardised:
    """An autoencoder before and after `standardise`, with all that its two 1 x 1 convolutions are given and give."""

    def __init__(self) -> None:
        recipe = replace(Recipe(), vae_channels=(8, 8, 8))
        with torch.random.fork_rng():
            torch.random.manual_seed(0)
            self.vae = new_autoencoder(recipe).eval()
        self.vae.register_to_config(scaling_factor=1.0)
        clips = torch.from_numpy(render(all_captions()[::9], range(11), size=48)).permute(0, 1, 4, 2, 3)
        self.clips, self.seen = clips, []
        for layer in (self.vae.quant_conv, self.vae.post_quant_conv):
            assert layer is not None
            layer.register_forward_hook(lambda layer, args, out: self.seen.append(self._bounded(layer, args[0], out)))
        self.before, self.pictures = self._there_and_back()
        self.mean, self.std = (getattr(self.before, name)((0, 1, 3, 4)) for name in ("mean", "std"))
        standardise(self.vae, self.mean, self.std)

    def check(self, rounding: float) -> None:
        """Every latent is the one before, shifted and scaled, and the decoder is given the same again.

        Each convolution's result is as far from the exact one as the bound says at most, before as after. So a latent
        is off by both bounds together, the first of them divided by the spread; a channel's mean by the mean of that,
        its spread by the root mean square; and what the decoder is given by its own two bounds, and by what the latents
        are off, times weights.
        """
        first = self.seen[:2]
        self.seen = []
        after, pictures = self._there_and_back()
        (_, into), (given, out) = ((g, rounding * bound) for g, bound in self.seen)
        (_, into_before), (given_before, out_before) = ((g, rounding * bound) for g, bound in first)
        std = self.std.view(-1, 1, 1)
        off = (after - (self.before - self.mean.view(-1, 1, 1)) / std).flatten(0, 1)
        allowed = into[:, :4] + into_before[:, :4] / std
        assert (off.abs() <= allowed).all(), f"off by {off.abs().max():.3g}"
        assert (after.mean((0, 1, 3, 4)).abs() <= allowed.mean((0, 2, 3))).all()
        assert ((after.std((0, 1, 3, 4)) - 1).abs() <= allowed.pow(2).mean((0, 2, 3)).sqrt()).all()
        layer = self.vae.post_quant_conv
        assert layer is not None
        carried = torch.nn.functional.conv2d(off.abs(), layer.weight.abs())
        assert ((given - given_before).abs() <= out + out_before + carried).all()
        if rounding < 1e-5:
            # float32 over 1e5 values, each divided by a spread that can be a tenth: 1e-4.
            assert torch.allclose(after.mean((0, 1, 3, 4)), torch.zeros(4), atol=1e-4)
            assert torch.allclose(after.std((0, 1, 3, 4)), torch.ones(4), atol=1e-4)
            assert torch.allclose(pictures, self.pictures, atol=1e-4)

    def _there_and_back(self) -> tuple[torch.Tensor, torch.Tensor]:
        latents = encode(self.vae, self.clips)
        return latents, decode(self.vae, latents)

    @torch.no_grad()
    def _bounded(self, layer: Any, given: torch.Tensor, out: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What a convolution gives, and the sum of the sizes of all that is rounded on the way there."""
        with torch.autocast("cpu", enabled=False):
            sizes = torch.nn.functional.conv2d(given.float().abs(), layer.weight.abs(), layer.bias.abs())
        return out.float(), sizes + out.float().abs()


def test_standard_latents_reconstruct_as_before(rounding: float) -> None:
    Standardised().check(rounding)


@pytest.mark.parametrize("wrong", ["shift in", "scale in", "shift out", "scale out"])
def test_latents_shifted_or_scaled_wrongly_are_found(rounding: float, wrong: str) -> None:
    """By a tenth of a channel's spread, one channel alone."""
    found = Standardised()
    layer = found.vae.quant_conv if wrong.endswith("in") else found.vae.post_quant_conv
    assert layer is not None and layer.bias is not None
    with torch.no_grad():
        if wrong.startswith("shift"):
            layer.bias[2] += 0.1
        else:
            layer.weight[2] *= 1.1
    with pytest.raises(AssertionError):
        found.check(rounding)


def test_autoencoder_and_reader_train_in_either_precision(rounding: float, tmp_path: Path) -> None:
    """Low precision is that of products alone: weights stay float32, finite, and move."""
    recipe = replace(
        Recipe(), vae_channels=(8, 8, 8), vae_steps=2, vae_batch=2, vae_clips_per_caption=1, reader_steps=2,
        reader_batch=4, reader_width=8, reader_features=12, reader_clips_per_caption=2, size=32,
    )  # fmt: skip
    vae = train_autoencoder(training_captions()[:4], recipe, tmp_path)
    reader = train_reader(vae, recipe, tmp_path)
    for model in (vae, reader):
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    # The scratch folder holds the same training, finished; with none of it, the weights that it starts from.
    start = train_reader(vae, replace(recipe, reader_steps=0), tmp_path / "new")
    assert not torch.equal(*(torch.nn.utils.parameters_to_vector(m.parameters()) for m in (reader, start)))
    if rounding < 1e-5:  # as above
        latents = encode(vae, rendered_clips(training_captions()[:4], 1, 0, recipe)[0])
        assert torch.allclose(latents.mean((0, 1, 3, 4)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(latents.std((0, 1, 3, 4)), torch.ones(4), atol=1e-4)


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe()
    scale = [rate_scale(step, 1000, recipe) for step in range(1000)]
    assert scale[0] == 1 / recipe.warmup and scale[-1] == pytest.approx(1 / (recipe.decay_share * 1000))
    assert scale[recipe.warmup - 1] == 1 == scale[int(1000 * (1 - recipe.decay_share))]
    # While it is level, a longer run has the same rates: a run may be made longer on its way.
    level = range(recipe.warmup, int(1000 * (1 - recipe.decay_share)))
    assert all(rate_scale(step, 2000, recipe) == scale[step] for step in level)


def test_shares_come_with_wilsons_interval() -> None:
    found = with_intervals("original", {"colour": 0.5, "motion": 1.0}, 100)
    # Wilson (1927), z = 1.6449 at 90%: centre 1/2, half width z / (2 sqrt(n + z^2)) = 0.08115; at 1: n / (n + z^2).
    # Written to four digits: half a unit of the last one, and the rounding of 0.08115.
    assert found["original_colour_low"] == pytest.approx(0.41885, abs=6e-5)
    assert found["original_colour_high"] == pytest.approx(0.58115, abs=6e-5)
    assert found["original_motion_low"] == pytest.approx(100 / (100 + 1.6449**2), abs=1e-4)
    assert (found["original_motion"], found["original_motion_high"]) == (1.0, 1.0)


def test_the_committed_reader_reads_what_is_rendered() -> None:
    reader = load_extractor("sprites", path=weights("data/extractor"))
    assert isinstance(reader, SpritesExtractor)
    captions = held_out_captions()
    clips = render(captions, range(len(captions)))
    assert shares_read(reader, clips, captions) == {"colour": 1.0, "shape": 1.0, "motion": 1.0}
    # Frames in a random order show no motion of the world.
    order = np.random.default_rng(0).permutation(clips.shape[1])
    assert shares_read(reader, clips[:, order], captions)["motion"] < 0.5
