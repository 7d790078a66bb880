"""What settings have to do with one another: rounds that can follow each other, sections that ask for what there is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leanmotion.errors import did_you_mean

if TYPE_CHECKING:
    from leanmotion.pipeline.settings import Settings
    from leanmotion.pipeline.training_settings import Round


def check_sections(settings: "Settings") -> None:
    """Refuse what one section asks for and another does not have.

    Raises:
        ValueError: one line that names the setting.
    """
    how, blocks = settings.distillation, settings.teacher.blocks
    for part in [] if how.trainable == "motion" else how.trainable:
        if not part.startswith("motion") and (block := part.partition("-")[0]) not in blocks:
            raise ValueError(f"distillation.trainable: {block!r} is none of teacher.blocks: name some of them")
    for name, plain in (("inputs", "clips"), ("objective", "steps")):
        if (chosen := getattr(how, name)) != plain and how.task_weight > 0:
            raise ValueError(f"distillation.task_weight must be 0 where {name} is {chosen}: it has no data's target")
    if how.budget.total and how.validation == 0:
        raise ValueError("distillation.budget goes by distances before training: set distillation.validation")
    if how.budget.broken <= how.budget.unharmed:
        raise ValueError(
            f"distillation.budget.broken is {how.budget.broken}: it must exceed unharmed ({how.budget.unharmed})"
        )
    other, sets = settings.prompts.confirm_other_norm, settings.prompts.confirm
    if other == 1 or other > sets:
        raise ValueError(
            f"prompts.confirm_other_norm is {other}: it is 0, or at least 2 and at most prompts.confirm ({sets})"
        )
    if how.objective == "endpoint" and how.last_steps > settings.sampling.steps:
        raise ValueError(
            f"distillation.last_steps is {how.last_steps}: it is at most sampling.steps ({settings.sampling.steps})"
        )
    for name in ("similarity", "influence", "probe"):
        if (asked := getattr(settings, name).prompts) and asked > settings.prompts.rank:
            raise ValueError(f"{name}.prompts is {asked}: the rank split has {settings.prompts.rank}")
    for name, probe in settings.probe.sets.items():
        if probe.granularity == "temporal_transformer" and max(probe.counts, default=0) > len(blocks):
            raise ValueError(f"probe.sets.{name}.counts exceeds the {len(blocks)} blocks")
    if settings.ranking.search == "sets" and settings.ranking.rerank:
        raise ValueError("ranking.rerank is true, and ranking.search is sets, which asks no student: set one")


def check_rounds(rounds: "Mapping[str, Round]", blocks: Sequence[str]) -> None:
    """Refuse rounds that cannot follow one another: each deletes more than the one before it, and brings nothing back.

    Raises:
        ValueError: one line that names the setting.
    """
    for name, this in rounds.items():
        if name == "base":
            raise ValueError("rounds.base: the name is taken by the teacher itself: choose another")
        if unknown := [block for block in this.blocks or () if block not in blocks]:
            raise ValueError(
                f"rounds.{name}.blocks: teacher.blocks has no {unknown[0]}{did_you_mean(unknown[0], blocks)}"
            )
        if this.size > len(blocks):
            raise ValueError(f"rounds.{name}.count is {this.size}: teacher.blocks lists only {len(blocks)}")
        if this.from_ != "base" and this.from_ not in rounds:
            hint = did_you_mean(this.from_, ["base", *rounds])
            raise ValueError(f"rounds.{name}.from is {this.from_!r}: name an earlier round or base{hint}")
        if this.from_ != "base":
            _check_step(name, this, rounds[this.from_])


def _check_step(name: str, this: "Round", before: "Round") -> None:
    kind = "count" if this.blocks is None else "blocks"
    if this.size <= before.size:
        said = this.size if this.blocks is None else f"a list of {this.size}"
        raise ValueError(f"rounds.{name}.{kind} is {said}: it must exceed the {before.size} of {this.from_!r}")
    if this.blocks is None:
        return
    if before.blocks is None:
        # Which blocks a count stands for is decided by a run: only then would it be known whether these hold them.
        raise ValueError(
            f"rounds.{name}.blocks: starts from {this.from_!r}, which has a count: start from base or a round of blocks"
        )
    if brought_back := [block for block in before.blocks if block not in this.blocks]:
        raise ValueError(f"rounds.{name}.blocks lacks {brought_back[0]}, gone in {this.from_!r} already: add it")
