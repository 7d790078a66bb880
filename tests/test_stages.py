"""The real scripts: bad input gets one line that names the setting or file and the mend, and leaves nothing behind."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
import yaml
from committed import ROOT, embedded_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the tests' settings and the project's weights, where stages can run."""
    return embedded_project(tmp_path)


def run(project: Path, stage: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return warm.run([str(ROOT / f"stages/{stage}.py"), *words], project, environment)


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert all(part in lines[0] for part in parts), lines[0]


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".scratch" not in p.parts}


def _edit(project: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    change(params)
    path.write_text(yaml.safe_dump(params))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda p: p["sampling"].update(stpes=3), ("sampling.stpes", "unknown", "'steps'")),
        (lambda p: p["distillation"].update(steps=-1), ("distillation.steps", "-1")),
        (lambda p: p["rounds"]["r21"].update(count=22), ("rounds.r21.count", "21")),
        (lambda p: p["teacher"].update(base="data/teacher/bsae"), ("teacher.base", "missing")),
        (lambda p: p["teacher"].update(adapter="owner/name"), ("teacher.adapter", "missing", "pin", "presets/hub")),
        (lambda p: p["prompts"].update(source="sprites"), ("prompts.source", "builtin/sprites-captions")),
        (lambda p: p["clips"].update(path=None), ("clips.path", "builtin/none")),
        (lambda p: p["clips"].update(captions="nowhere.csv"), ("clips.captions", "nowhere.csv", "builtin/none")),
        (lambda p: p["clips"].update(source="folder"), ("clips.path", "folder")),
        (lambda p: p["sampling"].update(frames=40), ("frames",)),
        (lambda p: p["extractor"].update(sha256="0" * 64), ("sha256", "extractor")),
    ],
)
def test_check_refuses_and_writes_nothing(project: Path, change: Callable[..., Any], parts: tuple[str, ...]) -> None:
    _edit(project, change)
    before = files(project)
    stage = "inspect_teacher" if parts == ("frames",) else "check"
    refused(run(project, stage), *parts)
    assert files(project) == before


def test_inspect_refuses_an_altered_teacher(project: Path) -> None:
    weights = project / "data/teacher/adapter/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(run(project, "inspect_teacher"), "teacher.sha256", "git checkout")
    assert not (project / "data/teacher.json").exists()


def test_inspect_refuses_unknown_and_missing_blocks(project: Path) -> None:
    _edit(project, lambda p: p["teacher"]["blocks"].remove("mid_0"))
    _edit(project, lambda p: p["rounds"].pop("r21"))
    refused(run(project, "inspect_teacher"), "teacher.blocks", "mid_0")
    _edit(project, lambda p: p["teacher"]["blocks"].extend(["mid_0", "up_9_0"]))
    refused(run(project, "inspect_teacher"), "teacher.blocks", "up_9_0")
    assert not (project / "data/units.parquet").exists()


def test_a_stage_refuses_a_truncated_table_and_goes_on_when_it_is_mended(project: Path) -> None:
    assert run(project, "prompts").returncode == 0
    assert run(project, "inspect_teacher").returncode == 0
    table = project / "data/prompts/rank.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    refused(run(project, "ablate", "--block", "mid_0", "--out", "out.parquet"), "rank.parquet", "dvc repro")
    assert not (project / "out.parquet").exists()
    table.write_bytes(whole)
    _edit(project, lambda p: p["teacher"].update(dtype="float32"))
    refused(run(project, "ablate", "--block", "mid_9", "--out", "out.parquet"), "mid_9", "mid_0")


def test_every_script_explains_itself() -> None:
    for script in sorted((ROOT / "stages").glob("*.py")):
        text = script.read_text()
        assert text.startswith('"""'), script
        assert 'if __name__ == "__main__":' in text, script
    done = run(ROOT, "generate", "--help")
    assert done.returncode == 0
    assert "--split" in done.stdout and "rank, select or report" in done.stdout
