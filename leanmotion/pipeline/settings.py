"""params.yaml as typed models, one class a stage. Unknown keys are refused with the nearest known one."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.params_file import read_params
from leanmotion.pipeline.setting_address import AsBefore
from leanmotion.pipeline.setting_errors import first_problem
from leanmotion.pipeline.setting_rules import check_rounds, check_sections
from leanmotion.pipeline.setting_types import BlockId, Count, NotNegative, RoundId, Seed, each_once
from leanmotion.pipeline.setting_types import Section as _Model
from leanmotion.pipeline.training_settings import Distillation, Round
from leanmotion.pipeline.watched_paths import CaptionsPath, ClipPath, PromptsPath, VideosPath, WeightsPath

Granularity = Literal["temporal_transformer", "transformer_block", "attention"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
MotionNorm = Literal["clip", "frame"]


class Teacher(_Model):
    """What `load_pipeline` loads: base pipeline and motion adapter, each a folder, a single file or a pin of the hub.

    `dtype`: of weights and forward passes. `motion_norm`: whether motion modules normalise over all frames of a clip,
    as in diffusers, or each frame by itself, as in AnimateDiff's own code and in ComfyUI.

    Raises:
        pydantic.ValidationError: a path that is none.
    """

    base: WeightsPath
    adapter: WeightsPath
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    motion_norm: Annotated[MotionNorm, AsBefore("clip")] = "clip"


class PinnedTeacher(Teacher):
    """The teacher of params.yaml: besides, what the weights must be."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    blocks: Annotated[list[BlockId], Field(min_length=1), AfterValidator(each_once)]


class Prompts(_Model):
    """Prompts and how many each split holds; raising a count keeps earlier ones.

    `confirm`: sets of `select` clips; `confirm_other_norm` of them are drawn under the other motion norm too, or none.
    """

    source: PromptsPath
    negative: str = ""
    rank: Annotated[int, Field(ge=4)]
    select: Annotated[int, Field(ge=4)]
    report: Annotated[int, Field(ge=4)]
    confirm: Annotated[int, Field(ge=2)]
    confirm_other_norm: Annotated[int, Field(ge=0)] = 2
    confirm_source: PromptsPath
    seed: Seed = 0

    @property
    def confirm_splits(self) -> list[str]:
        """The sets that confirm, as splits; each is `<name>.parquet` among the prompt tables."""
        return [f"confirm/{i + 1}" for i in range(self.confirm)]


class Sampling(_Model):
    """How clips are drawn. All of it is part of every chunk's address: declare a new setting `AsBefore` something.

    Size in pixels; `steps` calls of the UNet; `guidance` scales classifier-free guidance, 1 is none; `chunk` clips are
    drawn together. `threads`: on how many the caller, by `torch.set_num_threads`, has a CPU draw.

    Raises:
        pydantic.ValidationError: a value out of range, or an unknown name.
    """

    frames: Count
    height: Annotated[int, Field(ge=8, multiple_of=8)]
    width: Annotated[int, Field(ge=8, multiple_of=8)]
    steps: Count
    guidance: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    scheduler: Literal["base", "ddim", "euler", "lcm"] = "base"
    chunk: Count
    threads: Count
    attention: Literal["sdpa", "eager"] = "sdpa"
    vae_slicing: bool = False
    vae_tiling: bool = False
    torch_compile: bool = False


class Similarity(_Model):
    """How many prompts of the rank split the similarity is averaged over."""

    prompts: Count


class Influence(_Model):
    """Where the change of the model's output without each unit is measured.

    `prompts` of the rank split, `batch` of them together: the unit of resuming, and a sample of clips. `steps` of the
    sampler's steps, spread evenly, each standing for those around it. Intervals are over `resamples` draws of prompts.
    """

    prompts: Annotated[int, Field(ge=4)]
    steps: Count
    batch: Annotated[int, Field(ge=3)]
    resamples: Annotated[int, Field(ge=20)] = 200
    interval: Annotated[float, Field(gt=0, lt=1)] = 0.9
    seed: Seed = 0


class Profile(_Model):
    """The interleaved latency measurement of one UNet call."""

    rounds: Annotated[int, Field(ge=3)]
    warmup: Count = 2
    batch: Count = 1
    seed: Seed = 0


