"""Whole modules compiled: the same numbers, nothing compiled anew by removals, hooks seen, and one line where it fails.

By torch's `eager` backend, which traces and then runs the same kernels, so that bits are equal. With a real compiler a
call of the default takes minutes to compile: `LEANMOTION_TEST_COMPILER=1` runs that test.
"""

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config
from committed import embedded_project
from tiny import tiny_settings
from torch._dynamo.utils import counters
from torch._inductor import cpp_builder

from leanmotion.checking.refusals import REFUSALS, Opened
from leanmotion.cost.in_call import Watched
from leanmotion.cost.timing import device_clock, without_variants
from leanmotion.errors import LeanmotionError
from leanmotion.influence.output_changes import output_changes
from leanmotion.model import compiling, sampler, sampling_address
from leanmotion.model.compiling import REPEATED, CompiledForward, check_compiler, compile_modules, uncompiled
from leanmotion.model.removal import without_units
from leanmotion.model.requests import Request, Variant
from leanmotion.model.sampler import Sampler
from leanmotion.model.teacher import load_pipeline
from leanmotion.model.units import list_units
from leanmotion.pipeline.settings import load_settings
from leanmotion.videos.store import cut

GET_CPP_COMPILER = cpp_builder.get_cpp_compiler
REQUESTS = [Request("a red ring", "", 0), Request("a blue ring", "", 1)]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is compiled, is by the `eager` backend; torch's compiler is left as it was."""
    torch._dynamo.reset()
    limits: Any = torch._dynamo.config
    real = compiling._compiled
    before = limits.recompile_limit, limits.accumulated_recompile_limit, limits.fail_on_recompile_limit_hit
    monkeypatch.setattr(compiling, "_compiled", lambda kind, _: real(kind, "eager"))
    # This backend needs no C++ compiler: machines without one run these tests, too.
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: setattr(module, "_compiled_call_impl", 1))
    yield
    limits.recompile_limit, limits.accumulated_recompile_limit, limits.fail_on_recompile_limit_hit = before
    torch._dynamo.reset()


@pytest.fixture
def call(make_unet: Any, make_inputs: Any) -> tuple[Any, Callable[[], torch.Tensor]]:
    unet, inputs = make_unet(levels=2, layers=1), make_inputs(batch=2, frames=2, size=4)
    return unet, lambda: unet(**inputs, return_dict=False)[0].detach()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_removed_units_leave_all_that_is_compiled_valid(call: Any) -> None:
    """And give the bits of the uncompiled UNet, at every granularity: inner units have their module run uncompiled."""
    unet, run = call
    units = [unit.id for unit in list_units(unet) if unit.id.startswith(("down_0_0", "mid_0", "up_1_1"))]
    plain = {}
    for unit in ["", *units]:
        with without_units(unet, [unit] if unit else []):
            plain[unit] = run()
    compile_modules(unet)
    forwards = [m.forward for m in unet.modules() if "forward" in vars(m)]
    compile_modules(unet)
    assert forwards == [m.forward for m in unet.modules() if "forward" in vars(m)]
    assert [type(f.module).__name__ in REPEATED for f in forwards] == [True] * len(forwards)
    assert len(forwards) == 8 + 7 + 4 + 2  # residual blocks, temporal and spatial transformers, changes of size
    assert torch.equal(run(), plain[""])
    compiled = graphs()
    assert compiled > 0
    for unit in units:
        with without_units(unet, [unit]):
            assert torch.equal(run(), plain[unit]) and not torch.equal(plain[unit], plain[""]), unit
    assert torch.equal(run(), plain[""]) and graphs() == compiled


def test_hooks_are_heard_wherever_they_stand(call: Any) -> None:
    """Dynamo would pass over those that came after it had compiled."""
    unet, run = call
    plain = run()
    compile_modules(unet)
    run()
    heard: list[str] = []
    for name in ("mid_block.motion_modules.0", "mid_block.motion_modules.0.transformer_blocks.0.attn1"):
        unet.get_submodule(name).register_forward_hook(lambda *_, name=name: heard.append(name))
        heard.clear()
        assert torch.equal(run(), plain) and heard[-1] == "mid_block.motion_modules.0"
    assert len(heard) == 2
    with uncompiled(module := unet.down_blocks[0].motion_modules[0]):
        assert compiling._looked_into(module) and torch.equal(run(), plain)
    assert not compiling._looked_into(module)


def test_clocks_on_whole_blocks_compile_nothing(call: Any, make_inputs: Any) -> None:
    unet, _ = call
    compile_modules(unet)
    full = without_variants(unet, make_inputs(batch=2, frames=2, size=4), {"full": ()})["full"]
    with full() as whole:
        whole()
    before = graphs()
    parts = {unit.id: unet.get_submodule(unit.address) for unit in list_units(unet, "temporal_transformer")}
    watched = Watched(full, parts, device_clock("cpu"))
    with watched() as timed:
        timed()
    assert watched.savings[0].keys() == parts.keys() and graphs() == before > 0


