"""The store: what an address depends on, what is kept, what is drawn again."""

import hashlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field

from leanmotion.errors import LeanmotionError
from leanmotion.model.requests import Request, Variant
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.setting_address import AsBefore
from leanmotion.pipeline.settings import Sampling
from leanmotion.videos import store as module
from leanmotion.videos.store import ChunkStore, cut

SAMPLING = Sampling(frames=2, height=8, width=16, steps=3, guidance=1.0, chunk=3, threads=1)
TEACHER = Variant("a" * 64)


def requests(count: int) -> list[Request]:
    return [Request(f"prompt {i}", "", i) for i in range(count)]


def draw(asked) -> np.ndarray:
    """Noise that depends on the request alone."""
    return np.stack([_noise(request) for request in asked])


def _noise(request: Request) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(repr(request).encode()).digest()[:4], "little")
    return np.random.default_rng(seed).integers(0, 256, (2, 8, 16, 3), dtype=np.uint8)


class Counted:
    """A sampler that counts its calls, and may be killed in the middle."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.calls, self.dies_after = 0, dies_after

    def __call__(self, asked) -> np.ndarray:
        if self.calls == self.dies_after:
            raise KeyboardInterrupt
        self.calls += 1
        return draw(asked)


def address(variant: Variant = TEACHER, asked=None, sampling: Sampling = SAMPLING) -> str:
    return cut(variant, asked or requests(3), sampling)[0].address


@pytest.fixture
def store(tmp_path) -> ChunkStore:
    return ChunkStore(tmp_path / "chunks")


def test_an_address_is_a_function_of_what_is_drawn() -> None:
    assert address() == address(Variant("a" * 64, (), "float32"), requests(3), SAMPLING.model_copy())
    assert len(address()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 3}, {"height": 16}, {"width": 8}, {"steps": 4}, {"guidance": 2.0}, {"scheduler": "euler"},
        {"chunk": 4}, {"threads": 2}, {"attention": "eager"}, {"vae_slicing": True}, {"vae_tiling": True},
        {"torch_compile": True},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_the_sampler_is_part_of_it(change: dict) -> None:
    assert set(Sampling.model_fields) == {
        "frames", "height", "width", "steps", "guidance", "scheduler", "chunk", "threads", "attention",
        "vae_slicing", "vae_tiling", "torch_compile",
    }  # fmt: skip
    assert address(sampling=SAMPLING.model_copy(update=change)) != address()


def test_weights_units_type_and_requests_are_part_of_it() -> None:
    others = [
        address(Variant("b" * 64)),
        address(Variant("a" * 64, ("mid_0",))),
        address(Variant("a" * 64, ("mid_0", "up_0_0"))),
        address(Variant("a" * 64, (), "bfloat16")),
        address(asked=[Request("prompt 0", "", 0), Request("prompt 1", "", 1), Request("prompt 2", "", 9)]),
        address(asked=[Request("prompt 0", "", 0), Request("prompt 1", "", 1), Request("prompt 9", "", 2)]),
        address(asked=requests(3)[::-1]),
        address(asked=requests(2)),
    ]
    assert len({address(), *others}) == 1 + len(others)


def test_the_order_of_removed_units_is_not() -> None:
    assert address(Variant("a" * 64, ("mid_0", "up_0_0"))) == address(Variant("a" * 64, ("up_0_0", "mid_0")))


def test_the_negative_prompt_counts_where_guidance_reads_it() -> None:
    ugly = [Request(r.prompt, "ugly", r.seed) for r in requests(3)]
    assert address(asked=ugly) == address()
    guided = SAMPLING.model_copy(update={"guidance": 7.5})
    assert address(asked=ugly, sampling=guided) != address(sampling=guided)


def test_code_and_libraries_count(monkeypatch) -> None:
    found = {address()}
    for name, other in (("code_address", lambda *roots: "other"), ("library_versions", lambda: {"torch": "other"})):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, other)
            found.add(address())
    assert len(found) == 3


def test_a_setting_added_later_leaves_addresses_alone_while_all_is_as_before() -> None:
    """Also where its default is another, or becomes another, than what things were before there was such a setting."""

    class Later(Sampling):
        fused: Annotated[bool, AsBefore(False)] = True
        overlap: Annotated[int, Field(ge=0), AsBefore(0)] = 0

    class Undeclared(Later):
        other: int = 0

    values = SAMPLING.model_dump()
    assert address(sampling=Later(**values, fused=False)) == address()
    others = [
        Later(**values),
        Later(**values, overlap=1),
        Later(**values, fused=False, overlap=1),
        Undeclared(**values, fused=False),
    ]
    assert len({address(), *(address(sampling=sampling) for sampling in others)}) == 1 + len(others)


@pytest.mark.parametrize("count", [1, 3, 7, 9])
def test_raising_the_number_keeps_all_full_chunks(count: int) -> None:
    few, many = cut(TEACHER, requests(count), SAMPLING), cut(TEACHER, requests(20), SAMPLING)
    assert [r for chunk in many for r in chunk.requests] == requests(20)
    full = count // SAMPLING.chunk
    assert few[:full] == many[:full]
    assert len({chunk.address for chunk in many}) == len(many)


def test_put_and_read(store) -> None:
    chunk = cut(TEACHER, requests(3), SAMPLING)[0]
    assert store.missing([chunk, chunk]) == [chunk]
    store.put(chunk, draw(chunk.requests))
    assert store.missing([chunk]) == []
    assert np.array_equal(store.frames(chunk), draw(chunk.requests))
    rows = store.videos(chunk)
    assert [(row["prompt"], row["seed"]) for row in rows] == [(r.prompt, r.seed) for r in chunk.requests]
    assert {(row["frames"], row["height"], row["width"]) for row in rows} == {(2, 8, 16)}
    assert store.path(chunk).parent.name == chunk.address[:2]


def test_filling_draws_what_is_missing(store) -> None:
    sampler = Counted()
    assert list(store.fill(cut(TEACHER, requests(7), SAMPLING), sampler)) == cut(TEACHER, requests(7), SAMPLING)
    assert sampler.calls == 3
    assert list(store.fill(cut(TEACHER, requests(7), SAMPLING), sampler)) == [] and sampler.calls == 3
    # The last chunk was not full: it alone is drawn anew, and two follow.
    assert len(list(store.fill(cut(TEACHER, requests(12), SAMPLING), sampler))) == 2 and sampler.calls == 5


@pytest.mark.parametrize("dies_after", [0, 1, 4])
def test_an_interrupted_fill_goes_on(store, tmp_path, dies_after: int) -> None:
    jobs = cut(TEACHER, requests(15), SAMPLING)
    with pytest.raises(KeyboardInterrupt):
        list(store.fill(jobs, Counted(dies_after)))
    assert len(store.missing(jobs)) == 5 - dies_after
    sampler = Counted()
    assert len(list(store.fill(jobs, sampler))) == sampler.calls == 5 - dies_after
    undisturbed = ChunkStore(tmp_path / "other")
    list(undisturbed.fill(jobs, draw))
    for chunk in jobs:
        assert store.path(chunk).read_bytes() == undisturbed.path(chunk).read_bytes()
    assert not list(store.folder.rglob("*.partial"))


def test_one_is_written_while_the_next_is_drawn(store, monkeypatch) -> None:
    """Writing the first waits for the second to be drawn: one after the other, this would never end."""
    jobs, second, put = cut(TEACHER, requests(9), SAMPLING), threading.Event(), store.put

    def waiting(chunk, clips) -> None:
        assert chunk != jobs[0] or second.wait(60), "the next is not drawn meanwhile"
        put(chunk, clips)

    def noticed(asked):
        if asked == jobs[1].requests:
            second.set()
        return draw(asked)

    monkeypatch.setattr(store, "put", waiting)
    assert list(store.fill(jobs, noticed)) == jobs
    assert not store.missing(jobs)


def test_kill_9_while_one_is_written_and_the_next_is_drawn(store, tmp_path, monkeypatch) -> None:
    """Nothing is half-written, and the rerun draws both anew, to the bytes of an undisturbed run."""
    jobs = cut(TEACHER, requests(15), SAMPLING)
    written, drawn = tmp_path / "written", tmp_path / "drawn"

    def drawing(asked):
        if asked == jobs[2].requests:
            drawn.touch()
            time.sleep(60)
        return draw(asked)

    def named(partial: Path, path: Path) -> None:
        """A file that is filled gets its name: before that the second one stays."""
        if path == store.path(jobs[1]):
            written.touch()
            time.sleep(60)
        partial.rename(path)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(Path, "replace", named)
        try:
            list(store.fill(jobs, drawing))
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not (written.exists() and drawn.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert store.missing(jobs) == jobs[1:]
    assert len(list(store.folder.rglob("*.partial"))) == 1
    assert list(store.fill(jobs, draw)) == jobs[1:], "no claim is left"
    undisturbed = ChunkStore(tmp_path / "other")
    list(undisturbed.fill(jobs, draw))
    for chunk in jobs:
        assert store.path(chunk).read_bytes() == undisturbed.path(chunk).read_bytes()
    assert not list(store.folder.rglob("*.partial"))


def test_an_error_of_writing_ends_the_drawing(store, monkeypatch) -> None:
    jobs, sampler = cut(TEACHER, requests(15), SAMPLING), Counted()

    def full(chunk, clips) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", full)
        with pytest.raises(OSError, match="No space left"):
            list(store.fill(jobs, sampler))
    # The first write fails while the second is drawn, at the latest.
    assert sampler.calls <= 2 and len(store.missing(jobs)) == 5
    # No claim is left behind: all can be drawn now.
    assert list(store.fill(jobs, draw)) == jobs


def test_a_damaged_chunk_is_deleted_and_named(store) -> None:
    chunk = cut(TEACHER, requests(3), SAMPLING)[0]
    store.put(chunk, draw(chunk.requests))
    path = store.path(chunk)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LeanmotionError, match=rf"{chunk.address}.*corrupt.*deleted: run again"):
        store.videos(chunk)
    assert store.missing([chunk]) == [chunk]


def test_a_chunk_of_other_prompts_is_deleted_and_named(store) -> None:
    chunk, other = cut(TEACHER, requests(6), SAMPLING)
    store.put(chunk, draw(chunk.requests))
    store.path(other).parent.mkdir(parents=True, exist_ok=True)
    store.path(chunk).rename(store.path(other))
    with pytest.raises(LeanmotionError, match="holds another chunk than its name says"):
        store.videos(other)
    assert store.missing([other]) == [other]


def test_a_sampler_that_returns_too_few_clips_stores_nothing(store) -> None:
    chunk = cut(TEACHER, requests(3), SAMPLING)[0]
    with pytest.raises(ValueError, match="zip"):
        store.put(chunk, draw(chunk.requests[:2]))
    assert store.missing([chunk]) == [chunk]


def test_where_the_store_lies(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("LEANMOTION_SCRATCH", raising=False)
    assert scratch_folder() == Path(".scratch")
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path))
    assert ChunkStore().folder == tmp_path / "chunks"