class ProbeSet(_Model):
    """Sets of units of one granularity to remove: the most similar, random ones, and single ones."""

    granularity: Granularity
    counts: Annotated[list[Count], AfterValidator(each_once)]
    random: Annotated[int, Field(ge=0)] = 1
    single: Annotated[int, Field(ge=0)] = 0


class Probe(_Model):
    """The granularity comparison: clips of the first `prompts` of the rank split, of all where none is given."""

    prompts: Annotated[int, Field(ge=4)] | None = None
    seed: Seed = 0
    sets: dict[RoundId, ProbeSet]


class Extractor(_Model):
    """What turns clips into the features that the Frechet distance is taken of."""

    name: Literal["sprites", "i3d", "videomae", "vjepa2"]
    path: WeightsPath
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    batch: Count = 16


class Ranking(_Model):
    """The criterion of the deletion order, and how its uncertainty is resampled.

    `search`: rounds delete the first blocks of that order, or the nested sets of least predicted damage.
    """

    criterion: Literal["fvd", "kvd", "paired", "similarity", "influence", "fvd_per_mac", "fvd_per_latency", "random"]
    search: Literal["order", "sets"] = "order"
    rerank: bool = False
    resamples: Annotated[int, Field(ge=20)]
    interval: Annotated[float, Field(gt=0, lt=1)] = 0.9
    seed: Seed = 0


class Clips(_Model):
    """What the student is distilled on."""

    source: Literal["sprites", "teacher", "folder"]
    count: Count
    path: VideosPath
    captions: CaptionsPath
    stride: Count = 1
    seed: Seed = 0


class Evaluation(_Model):
    """Resampling of the rounds' intervals. `clip`: a CLIP model that is asked about prompts and frames besides."""

    clip: ClipPath = "builtin/none"
    resamples: Annotated[int, Field(ge=20)]
    interval: Annotated[float, Field(gt=0, lt=1)] = 0.9
    seed: Seed = 0


class Selection(_Model):
    """The stop rule, and the allowance that belongs to it."""

    rule: Literal["excess", "fvd", "accuracy", "knee"]
    allowance: NotNegative
    confident: bool = False


class Export(_Model):
    """What is handed over: `float16` makes files half as large; `license`, in the hub's words, stands in the cards."""

    dtype: Literal["as_judged", "float16"] = "as_judged"
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] = "other"


class Report(_Model):
    """What the page shows."""

    title: str = "leanmotion"
    clips: Annotated[int, Field(ge=1, le=32)] = 8
    fps: Annotated[int, Field(ge=1, le=60)] = 8


class Settings(_Model):
    """All of params.yaml."""

    teacher: PinnedTeacher
    prompts: Prompts
    sampling: Sampling
    similarity: Similarity
    influence: Influence
    profile: Profile
    probe: Probe
    extractor: Extractor
    ranking: Ranking
    clips: Clips
    rounds: Annotated[dict[RoundId, Round], Field(min_length=1)]
    distillation: Distillation
    evaluation: Evaluation
    selection: Selection
    export: Export
    report: Report

    @model_validator(mode="after")
    def _sections_fit_one_another(self) -> "Settings":
        check_rounds(self.rounds, self.teacher.blocks)
        check_sections(self)
        return self

    def steps_of(self, name: str) -> int | None:
        """Training steps of a round: its own, or those of `distillation`; None where `distillation.budget` decides."""
        if (own := self.rounds[name].steps) is not None:
            return own
        return None if self.distillation.budget.total else self.distillation.steps

    @property
    def split_counts(self) -> dict[str, int]:
        """Clips per split."""
        return {"rank": self.prompts.rank, "select": self.prompts.select, "report": self.prompts.report}


def load_settings(path: str | Path = "params.yaml") -> Settings:
    """Read and check a params.yaml.

    Raises:
        LeanmotionError: Missing, not YAML, or a setting that is unknown, of a wrong type or out of range.
    """
    return checked(read_params(Path(path)), path)


def checked(raw: dict[str, Any], path: str | Path) -> Settings:
    """The content of a params.yaml as settings. `path`: for the message.

    Raises:
        LeanmotionError: a setting that is unknown, of a wrong type or out of range.
    """
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise LeanmotionError(f"{path}: {first_problem(error, Settings)}") from error
