"""Two vain notices of the libraries are left out, by their words; all else that they say is heard."""

import inspect
import logging
from typing import Any, ClassVar

import pytest
import torch
from diffusers import ModelMixin
from transformers.utils import import_utils

import leanmotion
from leanmotion.pipeline.notices import VAIN


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def listening(heard: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    for name in VAIN:
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [handler])
        monkeypatch.setattr(logger, "filters", [])
        monkeypatch.setattr(logger, "level", logging.WARNING)


class Plain(ModelMixin):
    """A model that keeps no module in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)


class Careful(Plain):
    """A model that keeps one."""

    _keep_in_fp32_modules: ClassVar = ["layer"]


def cast(model: Any) -> None:
    model.to(torch.float64)


def test_of_modules_kept_in_float32_an_empty_list_is_not_said(heard: list[str]) -> None:
    cast(Plain())
    assert len(heard) == 1 and VAIN["diffusers.models.modeling_utils"] in heard[0]
    _ = leanmotion.load_pruned_pipeline
    _ = leanmotion.lean
    cast(Plain())
    assert len(heard) == 1
    cast(Careful())
    assert len(heard) == 2 and "['layer']" in heard[1]
    assert all(len(logging.getLogger(name).filters) == 1 for name in VAIN)


def test_of_torchvision_the_fallback_alone_is_not_said(heard: list[str]) -> None:
    words = VAIN["transformers.utils.import_utils"]
    assert words in inspect.getsource(import_utils)
    _ = leanmotion.lean
    import_utils.logger.warning(f"`CLIPImageProcessor` {words} `CLIPImageProcessorPil`")
    import_utils.logger.warning("another")
    assert heard == ["another"]
