"""What a whole run will draw, store and take, from the settings and one measured chunk."""

import time
from dataclasses import dataclass
from typing import Any

from leanmotion.pipeline.platforms import peak_memory
from leanmotion.pipeline.settings import Settings

FFV1_SHARE = (0.2, 0.5)
"""Size of lossless FFV1 against raw frames; the sprites take 0.25 (87.4 of 353.9 MB in a whole run of the default)."""

COPIES = 2
"""The chunk store holds every clip once, DVC's cache the tables made of them."""


@dataclass(frozen=True)
class Speed:
    """One measured chunk. `clip_seconds`: to draw one clip; `peak_bytes`: of the process, or of the GPU."""

    clip_seconds: float
    peak_bytes: int
    device: str


def clips_to_draw(settings: Settings) -> dict[str, int]:
    """Stage -> clips that it draws when nothing is cached; probes that repeat a single removal are counted again."""
    splits = settings.split_counts
    shown = splits["select"] + splits["report"]
    probes = sum(len(p.counts) * (1 + p.random) + p.single for p in settings.probe.sets.values())
    counts = {
        "generate": 2 * sum(splits.values()),
        "ablate": len(settings.teacher.blocks) * splits["rank"],
        "probe": probes * (settings.probe.prompts or splits["rank"]),
        # Each round twice: pruned only, and distilled.
        "render": 2 * len(settings.rounds) * shown,
        # The chosen student's, and the original's under both sets of seeds; some of that under the other norm.
        "confirm": 3 * (settings.prompts.confirm + settings.prompts.confirm_other_norm) * settings.prompts.select,
    }
    return counts | ({"clips": settings.clips.count} if settings.clips.source == "teacher" else {})


def video_bytes(settings: Settings) -> tuple[int, int, int]:
    """Raw bytes of all videos, and the least and most that store and cache will take of them."""
    s = settings.sampling
    stored = sum(n for stage, n in clips_to_draw(settings).items() if stage != "clips")
    raw = stored * s.frames * s.height * s.width * 3
    low, high = FFV1_SHARE
    return raw, int(raw * low * COPIES), int(raw * high * COPIES)


def measure_speed(settings: Settings, pipeline: Any = None) -> Speed:
    """Draw one chunk with the teacher, after a first one that is not timed.

    Args:
        settings: all settings.
        pipeline: the teacher, where it is loaded already.

    Raises:
        LeanmotionError: weights that are missing, damaged or do not fit.
    """
    import torch

    from leanmotion.model.requests import Request
    from leanmotion.model.sampler import Sampler
    from leanmotion.model.teacher import load_pipeline
    from leanmotion.pipeline.processes import device
    from leanmotion.prompts.splits import load_prompts

    torch.set_num_threads(settings.sampling.threads)
    where = device()
    sampler = Sampler(pipeline or load_pipeline(settings.teacher), settings.sampling, where)
    prompts = load_prompts(settings.prompts.source)
    chunk = [Request(prompts[i % len(prompts)], settings.prompts.negative, i) for i in range(settings.sampling.chunk)]
    sampler(chunk[:1])
    start = time.perf_counter()
    sampler(chunk)
    return Speed((time.perf_counter() - start) / len(chunk), _peak_bytes(torch, where), where)


def seconds(settings: Settings, speed: Speed) -> dict[str, float]:
    """Stage -> seconds on this device, of the stages that draw or train.

    A step of single steps counts as four UNet calls a clip: the teacher's, and three of the student's size for forward
    and backward (Kaplan et al. 2020, section 2.1: backward costs twice forward). One of end points draws the clip, and
    goes back through its last steps. Students are lighter: an upper bound, as a total of the run is for each branch.
    """
    found = {stage: n * speed.clip_seconds for stage, n in clips_to_draw(settings).items()}
    asked, blocks, steps = settings.influence, len(settings.teacher.blocks), settings.sampling.steps
    # Four units a block, half a call each: what lies before a block is not computed again.
    parts = min(asked.steps, steps) * (1 + 4 * blocks / 2) / steps
    found["influence"] = asked.prompts * (1 + parts) * speed.clip_seconds
    return found | {"distill": training_clips(settings) * speed.clip_seconds}


def training_clips(settings: Settings) -> float:
    """All training, in drawings of a clip that take as many calls of the UNet; see `seconds`."""
    how, steps = settings.distillation, settings.sampling.steps
    shown = 2 if settings.sampling.guidance > 1 else 1
    budgets = training_steps(settings)
    if how.objective == "endpoint":
        clips = sum(budgets) * how.batch * (1 + 2 * how.last_steps / steps) + (
            how.endpoint_clips if any(budgets) else 0
        )
    else:
        # Trajectories under guidance show each clip with both prompts.
        clips = 4 * sum(budgets) * how.batch * (1 if how.inputs == "clips" else shown) / (steps * shown)
    # Validation draws before and after, the teacher once for all rounds.
    return clips + (how.validation * (2 * len(budgets) + 1) if budgets else 0)


def training_steps(settings: Settings) -> list[int]:
    """Steps of each round that has any to train; of one whose harm decides, what is left of the total at most."""
    behind, found = {"base": 0}, []
    for name, this in settings.rounds.items():
        spent, steps = behind[this.from_], settings.steps_of(name)
        if this.size == len(settings.teacher.blocks):
            steps = 0  # no block is left
        elif steps is None:
            steps = max(0, settings.distillation.budget.total - spent)
        behind[name] = spent + steps
        found.append(steps)
    return [steps for steps in found if steps]


def duration(value: int | float) -> str:
    """Seconds as people say them.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10.0 min', '2.5 h')
    """
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def size(value: int | float) -> str:
    """Bytes as people say them.

    >>> size(2_500_000), size(3.2e9)
    ('2.5 MB', '3.2 GB')
    """
    return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"


def _peak_bytes(torch: Any, where: str) -> int:
    if where.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    if where == "mps":
        return int(torch.mps.driver_allocated_memory())  # now: no peak is told, and what torch keeps is little less
    return peak_memory()
