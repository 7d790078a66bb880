"""Clips that the teacher draws from given noise, as the latents where its sampling ends: drawn once, then kept."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leanmotion.distillation.schedule import noise_of_clip
from leanmotion.distillation.setup import Setup
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.tables import read_table, write_table

_REMEMBERED_BYTES = 2**29


class Drawn(NamedTuple):
    """What a network needs to draw some clips, and what the teacher makes of it.

    `noise` and `latents` are on the networks' device; `states` has one row a frame, those of the negative prompt first
    where guidance asks for them; `keys` seed the noise of schedulers that add some.
    """

    noise: Float[Tensor, "clips channels frames height width"]
    states: Float[Tensor, "rows tokens dim"]
    keys: list[str]
    latents: Float[Tensor, "clips channels frames height width"]


class TeacherClips:
    """End points of the teacher's sampling: captions of the training clips, each with noise of its own.

    Noise is seeded by a name that nothing else bears, the settings' seed and the position. As many clips are drawn
    together as the sampler's `chunk` says, whatever processes draw them: an end point has the same bits for all.

    Args:
        setup: teacher, sampler, clips, encoder, processes.
        positions: in the sequence of the training clips' captions; one end point each.
        folder: where parts are kept, of this teacher, sampler, clips, seed and precision alone; all
            trainings that have these in common share it, and a part that was drawn is never lost. None: in memory.
        drawn: told how many clips each newly drawn part has.
    """

    def __init__(
        self, setup: Setup, positions: range, folder: Path | None, drawn: Callable[[int], None] = lambda clips: None
    ) -> None:
        self.setup, self.positions, self.folder, self.drawn = setup, positions, folder, drawn
        self.mean_square = 0.0
        self._parts: OrderedDict[range, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def size(self) -> int:
        """How many clips are drawn together.

        More than a micro-batch, as a rule: no gradient needs their memory, and in small calls a CPU waits for Python.
        """
        settings = self.setup.settings
        return self.setup.drawing.chunk or settings.batch // settings.accumulate

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of a clip's latents: channels, frames, height, width."""
        return tuple(self.setup.clips.batch([0])[0].shape[1:])

    def parts(self) -> Iterator[range]:
        """Positions that are drawn together, in order."""
        for start in range(self.positions.start, self.positions.stop, self.size):
            yield range(start, min(start + self.size, self.positions.stop))

    def prepare(self) -> None:
        """Draw what is missing, each process its share, and take the mean square of all of them.

        Raises:
            LeanmotionError: a clip of the teacher is not finite, or cannot be kept.
        """
        ranks = self.setup.ranks
        if self.folder is not None:
            missing = {f"{part.start}-{part.stop}": part for part in self.parts() if self._read(part) is None}
            for name in sorted(ranks.divide(list(missing))):
                write_table(self._path(missing[name]), "latents", [_row(self._draw(missing[name]))])
            ranks.wait()
        # Clip by clip: however they are divided into parts, the sum has the same bits.
        clips = (clip for part in self.parts() for clip in self._part(part))
        total = sum(float(clip.square().sum(dtype=torch.float64)) for clip in clips)
        self.mean_square = total / (len(self) * math.prod(self.shape))

    def batch(self, positions: Sequence[int]) -> Drawn:
        """These end points, after `prepare`."""
        places = [(position - self.positions.start) // self.size for position in positions]
        parts = list(self.parts())
        found = [self._part(parts[at])[p - parts[at].start] for at, p in zip(places, positions, strict=True)]
        return Drawn(*self._asked(positions), torch.stack(found).to(self.setup.device))

    def captions(self, positions: Sequence[int]) -> list[str]:
        """What these clips show."""
        clips, seed = self.setup.clips, self.setup.settings.seed
        return clips.batch([clips.order(seed, position, 1)[0] for position in positions])[1]

    def _asked(self, positions: Sequence[int]) -> tuple[Tensor, Tensor, list[str]]:
        """Noise, states and keys."""
        setup, seed = self.setup, self.setup.settings.seed
        noise = torch.stack([noise_of_clip(seed, position, self.shape) for position in positions])
        states = setup.drawing.states(setup.encode, self.captions(positions), self.shape[1], setup.device)
        return noise.to(setup.device), states, [f"clip|{seed}|{position}" for position in positions]

    @torch.no_grad()
    def _draw(self, part: range) -> Tensor:
        setup = self.setup
        noise, states, keys = self._asked(part)
        with setup.autocast():
            network = setup.lanes.drawing(setup.teacher, setup.autocast)
            latents = setup.drawing.drawn(network, noise, states, keys).float().cpu()
        if not latents.isfinite().all():
            raise LeanmotionError(
                "the teacher's clips are not finite: check the weights, or set distillation.precision to fp32"
            )
        self.drawn(len(part))
        return latents

    def _part(self, part: range) -> Tensor:
        """A part's latents: remembered, kept, or, where nothing is kept, drawn."""
        if part in self._parts:
            self._parts.move_to_end(part)
            return self._parts[part]
        latents = self._read(part)
        if latents is None:
            if self.folder is not None:
                raise LeanmotionError(f"{self._path(part)}: gone while it was in use: start again")
            latents = self._draw(part)
        self._parts[part] = latents
        while self.folder is not None and len(self._parts) * latents.nbytes > _REMEMBERED_BYTES:
            self._parts.popitem(last=False)
        return latents

    def _read(self, part: range) -> Tensor | None:
        """A part that is kept and whole; a damaged one is drawn again."""
        if self.folder is None or not self._path(part).is_file():
            return None
        try:
            row = read_table(self._path(part), "latents").to_pylist()[0]
        except LeanmotionError:
            self._path(part).unlink(missing_ok=True)
            return None
        return torch.from_numpy(np.frombuffer(row["values"], "<f4").copy()).view(row["shape"])

    def _path(self, part: range) -> Path:
        assert self.folder is not None
        return self.folder / f"{part.start}-{part.stop}.parquet"


def _row(latents: Tensor) -> dict[str, object]:
    return {"shape": list(latents.shape), "values": latents.numpy().astype("<f4").tobytes()}
