"""What a unit costs in multiply-accumulates, counted over the operations that really run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from leanmotion.model.units import Unit, list_units


def unet_inputs(
    unet: nn.Module,
    *,
    frames: int,
    height: int,
    width: int,
    batch: int = 1,
    tokens: int = 77,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Keyword arguments for a call of a `diffusers.UNetMotionModel`, of the shapes that a pipeline passes.

    Args:
        unet: its config gives channels and text width, its parameters the dtype.
        frames: of a clip.
        height: of a latent, not of a frame (64 for frames of 512 with SD's VAE).
        width: of a latent.
        batch: clips; twice the prompts with guidance.
        tokens: of a caption (77 in SD).
        device: where they are made; `meta` for shapes only.
        seed: of the noise.
    """
    config: Any = unet.config
    dtype = next(unet.parameters()).dtype
    text = config.cross_attention_dim
    text = text if isinstance(text, int) else text[0]
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        if str(device) == "meta":
            return torch.empty(shape, dtype=dtype, device=device)
        return torch.randn(shape, generator=generator).to(device, dtype)

    return {
        "sample": noise(batch, config.in_channels, frames, height, width),
        "timestep": torch.full((batch,), 500, dtype=torch.int64, device=device),
        # The UNet's spatial layers see frames as a batch: the text is repeated for each frame.
        "encoder_hidden_states": noise(batch * frames, tokens, text),
    }


def unet_macs(
    unet: nn.Module,
    *,
    frames: int,
    height: int,
    width: int,
    batch: int = 1,
    tokens: int = 77,
    units: Iterable[Unit] | None = None,
) -> dict[str, int]:
    """Multiply-accumulates of one forward pass of a UNet: whole, and per unit.

    Counted by PyTorch's own counter over the operations that really run (matrix products, convolutions, attention),
    on meta tensors: nothing is computed and no weight is copied, so the real model takes seconds and no memory. Not on
    the tensors themselves: on a CPU the counter misses the fused attention kernel.
    Normalisation, activations, biases and additions count nothing, as is usual.

    Args:
        unet: a `diffusers.UNetMotionModel`, on any device, `meta` included.
        frames: as in `unet_inputs`, and so are height, width, batch and tokens.
        height: of a latent.
        width: of a latent.
        batch: clips.
        tokens: of a caption.
        units: which ones; all when None.

    Returns:
        MACs by unit id, then `motion` (the sum over temporal transformers) and `total` (the UNet).
    """
    units = list(list_units(unet) if units is None else units)
    counter = _counted(unet, unet_inputs(
        unet, frames=frames, height=height, width=width, batch=batch, tokens=tokens, device="meta"
    ))  # fmt: skip
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(unet).__name__
    # A multiplication and an addition are two of PyTorch's flops and one MAC.
    by_unit = {unit.id: flops.get(f"{root}.{unit.address}", 0) // 2 for unit in units}
    motion = [unit.address for unit in list_units(unet, "temporal_transformer")]
    return {
        **by_unit,
        "motion": sum(flops.get(f"{root}.{address}", 0) for address in motion) // 2,
        "total": flops.get("Global", 0) // 2,
    }


def macs_after(unet: nn.Module, *, frames: int, height: int, width: int, tokens: int = 77) -> dict[str, int]:
    """Multiply-accumulates of a call on one clip from each motion block on, itself included, by block id.

    What comes before is what a call can leave out that differs from another only in this block. Arguments and counting
    as in `unet_macs`.
    """
    counter, found, handles = FlopCounterMode(display=False), dict[str, int](), []
    for unit in list_units(unet, "temporal_transformer"):

        def note(*_: Any, block: str = unit.id) -> None:
            found[block] = counter.get_total_flops()

        handles.append(unet.get_submodule(unit.address).register_forward_pre_hook(note))
    try:
        _counted(
            unet,
            unet_inputs(unet, frames=frames, height=height, width=width, tokens=tokens, device="meta"),
            counter,
        )
    finally:
        for handle in handles:
            handle.remove()
    return {block: (counter.get_total_flops() - before) // 2 for block, before in found.items()}


def frame_macs(vae: nn.Module, *, height: int, width: int) -> int:
    """Multiply-accumulates of decoding one frame by a diffusers `AutoencoderKL`. Size in latents; as in `unet_macs`."""
    decoder: Any = vae
    weights = {name: tensor.to("meta") for name, tensor in (*vae.named_parameters(), *vae.named_buffers())}
    counter = FlopCounterMode(display=False)
    latents = torch.empty(
        1, decoder.config.latent_channels, height, width, device="meta", dtype=next(vae.parameters()).dtype
    )
    with torch.no_grad(), counter:
        torch.func.functional_call(_Decoder(vae), {f"vae.{name}": t for name, t in weights.items()}, (latents,))
    return counter.get_total_flops() // 2


class _Decoder(nn.Module):
    """A VAE's decoder as what is called."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to frames."""
        vae: Any = self.vae
        return vae.decode(latents, return_dict=False)[0]


def _counted(
    unet: nn.Module, inputs: dict[str, torch.Tensor], counter: FlopCounterMode | None = None
) -> FlopCounterMode:
    """PyTorch's counter after a call on meta tensors."""
    counter = counter or FlopCounterMode(display=False)
    weights = {name: tensor.to("meta") for name, tensor in (*unet.named_parameters(), *unet.named_buffers())}
    with torch.no_grad(), counter:
        torch.func.functional_call(unet, weights, kwargs={**inputs, "return_dict": False})
    return counter
