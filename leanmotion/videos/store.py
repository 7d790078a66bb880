"""The content-addressed store under all generation.

The unit of work is a chunk: (weights, removed units, sampler settings, consecutive prompts and seeds) -> frames,
kept under the hash of exactly those in a scratch folder that git ignores. Ablations, probes, resuming after a kill,
a larger N, several processes and machines are this one mechanism: work that is there is not done again.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from leanmotion.errors import LeanmotionError
from leanmotion.model.requests import Draw, Request, Variant
from leanmotion.model.sampling_address import sampling_address
from leanmotion.pipeline.claims import Claims
from leanmotion.pipeline.code_address import code_address, library_versions
from leanmotion.pipeline.digests import values_digest
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.settings import Sampling
from leanmotion.pipeline.tables import read_table, table_meta, write_table
from leanmotion.videos.codec import decode_all, encode_all

DRAWING = ("leanmotion.model.samplers:Samplers", "leanmotion.videos.codec:encode")
"""What turns a request into stored frames. All code that these reach is part of a chunk's address.

By name: to merge what is stored, none of it is imported.
"""


@dataclass(frozen=True)
class Chunk:
    """One unit of work and its address in the store."""

    variant: Variant
    requests: tuple[Request, ...]
    address: str


def cut(variant: Variant, requests: Sequence[Request], sampling: Sampling) -> list[Chunk]:
    """Cut requests into chunks of `sampling.chunk`; earlier chunks do not depend on how many requests follow."""
    parts = [tuple(requests[i : i + sampling.chunk]) for i in range(0, len(requests), sampling.chunk)]
    return [Chunk(variant, part, _address(variant, part, sampling)) for part in parts]


class ChunkStore:
    """Chunks as Parquet files, `<folder>/<2 digits>/<address>.parquet`, each written whole or not at all."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or scratch_folder() / "chunks"
        self.claims = Claims(self.folder / "claims")

    def path(self, chunk: Chunk) -> Path:
        """Where a chunk lies, or will."""
        return self.folder / chunk.address[:2] / f"{chunk.address}.parquet"

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those that are not there, each once."""
        return [c for c in dict.fromkeys(chunks) if not self.path(c).is_file()]

    def fill(self, chunks: Sequence[Chunk], draw: Draw) -> Iterator[Chunk]:
        """Draw the missing ones of one variant, yielding each when it is stored.

        While one is drawn, the one before it is encoded and written; no more than these two are in memory. What another
        process is drawing is passed over: see what is still missing, and come back.
        """
        behind: deque[tuple[Chunk, Future[None]]] = deque()
        with ThreadPoolExecutor(1) as writer:
            try:
                for chunk in self.missing(chunks):
                    if self._claimed(chunk):
                        behind.append((chunk, writer.submit(self.put, chunk, self._drawn(chunk, draw))))
                    while len(behind) > 1:
                        yield self._stored(*behind.popleft())
                while behind:
                    yield self._stored(*behind.popleft())
            finally:
                # Whatever stopped the drawing: what was drawn is stored before.
                for chunk, writing in behind:
                    writing.exception()
                    self.claims.release(chunk.address)

    def _claimed(self, chunk: Chunk) -> bool:
        """Whether it is ours to draw: whoever had claimed it before may have stored it meanwhile."""
        if not self.claims.take(chunk.address):
            return False
        if missing := bool(self.missing([chunk])):
            return missing
        self.claims.release(chunk.address)
        return False

    def _drawn(self, chunk: Chunk, draw: Draw) -> UInt8[np.ndarray, "clips frames height width 3"]:
        try:
            return draw(chunk.requests)
        except BaseException:
            self.claims.release(chunk.address)
            raise

    def _stored(self, chunk: Chunk, writing: "Future[None]") -> Chunk:
        try:
            writing.result()
        finally:
            self.claims.release(chunk.address)
        return chunk

    def put(self, chunk: Chunk, clips: UInt8[np.ndarray, "clips frames height width 3"]) -> None:
        """Store a chunk's clips, lossless."""
        rows = [
            {"prompt": r.prompt, "seed": r.seed, "frames": clip.shape[0], "height": clip.shape[1],
             "width": clip.shape[2], "video": video}
            for r, clip, video in zip(chunk.requests, clips, encode_all(clips), strict=True)
        ]  # fmt: skip
        write_table(self.path(chunk), "chunk", rows, meta={"address": chunk.address})

    def videos(self, chunk: Chunk) -> list[dict]:
        """A chunk's rows (prompt, seed, frames, height, width, video bytes).

        Raises:
            LeanmotionError: Missing, or damaged; a damaged one is deleted, so that the next run draws it again.
        """
        try:
            table = read_table(self.path(chunk), "chunk")
        except LeanmotionError as error:
            self.path(chunk).unlink(missing_ok=True)
            raise LeanmotionError(f"{error} (deleted: run again)") from error
        rows = table.to_pylist()
        asked = [(r.prompt, r.seed) for r in chunk.requests]
        if table_meta(table).get("address") != chunk.address or [(r["prompt"], r["seed"]) for r in rows] != asked:
            self.path(chunk).unlink(missing_ok=True)
            raise LeanmotionError(f"{self.path(chunk)}: holds another chunk than its name says (deleted: run again)")
        return rows

    def frames(self, chunk: Chunk) -> UInt8[np.ndarray, "clips frames height width 3"]:
        """A chunk's clips, decoded."""
        return np.stack(decode_all([row["video"] for row in self.videos(chunk)]))


def _address(variant: Variant, requests: Sequence[Request], sampling: Sampling) -> str:
    what = {
        "weights": variant.weights,
        "removed": sorted(variant.removed),
        "dtype": variant.dtype,
        "sampling": sampling_address(sampling),
        "requests": [[r.prompt, r.negative if sampling.guidance > 1 else "", r.seed] for r in requests],
        "code": code_address(*DRAWING),
        "libraries": library_versions(),
    }
    return values_digest(what)
