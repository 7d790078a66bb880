"""Fixtures: tiny random models, their inputs and folders."""

import os
import signal
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
import torch
from committed import embedded_project
from filelock import FileLock
from models import TEXT_WIDTH, make_adapter, make_unet2d, seeded, write_teacher
from portable import LIGHT, others_than_light
from surroundings import settle

settle(os.environ)

# Before any import of leanmotion: under test, shapes and types in signatures are checked at every call.
jaxtyping.install_import_hook("leanmotion", "beartype.beartype")

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tiny tensors gain nothing from threads, and lose much where cores are shared. `make test-machines` tries two.
THREADS = int(os.environ.get("LEANMOTION_TEST_THREADS", "1"))
torch.set_num_threads(THREADS)

# As on a processor with matrix units for bfloat16, or on one without: likewise.
if forced := os.environ.get("LEANMOTION_TEST_LOW_PRECISION"):
    torch.cpu.get_capabilities = lambda: {"amx_bf16": forced == "on"}


# Others import what only POSIX has, and would stop the light ones before the first.
collect_ignore = [] if find_spec("fcntl") else sorted(others_than_light(Path(__file__).parent))

LONGEST = ("test_pipeline.py", "test_kills.py", "test_by_hand.py", "test_stages.py")
"""Files that take minutes."""

FIRST = ("test_pipeline.py", "test_by_hand.py", "test_pruned_pipeline.py", "test_kills.py", "test_stages.py")
"""In this order: the first makes the micro project, and the next two, which need none, keep others from waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: begun last, one of them would keep one process busy while others are through."""
    for item in items:
        if item.path.name in LONGEST:
            item.add_marker("long")
        if item.path.relative_to(Path(__file__).parent).as_posix() in LIGHT:
            item.add_marker("light")
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def as_many_threads() -> Iterator[None]:
    """Samplers and stages set the number by their settings, for the whole process: for their own test alone."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def make_unet():
    """`make_unet(levels=4, layers=2, seed=0, mid=True)` -> a new tiny `UNetMotionModel` with random motion blocks."""
    from diffusers import UNetMotionModel

    def make(levels: int = 4, layers: int = 2, seed: int = 0, mid: bool = True):
        adapter = make_adapter(levels, layers, seed + 1, mid)
        # `from_unet2d` draws weights before it loads them: under a fork, so that no global state moves.
        return seeded(0, lambda: UNetMotionModel.from_unet2d(make_unet2d(levels, layers, seed), adapter)).eval()

    return make


@pytest.fixture
def tiny_unet(make_unet):
    """A tiny `UNetMotionModel` of SD 1.5's topology with a v2 adapter's 21 motion blocks. Yours to change."""
    return make_unet()


@pytest.fixture(scope="session")
def make_inputs():
    """`make_inputs(batch=1, frames=4, size=8, timestep=500, seed=0)` -> keyword arguments of a UNet call."""

    def make(batch: int = 1, frames: int = 4, size: int = 8, timestep: int = 500, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        text = torch.randn(batch, 5, TEXT_WIDTH, generator=generator)
        return {
            "sample": torch.randn(batch, 4, frames, size, size, generator=generator),
            "timestep": torch.tensor(timestep),
            # Spatial layers see frames as a batch: the text is repeated for each frame, as the pipeline does.
            "encoder_hidden_states": text.repeat_interleave(frames, dim=0),
        }

    return make


@pytest.fixture
def unet_inputs(make_inputs):
    """Keyword arguments of a call: sample [1, 4, 4, 8, 8], timestep, encoder_hidden_states [1 * 4, 5, 16]."""
    return make_inputs()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory) -> Path:
    """The folder of a project on the embedded default, written once a session: do not change."""
    return embedded_project(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Any) -> Path:
    """A folder with `clone`, a micro project after a whole `dvc repro`, committed, and with what its stages `noted`.

    Made once for all processes that run the tests: do not change, copy.
    """
    from micro import Clone
    from tiny import BLOCKS

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "micro"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            made = Path(tempfile.mkdtemp(dir=folder.parent))
            clone = Clone.new(made / "clone", teacher_folder(levels=2, layers=1))
            ran = clone.repro(env=clone.noted(made / "noted"))
            assert {"check", "inspect", "rank", "distill@r4", "report", *(f"ablate@{b}" for b in BLOCKS)} <= ran
            clone.commit("first run")
            made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """`teacher_folder(levels=4, layers=2)` -> folders `.base` and `.adapter`, written once a session: do not change.

    4 levels and 2 layers have 21 motion blocks (8 x 8 latents or more), 2 levels 11 of them (7 with 1 layer).
    """
    written: dict[tuple[int, int], SimpleNamespace] = {}

    def folder(levels: int = 4, layers: int = 2) -> SimpleNamespace:
        if (levels, layers) not in written:
            path = tmp_path_factory.mktemp(f"teacher_{levels}_{layers}")
            written[levels, layers] = write_teacher(path, levels, layers)
        return written[levels, layers]

    return folder
