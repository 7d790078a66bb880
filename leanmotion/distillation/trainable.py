"""What of a student trains: all motion modules, or named parts of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from leanmotion.errors import LeanmotionError, did_you_mean
from leanmotion.model.units import Unit, list_units

_PARTS = {
    "motion": "",
    "motion.attention": ".transformer_blocks.*.attn",
    "motion.feed_forward": ".transformer_blocks.*.ff.",
    "motion.norm": ".norm",
    "motion.projection": ".proj_",
}
"""Parts of all motion modules by what stands in their parameters' names after the module's own address."""


def trained_parameters(
    unet: nn.Module, trainable: str | Sequence[str], whole: nn.Module | None = None
) -> dict[str, nn.Parameter]:
    """The student's parameters that train, by name, in the model's order; none where all were removed.

    Args:
        unet: the student.
        trainable: `motion` (every motion module), or a list of parts: `motion.attention`, `motion.feed_forward`,
            `motion.norm`, `motion.projection`, and ids of units at any granularity (`up_3_2`, `up_3_2-block0-attn1`).
            Nothing outside motion modules trains: an adapter could not carry it.
        whole: the model before any removal: a unit may be gone from the student, not from it.

    Raises:
        LeanmotionError: a part that there is not, or parameters that are not float32.
    """
    patterns = trained_patterns(trainable, list_units(unet if whole is None else whole))
    chosen = {name: p for name, p in unet.named_parameters() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if other := sorted({str(p.dtype) for p in chosen.values()} - {"torch.float32"}):
        raise LeanmotionError(
            f"the student's weights are {', '.join(other)}: load it in float32, set precision instead"
        )
    return chosen


def trained_patterns(trainable: str | Sequence[str], units: Iterable[Unit]) -> list[str]:
    """Patterns of the names of parameters that train.

    Args:
        trainable: as in `trained_parameters`.
        units: of the model before any removal.

    Raises:
        LeanmotionError: a part that there is not.
    """
    if isinstance(trainable, str):
        if trainable != "motion":
            raise LeanmotionError(f"params.yaml: distillation.trainable is {trainable!r}: say 'motion' or give a list")
        trainable = (trainable,)
    addresses = {unit.id: unit.address for unit in units}
    patterns: list[str] = []
    for part in trainable:
        if part not in _PARTS and part not in addresses:
            hint = did_you_mean(part, [*_PARTS, *addresses])
            known = ", ".join(_PARTS)
            raise LeanmotionError(
                f"params.yaml: distillation.trainable: {part!r} is no part of the motion modules{hint}: name units as "
                f"data/units.parquet does, or {known}"
            )
        patterns.append(f"{addresses[part]}.*" if part in addresses else f"*.motion_modules.*{_PARTS[part]}*")
    return patterns


@contextmanager
def training_mode(student: nn.Module, teacher: nn.Module, parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """Only the given parameters need gradients; both models in eval, as dropout would need a generator's state."""
    asked = {name: p.requires_grad for name, p in student.named_parameters()}
    modes = student.training, teacher.training
    student.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    student.eval()
    teacher.eval()
    try:
        yield
    finally:
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(asked[name])
            parameter.grad = None
        student.train(modes[0])
        teacher.train(modes[1])
