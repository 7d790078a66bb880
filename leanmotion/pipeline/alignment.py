"""Where weights lie in memory: all alike, whatever file they came from."""

from torch import nn

ALIGNMENT = 64
"""Bytes: what torch's own allocator keeps, and what oneMKL asks for where results are to be reproducible."""


def align(module: nn.Module) -> None:
    """Move weights on the CPU that lie at odd addresses into memory of torch's own; values stay.

    Weights mapped from a file lie wherever its header ends, and matrix kernels choose their path by the address: the
    same weights from another file, or in memory, then differ by some 1e-7 in what they give. Parameters of two modules
    that share memory are parted: align before sharing.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
