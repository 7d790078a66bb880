"""What saves memory: settings of the machine change not a bit, settings of params.yaml take effect."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from tiny import tiny_settings

from leanmotion.errors import LeanmotionError
from leanmotion.model.memory import CHECKPOINTING, OFFLOAD, place, recomputed, settle
from leanmotion.model.removal import remove_units, without_units
from leanmotion.model.requests import Request
from leanmotion.model.sampler import Sampler
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline.settings import Sampling

pytestmark = pytest.mark.numeric

REQUESTS = [Request("a red ring", "", 0), Request("a blue ring", "", 1)]


@pytest.fixture
def pipeline(teacher_folder: Any) -> Any:
    return load_pipeline(tiny_settings(teacher_folder(levels=2, layers=1)).teacher)


def sampling(**changes: Any) -> Sampling:
    return tiny_settings(sampling=changes).sampling


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")  # hooks that move weights serve one call at a time; so a GPU is called
def test_weights_that_wait_elsewhere_give_the_same_frames(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooks are diffusers' own; on `cpu:0` they move everything from the CPU to the CPU.

    Layer by layer, `cpu:0` confuses Accelerate: what `enable_sequential_cpu_offload` does is done on `cpu` instead.
    """

    def layers(device: str) -> None:
        for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
            cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)

    monkeypatch.setattr(pipeline, "enable_sequential_cpu_offload", layers)
    plain = Sampler(pipeline, sampling())(REQUESTS)
    for how in ("model", "sequential"):
        monkeypatch.setenv(OFFLOAD, how)
        sampler = Sampler(pipeline, sampling(), "cpu:0")
        for _ in range(2):
            assert np.array_equal(sampler(REQUESTS), plain), how
        assert hasattr(pipeline.unet, "_hf_hook") or how == "sequential"
        with without_units(pipeline.unet, ["mid_0"]):
            without = sampler(REQUESTS)
        settle(pipeline.vae, "cpu")
        assert all(p.device.type == "cpu" for p in pipeline.vae.parameters())
        assert not hasattr(pipeline.vae, "_hf_hook")
        pipeline.remove_all_hooks()
    monkeypatch.delenv(OFFLOAD)
    with without_units(pipeline.unet, ["mid_0"]):
        assert np.array_equal(Sampler(pipeline, sampling())(REQUESTS), without)


def test_offload_that_cannot_be_meant_is_refused(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFFLOAD, "model")
    with pytest.raises(LeanmotionError, match=f"{OFFLOAD} is 'model', and networks run on the CPU already"):
        place(pipeline, "cpu")
    monkeypatch.setenv(OFFLOAD, "yes")
    with pytest.raises(LeanmotionError, match=f"{OFFLOAD} is 'yes': say model or sequential"):
        place(pipeline, "cuda")


def gradients(unet: Any, inputs: dict[str, Any]) -> tuple[list[torch.Tensor], int]:
    """Of a sum of squares, and the bytes that are kept for the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = unet(**inputs, return_dict=False)[0].square().sum()
    total = sum(kept.values())
    unet.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in unet.parameters() if p.grad is not None], total


def test_activations_computed_twice_give_the_same_gradients(
    make_unet: Any, make_inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, inputs = make_unet(), make_inputs(batch=2)
    remove_units(unet, ["down_1_0", "mid_0", "up_2_1"])
    plain, kept = gradients(unet, inputs)
    monkeypatch.setenv(CHECKPOINTING, "1")
    with recomputed(unet):
        again, kept_again = gradients(unet, inputs)
        with torch.no_grad():
            unet(**inputs)
    assert len(plain) == len(again) and all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    print(f"kept for the backward pass: {kept} bytes, {kept_again} with recomputation")
    assert kept_again < kept / 2
    monkeypatch.setenv(CHECKPOINTING, "0")
    with recomputed(unet):
        assert gradients(unet, inputs)[1] == kept
    assert not unet.is_gradient_checkpointing


def test_checkpointing_that_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECKPOINTING, "yes")
    with pytest.raises(LeanmotionError, match=f"{CHECKPOINTING} is 'yes': say 1 or 0"), recomputed(None):
        pass


def test_vae_slicing_and_tiling_take_effect_and_end_with_the_sampler(pipeline: Any) -> None:
    """Another batch moves floats by about 1e-6: frames within a grey level. Tiles see less: frames differ."""
    plain = Sampler(pipeline, sampling())(REQUESTS)
    sliced = Sampler(pipeline, sampling(vae_slicing=True))
    assert pipeline.vae.use_slicing
    assert np.abs(sliced(REQUESTS).astype(int) - plain).max() <= 1
    pipeline.vae.tile_latent_min_size, pipeline.vae.tile_sample_min_size = 4, 16
    tiled = Sampler(pipeline, sampling(vae_tiling=True))(REQUESTS)
    assert tiled.shape == plain.shape and not np.array_equal(tiled, plain)
    assert np.array_equal(Sampler(pipeline, sampling())(REQUESTS), plain)


def test_nothing_of_it_stays_in_a_saved_student(make_unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECKPOINTING, "1")
    unet = make_unet(levels=2, layers=1)
    before = list(unet.state_dict())
    with recomputed(unet):
        assert list(unet.state_dict()) == before
    assert all("forward" not in vars(module) for module in unet.modules())
