"""Bits flipped and bytes cut in every kind of file: named, or harmless; never a silently different number."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ledger import case, sample
from project import Project, refused

from leanmotion.distillation.checkpoints import CheckpointStore
from leanmotion.errors import LeanmotionError
from leanmotion.features.extractors import load_extractor
from leanmotion.model.pruned_adapter import read_pruned_config
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord, verify
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import artefact_of, read_table
from leanmotion.videos.codec import decode

CASES = 200

Reader = Callable[[Path], Any]


def _table(path: Path) -> Any:
    """All values and meta of a table, as whoever reads it next gets them."""
    table = read_table(path, artefact_of(path))
    return table.to_pydict(), dict(table.schema.metadata or {})


def _weights_of_teacher(project: Project) -> Reader:
    settings, record = load_settings(), TeacherRecord.read("data/teacher.json")

    def read(path: Path) -> Any:
        verify(settings.teacher, record)
        return path.read_bytes()

    return read


def _extractor(path: Path) -> Any:
    chosen = load_settings().extractor
    load_extractor(chosen.name, path=chosen.path, sha256=chosen.sha256)
    return path.read_bytes()


def _student(path: Path) -> Any:
    student = Student.read(path.parents[1])
    student.verify()
    return read_pruned_config(path.parent), path.read_bytes()


def _checkpoint(path: Path) -> Any:
    state = CheckpointStore(path.parent, "f" * 64).load()
    return None if state is None else (state["weights"]["w"].tolist(), state["rows"].tolist())


def _sums(path: Path) -> Any:
    """What `sha256sum --check SHA256SUMS` does: files of stock formats have no digest of their own."""
    from leanmotion.pipeline.digests import file_sha256

    root = Path("data/export")
    for line in (root / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        if file_sha256(root / name) != digest:
            raise LeanmotionError(f"{root / name}: is not what SHA256SUMS lists")
    return path.read_bytes()


def kinds(project: Project) -> list[tuple[Path, Reader]]:
    """Every kind of artefact and weight file, with how it is read."""
    checkpoint = CheckpointStore(Path(".scratch/distil/x"), "f" * 64)
    checkpoint.save({"weights": {"w": torch.arange(999.0)}, "rows": torch.zeros(2, 3)})
    teacher = _weights_of_teacher(project)
    tables = [*Path("data").glob("*.parquet"), *Path("data/prompts").glob("rank.parquet")]
    tables += [next(Path(folder).rglob("*.parquet")) for folder in (
        "data/videos/full", "data/videos/ablate", "data/videos/rounds", "data/features/full", ".scratch/chunks",
        ".scratch/features", "data/students/r2",
    )]  # fmt: skip
    records = ["data/teacher.json", "data/selection.json", "data/order/r2.json", "data/students/r2/student.json"]
    return [
        *((path, _table) for path in sorted(tables)),
        *((Path(name), lambda path: read_record(path, made_by="dvc repro")) for name in records),
        *((path, teacher) for path in sorted(Path("micro").rglob("*.safetensors"))),
        (Path("micro/base/unet/config.json"), teacher),
        (Path("micro/adapter/config.json"), teacher),
        (Path("data/extractor/model.safetensors"), _extractor),
        (Path("data/extractor/config.json"), _extractor),
        (Path("data/students/r4/adapter/pruned_motion.safetensors"), _student),
        (Path("data/students/r4/adapter/config.json"), _student),
        (checkpoint.path, _checkpoint),
        (Path("data/export/portable/diffusion_pytorch_model.safetensors"), _sums),
        (Path("data/export/original/motion_module.ckpt"), _sums),
    ]


def test_damage_is_named_or_harmless(project: Project) -> None:
    files = kinds(project)
    numbers = sample(range(CASES), 60)
    whole = {path: reader(path) for path, reader in files}
    detected = 0
    for number in numbers:
        path, reader = files[number % len(files)]
        generator = random.Random(number)
        content = bytearray(original := path.read_bytes())
        if number % 4 == 3:
            content = content[: generator.randrange(len(content))]
        else:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        with case("corruption"):
            path.write_bytes(content)
            try:
                found = reader(path)
            except LeanmotionError as error:
                detected += 1
                assert "\n" not in str(error), f"case {number}, {path}"
                assert path.name in str(error) or str(path.parent) in str(error), f"case {number}: {error}"
            else:
                assert repr(found) == repr(whole[path]), f"case {number}: {path} went unseen"
            finally:
                path.write_bytes(original)
    assert detected > 0.75 * len(numbers)  # the rest hit bytes that mean nothing: statistics, padding, unused headers


def test_a_clip_is_checked_of_its_own(project: Project) -> None:
    """Also where a video's bytes are taken out of their table."""
    video = read_table("data/videos/full/rank_a.parquet", "videos")["video"][0].as_py()
    for number in sample(range(20), 5):
        generator = random.Random(number)
        content = bytearray(video)
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        with case("corruption"), pytest.raises(LeanmotionError, match="altered or cut short"):
            decode(bytes(content))


def test_a_stage_names_what_is_damaged(project: Project) -> None:
    """Through the real stages: a student whose config says other heads has the same weights, and would draw others."""
    from project import run_loud

    config = Path("data/students/r4/adapter/config.json")
    text = config.read_text()
    shutil.rmtree(".scratch")
    with case("corruption"):
        config.write_text(text.replace('"motion_num_attention_heads": 2', '"motion_num_attention_heads": 1'))
        assert config.read_text() != text
        arguments = {"student": "data/students/r4", "out": "new.parquet"}
        refused(lambda: run_loud("render", arguments), "r4", "config.json", "dvc repro", within=60)
        assert not Path("new.parquet").exists()
        config.write_text(text)
    with case("corruption"):
        order = Path("data/order/r2.json")
        gone = read_record(order, made_by="")["removed"]
        other = next(block for block in load_settings().teacher.blocks if block not in gone)
        order.write_text(order.read_text().replace(gone[0], other))
        arguments = {"name": "r2", "previous": "data/students/base", "order": str(order), "out": "new"}
        refused(lambda: run_loud("distill", arguments), "order/r2.json", "corrupt", "dvc repro rank", within=60)
        assert not Path("new").exists()


def test_a_damaged_chunk_is_drawn_again(project: Project) -> None:
    """The scratch store heals itself: the damaged chunk goes, and the next run ends with the same table."""
    from project import run, run_loud

    arguments = {"split": "rank", "seeds": "a", "out": "data/videos/full/rank_a.parquet"}
    before = Path(arguments["out"]).read_bytes()
    for path in sorted(Path(".scratch/chunks").rglob("*.parquet")):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    with case("corruption"):
        for _ in range(5):  # four chunks of one clip each: each run names one and deletes it
            try:
                run("generate", **arguments)
                break
            except LeanmotionError as error:
                assert "deleted: run again" in str(error) and os.sep in str(error)
        assert Path(arguments["out"]).read_bytes() == before
    kept = next(Path(".scratch/features").glob("*.parquet"))
    kept.write_bytes(kept.read_bytes()[:100])
    with case("corruption"):
        run_loud("embed", {})
