"""Settings for a tiny teacher of 7 blocks (`teacher_folder(levels=2, layers=1)`): a whole flow in seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from leanmotion.pipeline.settings import Settings

CAPTIONS, NONE = (str(Path(__file__).parents[1] / "builtin" / name) for name in ("sprites-captions", "none"))
BLOCKS = ["down_0_0", "down_1_0", "mid_0", "up_0_0", "up_0_1", "up_1_0", "up_1_1"]


def tiny_params(teacher: Any = None, extractor: Path | str = "extractor", **sections: dict[str, Any]) -> dict[str, Any]:
    """The content of a params.yaml; `sections` change single settings, as `sampling={"steps": 3}`."""
    params: dict[str, Any] = {
        "teacher": {
            "base": str(getattr(teacher, "base", "teacher/base")),
            "adapter": str(getattr(teacher, "adapter", "teacher/adapter")),
            "blocks": BLOCKS,
        },
        "prompts": {"source": CAPTIONS, "rank": 4, "select": 4, "report": 4, "confirm": 2, "confirm_source": CAPTIONS},
        "sampling": {"frames": 3, "height": 32, "width": 32, "steps": 2, "guidance": 1.0, "chunk": 2, "threads": 1},
        "similarity": {"prompts": 2},
        "influence": {"prompts": 4, "steps": 2, "batch": 3, "resamples": 20},
        "profile": {"rounds": 3, "warmup": 1},
        "probe": {"sets": {"transformers": {"granularity": "temporal_transformer", "counts": [1, 2]}}},
        "extractor": {"name": "sprites", "path": str(extractor)},
        "ranking": {"criterion": "fvd", "resamples": 20},
        "clips": {"source": "sprites", "count": 4, "path": NONE, "captions": NONE},
        "rounds": {"r1": {"count": 1, "from": "base"}, "r3": {"count": 3, "from": "r1"}},
        "distillation": {"steps": 2, "batch": 2, "learning_rate": 0.001},
        "evaluation": {"resamples": 20, "clip": NONE},
        "selection": {"rule": "excess", "allowance": 0.5},
        "export": {},
        "report": {},
    }
    for name, changes in sections.items():
        params[name] = {**params[name], **changes}
    return params


def edit_params(path: Path, changes: Mapping[str, Any]) -> None:
    """Set values in a params.yaml, `sampling__steps` for `sampling.steps`."""
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *place, key = name.split("__")
        section = params
        for part in place:
            section = section[part]
        section[key] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True))


def tiny_settings(teacher: Any = None, **sections: dict[str, Any]) -> Settings:
    """The same as settings."""
    return Settings.model_validate(tiny_params(teacher, **sections))  # pyright: ignore
