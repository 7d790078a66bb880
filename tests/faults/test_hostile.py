"""Hostile content stays content: nothing in a prompt, a name or a file is followed, run or read elsewhere."""

import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger import case
from project import Project, refused, run, run_loud

from leanmotion.videos.codec import write_mp4

FAMILY = "hostile content"
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    '"><svg onload=alert(4)>',
    "javascript:alert(5)",
    "../../../etc/passwd",
    "{{ 7 * 7 }} {% include 'x' %}",
]


def test_hostile_words_are_words_in_the_report(project: Project) -> None:
    Path("prompts.txt").write_text("\n".join(HOSTILE))
    project.edit(prompts__source="prompts.txt", report__title=HOSTILE[1])
    for split in ("rank", "select", "report"):
        project.edit(**{f"prompts__{split}": 7})
    run("prompts")
    for split in ("select", "report"):
        for seeds in "ab":
            run("generate", split=split, seeds=seeds, out=f"data/videos/full/{split}_{seeds}.parquet")
    for name in ("r2", "r4"):
        run("render", student=f"data/students/{name}", out=f"data/videos/rounds/{name}.parquet")
    project.edit(report__clips=7)
    run("report")
    page = Path("data/report.html").read_text()
    for word in ("<script>alert", "<img src=x", "<svg onload", "</script><script>alert"):
        with case(FAMILY):
            assert word not in page
    with case(FAMILY):
        import re

        links = re.findall(r"""(?:href|src|action)\s*=\s*["']?\s*([^"'\s>]+)""", page)
        assert not [link for link in links if link.lower().startswith(("javascript:", "http", "file:", "..", "/"))]
    with case(FAMILY):
        assert "49 " not in page.split("{{ 7 * 7 }}")[0][-20:] and "alert(1)" in page


def _video(path: Path) -> None:
    generator = np.random.default_rng(0)
    write_mp4(path, generator.integers(0, 255, (6, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "name",
    ["../outside.mp4", "/etc/passwd", "..\\outside.mp4", "C:\\outside.mp4", "link.mp4", "folder/../../outside.mp4", ""],
)
def test_a_captions_file_reads_nothing_outside_its_folder(project: Project, name: str) -> None:
    """A name that leads out stops the stage; a link that does, and no name at all, leave the row out, with why."""
    Path("videos").mkdir()
    _video(Path("outside.mp4"))
    Path("videos/link.mp4").symlink_to(Path("outside.mp4").resolve())
    Path("captions.csv").write_text(f'file,caption\n"{name}",a dog\n')
    project.edit(clips__source="folder", clips__path="videos", clips__captions="captions.csv")
    with case(FAMILY):
        said = {"link.mp4": ("not one clip", "a link out"), "": ("not one clip", "row 1: names no video")}
        words = said.get(name, ("captions.csv, row 1", "not inside"))
        refused(lambda: run_loud("clips", {"out": "new.parquet"}), *words, within=60)
        assert not Path("new.parquet").exists()


def test_playlists_archives_and_scripts_are_no_videos(project: Project) -> None:
    """They name other files; each is skipped with its reason, and the real video is used."""
    Path("videos").mkdir()
    _video(Path("videos/real.mp4"))
    _video(Path("outside.mp4"))
    outside = Path("outside.mp4").resolve()
    Path("videos/list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{outside}\n#EXT-X-ENDLIST\n")
    Path("videos/concat.mp4").write_text(f"ffconcat version 1.0\nfile '{outside}'\n")
    with zipfile.ZipFile("videos/archive.mp4", "w") as archive:
        archive.write(outside, "../../../climbed.mp4")
    names = ["list.m3u8", "concat.mp4", "archive.mp4", "real.mp4"]
    Path("captions.csv").write_text("file,caption\n" + "".join(f"{name},a dog\n" for name in names))
    project.edit(clips__source="folder", clips__path="videos", clips__captions="captions.csv")
    with case(FAMILY):
        run("clips", out="new.parquet")
        from leanmotion.pipeline.tables import read_table

        assert read_table("new.parquet", "clips")["source"].to_pylist() == ["folder:real.mp4"]
        assert not list(project.folder.parent.rglob("climbed*"))


def test_an_export_replaces_nothing_behind_a_link(project: Project) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/precious").write_text("mine")
    import shutil

    shutil.rmtree("data/export")
    Path("data/export").symlink_to(Path("elsewhere").resolve())
    with case(FAMILY):
        refused(lambda: run_loud("export", {}), "data/export", "link", within=60)
        assert Path("elsewhere/precious").read_text() == "mine"


def test_no_network_unless_a_hub_id_is_named(project: Project, monkeypatch) -> None:
    """Whatever a stage opens: no name is looked up, no address connected to."""
    asked: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for stage, arguments in (
        ("check", {}),
        ("inspect_teacher", {}),
        ("generate", {"split": "rank", "seeds": "a", "out": "new.parquet"}),
        ("embed", {}),
        ("export", {}),
        ("report", {}),
    ):
        with case(FAMILY):
            run(stage, **arguments)
            assert not asked
    from safetensors.torch import save_file

    with case(FAMILY):
        # A single file lacks a configuration, which diffusers would ask the hub for.
        import torch

        save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, "base.safetensors")
        project.edit(teacher__base="base.safetensors")
        refused(lambda: run_loud("inspect_teacher", {}), "teacher.base", "give a folder", within=60)
        assert not asked
