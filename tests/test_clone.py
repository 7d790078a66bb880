"""What git hands out is what was committed, byte for byte: DVC and the hashes in params.yaml compare bytes."""

from __future__ import annotations

import os
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
