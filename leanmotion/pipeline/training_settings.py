"""What a round deletes, and how its student is trained: the settings of `rounds` and `distillation`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from leanmotion.pipeline.setting_address import AsBefore
from leanmotion.pipeline.setting_types import BlockId, Count, NotNegative, Positive, RoundId, Section, Seed, each_once


class Budget(Section):
    """Steps where the harm is, by each round's distance before training (`distillation.validation`).

    A round closer than `unharmed` trains none. Any other trains in proportion to its distance, all of `total` at
    `broken` and beyond, but no more than what rounds before it have left of `total`; rounds that branch off share
    what came before them alone. A round's own `steps` override it, and count. A `total` of 0: no budget, every round
    trains `distillation.steps`.
    """

    total: Annotated[int, Field(ge=0)] = 0
    unharmed: NotNegative = 0.0
    broken: Positive = 1.0


class Round(Section):
    """What is gone after a round that starts from the student of round `from` (`base`: the teacher).

    `count` blocks, or the `blocks` themselves. `steps`: its budget; where it is not given, what `distillation.budget`
    finds, or `distillation.steps`.
    """

    count: Annotated[int, Field(ge=1)] | None = None
    blocks: Annotated[list[BlockId], Field(min_length=1), AfterValidator(each_once)] | None = None
    from_: RoundId = Field(alias="from")
    steps: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _says_how_many_or_which(self) -> "Round":
        if (self.count is None) == (self.blocks is None):
            raise ValueError("needs either count, how many blocks are gone, or blocks, which ones")
        return self

    @property
    def size(self) -> int:
        """How many blocks are gone after it."""
        return len(self.blocks or ()) or self.count or 0


class Distillation(Section):
    """Objective, optimiser and budget of a round: as `leanmotion.distillation.distillation_settings` has them.

    `objective: steps` follows the teacher's predictions: the three weights, `inputs`, `compare`, `timesteps` and
    `caption_dropout` are its own. `endpoint` follows the latents where the teacher's sampling ends: `last_steps` and
    `endpoint_clips` are. A `budget` replaces `steps`.
    """

    steps: Annotated[int, Field(ge=0)]
    batch: Count
    accumulate: Count = 1
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)] = 0
    decay: Literal["cosine", "constant"] = "cosine"
    clip_norm: Positive = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    task_weight: NotNegative = 0.0
    output_weight: NotNegative = 1.0
    feature_weight: NotNegative = 1.0
    inputs: Literal["clips", "teacher", "student"] = "clips"
    trainable: Literal["motion"] | Annotated[list[str], Field(min_length=1)] = "motion"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_every: Count = 50
    explode: Positive = 100.0
    weight_decay: NotNegative = 0.01
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    validation: Annotated[int, Field(ge=0)] = 0
    objective: Annotated[Literal["steps", "endpoint"], AsBefore("steps")] = "steps"
    last_steps: Annotated[Count, AsBefore(2)] = 2
    endpoint_clips: Annotated[Count, AsBefore(256)] = 256
    compare: Annotated[Literal["output", "v"], AsBefore("output")] = "output"
    timesteps: Annotated[Literal["all", "sampler"], AsBefore("all")] = "all"
    budget: Annotated[Budget, AsBefore(Budget().model_dump())] = Budget()
    seed: Seed = 0