def test_a_copy_runs_its_own_weights(call: Any) -> None:
    unet, _ = call
    compile_modules(unet)
    made, name = copy.deepcopy(unet), "mid_block.resnets.0"
    forward = made.get_submodule(name).forward
    assert isinstance(forward, CompiledForward) and forward.module is made.get_submodule(name)
    assert unet.get_submodule(name).forward.module is unet.get_submodule(name)


def test_threads_may_call_side_by_side(call: Any) -> None:
    """As the teacher's calls in distillation on a CPU, which compile what they meet first."""
    unet, run = call
    plain = run()
    compile_modules(unet)

    def work(_: int) -> torch.Tensor:
        with torch.no_grad():
            return run()

    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(found, plain) for found in pool.map(work, range(4)))


def test_a_sampler_draws_the_same_compiled(teacher_folder: Any) -> None:
    pipeline = load_pipeline(tiny_settings(teacher_folder(levels=2, layers=1)).teacher)
    plain = Sampler(pipeline, tiny_settings().sampling)(REQUESTS)
    compiled = Sampler(pipeline, tiny_settings(sampling={"torch_compile": True}).sampling)
    Sampler(pipeline, compiled.settings)
    assert np.array_equal(compiled(REQUESTS), plain)
    assert all(m._compiled_call_impl is None for m in pipeline.unet.modules())
    with without_units(pipeline.unet, ["mid_0"]):
        assert not np.array_equal(compiled(REQUESTS), plain)


def test_influence_compares_uncompiled_blocks_with_uncompiled_ones(
    teacher_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that moves numbers by a tenth: changes of inner units hold none of it but what their inputs bring.

    `mid_0` alone is compiled so. What its output is off by, changes of its own inner units would be off by as well,
    squared and whole, if they were taken to the compiled call.
    """
    pipeline = load_pipeline(tiny_settings(teacher_folder(levels=2, layers=1)).teacher)
    sampling = tiny_settings(sampling={"steps": 2}).sampling
    Sampler(pipeline, sampling)
    plain = {(row["unit"], row["other"]): row["values"] for row in output_changes(pipeline, sampling, REQUESTS, [0])}

    def off(kind: Any, _: str) -> Callable[..., Any]:
        def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
            output = kind.forward(module, *args, **kwargs)
            return output * 1.1 if module is pipeline.unet.mid_block.motion_modules[0] else output

        return forward

    monkeypatch.setattr(compiling, "_compiled", off)
    compile_modules(pipeline.unet)
    on = sampling.model_copy(update={"torch_compile": True})
    for row in output_changes(pipeline, on, REQUESTS, [0]):
        if row["unit"].startswith("mid_0-") and row["other"].startswith("mid_0-"):
            np.testing.assert_allclose(row["values"], plain[row["unit"], row["other"]], rtol=1e-3, atol=1e-9)


def test_the_code_of_compiling_is_in_the_address_of_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def address(**changes: Any) -> str:
        return cut(Variant("a" * 64), REQUESTS, tiny_settings(sampling=changes).sampling)[0].address

    before = address(), address(torch_compile=True)
    monkeypatch.setattr(sampling_address, "COMPILING", ("leanmotion.model.sampler:latent_shape",))
    assert address() == before[0] != before[1] != address(torch_compile=True)


def test_no_compiler_is_one_line_before_any_work(
    call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, teacher_folder: Any
) -> None:
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", GET_CPP_COMPILER)
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = tiny_settings(teacher_folder(levels=2, layers=1), sampling={"torch_compile": True})
    line = r"sampling.torch_compile is true, and there is no compiler: install one"
    refusal = next(refusal for refusal in REFUSALS if refusal.by is check_compiler)
    with torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))}):
        with pytest.raises(LeanmotionError, match=line):
            compile_modules(call[0])
        with pytest.raises(LeanmotionError, match=line):
            refusal.check(Opened(settings))


@pytest.mark.skipif(
    os.environ.get("LEANMOTION_TEST_COMPILER") != "1" or shutil.which("g++") is None,
    reason="takes minutes: set LEANMOTION_TEST_COMPILER=1",
)
def test_a_compiled_call_of_the_default_is_close(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At most 1e-4 of its largest output away: kernels that are fused add in another order, in float32.

    The network makes much of little: in float32 an uncompiled call is 9e-5 away from one in float64.
    """
    monkeypatch.undo()
    settings = load_settings(embedded_project(tmp_path) / "params.yaml")
    pipeline = load_pipeline(settings.teacher)
    size = sampler.latent_shape(pipeline, settings.sampling)
    generator = torch.Generator().manual_seed(0)
    width = pipeline.text_encoder.config.hidden_size
    inputs = {
        "sample": torch.randn((2, *size), generator=generator), "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(2 * size[1], 8, width, generator=generator),
    }  # fmt: skip
    with torch.inference_mode():
        plain = pipeline.unet(**inputs, return_dict=False)[0]
        compile_modules(pipeline.unet)
        compiled = pipeline.unet(**inputs, return_dict=False)[0]
    largest = float((compiled - plain).abs().max() / plain.abs().max())
    print(f"{largest:.1e} of the largest output")
    assert largest < 1e-4
