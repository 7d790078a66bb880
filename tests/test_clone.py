"""What git hands out is what was committed, byte for byte: DVC and the hashes in params.yaml compare bytes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from committed import ROOT

TEXTS = ("params.yaml", "dvc.yaml", "stages/check.py", "leanmotion/errors.py", "builtin/none")


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.autocrlf=input", "core.eol=crlf"])
def test_line_ends_are_never_converted(setting: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (*TEXTS, ".gitattributes"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    (source / "windows.txt").write_bytes(b"a\r\nb\r\n")

    def git(folder: Path, *words: str) -> str:
        who = {f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **who}
        command = ["git", "-c", setting, *words]
        done = subprocess.run(command, cwd=folder, env=os.environ | alone, capture_output=True, text=True, check=True)
        return done.stdout

    git(source, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "x")
    git(tmp_path, "clone", "--quiet", str(source), "clone")
    for name in (*TEXTS, "windows.txt"):
        assert (tmp_path / "clone" / name).read_bytes() == (source / name).read_bytes(), name
    assert git(tmp_path / "clone", "status", "--porcelain") == ""


MADE = re.compile(r"""(?:ROOT|PACKAGE\.parent|parents\[\d\]) / ["'](?:params\.yaml|dvc\.lock|metrics|data)\b""")
TAKEN = {
    "committed.py": "what lies here where git holds none, or what this tree's code reads no more",
    "test_readme.py": "metrics that are not committed yet can make it pass, never fail",
    "test_rounding.py": "the same",
    "test_params_file.py": "a name in a list: what is read is git's",
    "test_refusals.py": "the extractor in git",
}
"""Files of the tests that name settings, lock, metrics or data of the working tree, and why they may."""


def test_no_test_takes_what_its_user_has_made() -> None:
    """Another preset in params.yaml, another run's metrics: `make test` is green all the same."""
    sources = Path(__file__).parent.rglob("*.py")
    assert {path.name for path in sources if MADE.search(path.read_text(encoding="utf-8"))} == set(TAKEN)
