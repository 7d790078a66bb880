"""Sharpness and movement: closed forms, which way blur and noise go, and shares of the original's with intervals."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from leanmotion.errors import LeanmotionError
from leanmotion.evaluation.looks import Looks, movement, share, sharpness
from leanmotion.features.motion import motion_descriptor


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 3, 16, 12, 3), dtype=np.uint8)


def test_a_chequered_frame_has_the_laplacian_of_its_steps() -> None:
    """Cells of 0 and 255: every Laplacian is four times the step, up or down in turn, so that their variance is 16."""
    board = np.indices((10, 10)).sum(axis=0) % 2 * np.uint8(255)
    clips = np.repeat(board[None, None, :, :, None], 3, axis=-1).astype(np.uint8)
    assert sharpness(clips) == pytest.approx([16.0])
    plain = np.full((2, 3, 8, 8, 3), 77, np.uint8)
    ramp = np.broadcast_to(np.arange(0, 80, 10, dtype=np.uint8)[None, None, :, None, None], plain.shape).copy()
    for flat in (plain, ramp):
        # A ramp's second differences are 0, but for rounding of its grey levels, of size 1.
        assert sharpness(flat) == pytest.approx([0.0, 0.0], abs=1e-30)


def test_blur_lowers_sharpness_and_noise_raises_it() -> None:
    clips = noise()
    blurred = gaussian_filter(clips.astype(float), (0, 0, 1, 1, 0)).astype(np.uint8)
    louder = np.where(np.arange(12)[:, None] < 6, clips, blurred)
    assert (sharpness(blurred) < sharpness(louder)).all() and (sharpness(louder) < sharpness(clips)).all()


def test_movement_is_the_mean_of_the_descriptor() -> None:
    """Of frames whose cells are all of one size, where a mean of means is the mean."""
    clips = np.repeat(noise(), 2, axis=3)[:, :, :, :16]
    # The descriptor is kept in float32.
    assert movement(clips) == pytest.approx(motion_descriptor(clips).mean(axis=1), rel=1e-5)
    assert movement(clips[:, :1].repeat(4, axis=1)).tolist() == [0.0, 0.0]
    step = np.zeros((1, 2, 4, 4, 3), np.uint8)
    step[0, 1] = 51
    assert movement(step) == pytest.approx([0.2])


def test_what_has_no_neighbours_is_refused() -> None:
    with pytest.raises(LeanmotionError, match="3 pixels a side"):
        sharpness(np.zeros((1, 2, 2, 8, 3), np.uint8))
    with pytest.raises(LeanmotionError, match=r"sampling\.frames is 1"):
        movement(np.zeros((1, 1, 8, 8, 3), np.uint8))


def clips(seed: int, scale: float = 1.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 200, (6, 3, 8, 8, 3))
    return (drawn * scale).astype(np.uint8)


def test_the_original_is_one_of_itself_without_doubt() -> None:
    looks = Looks(clips(0), 0.9)
    assert set(looks.own.values()) == {1.0} and looks.beside(clips(0)) == looks.own
    assert set(looks.own) == {f"{name}{end}" for name in ("sharpness", "movement") for end in ("", "_low", "_high")}


def test_half_the_contrast_is_half_the_movement_and_a_quarter_of_the_sharpness() -> None:
    """A variance is of second order. Grey levels are whole: of about 100 each, known to half of one."""
    found = Looks(clips(0), 0.9).beside(clips(0, 0.5))
    assert found["movement"] == pytest.approx(0.5, rel=0.02) and found["sharpness"] == pytest.approx(0.25, rel=0.02)


def test_frozen_or_plain_originals_have_no_share() -> None:
    frozen = clips(0)[:, :1].repeat(3, axis=1)
    found = Looks(frozen, 0.9).beside(clips(1))
    assert found["movement"] is None and found["movement_low"] is None and found["sharpness"] is not None
    assert set(Looks(np.zeros_like(frozen), 0.9).beside(frozen).values()) == {None}


def test_the_interval_holds_the_share_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = []
    for _ in range(400):
        whole = generator.uniform(1, 3, 48)
        low, _, high = share(whole, 0.8 * whole + generator.normal(0, 0.5, 48), 0.9)
        assert low is not None and high is not None
        held.append(low <= 0.8 <= high)
    # Of 400 trials a share of 90% has a deviation of 1.5%.
    assert 0.855 < np.mean(held) < 0.945
