"""`benchmarks/gpu.py` at small widths on a CPU: every part that needs no compiler gives rows with figures."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import cpp_builder

from leanmotion.model import compiling

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    return importlib.import_module("gpu")


def test_all_parts_at_small_widths(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In place of compiled code the same kernels: that it is close is held in tests/model/test_compiling.py."""
    monkeypatch.setattr(compiling, "_compiled", lambda kind, _: kind.forward)
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")  # none is called
    gpu.main(["--small", "--out", str(tmp_path / "table.md")])
    table = (tmp_path / "table.md").read_text()
    assert table.strip() in capsys.readouterr().out and "small widths, random weights" in table
    rows = {cells[1].strip(): cells[2].strip() for line in table.splitlines()[4:] if (cells := line.split("|"))}
    assert all(math.isfinite(float(value)) for value in rows.values())
    assert (
        float(rows["grey levels apart on average, 2 steps"]) < 0.1
    )  # ours and the stock pipeline's: float32, same noise
    assert float(rows["compiled: largest difference"]) == 0
    theirs = "stock pipeline, 2 steps, one at a time"
    assert rows[f"compiled: {theirs}"] == rows[theirs]
    for name in ("matrix product", "UNet call at batch 2", "not drawing, 2 steps", "a checkpoint is written after"):
        assert float(rows[name]) >= 0, name
    assert sum(name.startswith("saved without: ") for name in rows) == 21 + 3
    for name in ("kept", "recomputed"):
        assert f"training step, activations {name}, batch 1" in rows


def test_parts_are_known_by_name_and_time_can_end(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--parts", "rate,call"])
    assert "no such part: call" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["--parts", "compiled,rate"])
    assert "compiled is the last part" in capsys.readouterr().err
    gpu.main(["--small", "--parts", "rate", "--seconds", "0"])
    assert "rate: no time left" in capsys.readouterr().out


def test_kernels_are_told_apart_by_name(gpu: Any) -> None:
    kinds = importlib.import_module("kernels")
    named = {
        "void cutlass::Kernel<flash_fprop>": "attention", "sm90_xmma_fprop_implicit_gemm_bf16": "convolutions",
        "nvjet_hsh_128x256": "matrix products", "RowwiseMomentsCUDAKernel": "norms", "triton_per_fused_add": "compiled",
        "CatArrayBatchedCopy": "copies", "vectorized_elementwise_kernel": "elementwise",
    }  # fmt: skip
    assert {name: kinds.kind_of(name) for name in named} == named
    assert sum(kinds.milliseconds_by_kind(lambda: torch.ones(8) @ torch.ones(8, 8), gpu=False).values()) > 0
