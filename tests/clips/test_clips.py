"""Distillation data: encoding, streaming, and folders of videos that cannot be trusted."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from leanmotion.clips import video_folder
from leanmotion.clips.latents import Clip, encode_clips, sprites_clips, teacher_clips, write_clips
from leanmotion.clips.video_folder import Skipped, folder_clips, inside, read_clip
from leanmotion.distillation.clip_source import ClipSource
from leanmotion.errors import LeanmotionError
from leanmotion.videos.codec import encode, write_mp4


@pytest.fixture(scope="module")
def vae() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    make: Any = AutoencoderKL  # its own hints say one level

    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        return make(
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(4, 4),
            norm_num_groups=2,
            scaling_factor=0.5,
        ).eval()


def pictures(seed: int, frames: int = 2, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3), dtype=np.uint8)


def numbered(count: int) -> Iterator[Clip]:
    for i in range(count):
        yield Clip(f"caption {i}", pictures(i), "test")


@pytest.fixture(scope="module")
def table(vae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 clips: row groups of 32, 32 and 6."""
    path = tmp_path_factory.mktemp("clips") / "clips.parquet"
    assert write_clips(path, numbered(70), vae) == 70
    return path


def test_latents_are_the_scaled_mean_of_the_posterior(vae: Any) -> None:
    frames = np.stack([pictures(0), pictures(1), pictures(2)])
    latents = encode_clips(frames, vae, batch=4)
    assert latents.shape == (3, 4, 2, 4, 4) and latents.dtype == torch.float32
    x = torch.from_numpy(frames[2, 1]).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(x).latent_dist.mean[0] * 0.5
    # Another batch size: float32 rounding on values of order 1 through some ten layers.
    torch.testing.assert_close(latents[2, :, 1], mean, rtol=0, atol=1e-5)


def test_what_is_written_is_what_is_read(table: Path, vae: Any) -> None:
    source = ClipSource(table)
    assert len(source) == 70 and source.shape == (4, 2, 4, 4) and len(source.digest) == 64
    latents, captions = source.batch([69, 0, 31, 32])
    assert captions == ["caption 69", "caption 0", "caption 31", "caption 32"]
    last = encode_clips(np.stack([pictures(i) for i in range(64, 70)]), vae)
    assert torch.equal(latents[0], last[5])
    with pytest.raises(IndexError):
        source.batch([70])


def test_the_same_clips_give_the_same_digest(table: Path, vae: Any, tmp_path: Path) -> None:
    write_clips(tmp_path / "again.parquet", numbered(70), vae)
    write_clips(tmp_path / "other.parquet", numbered(69), vae)
    digest = ClipSource(table).digest
    assert ClipSource(tmp_path / "again.parquet").digest == digest
    assert ClipSource(tmp_path / "other.parquet").digest != digest


def test_order_has_every_clip_once_a_pass_and_needs_no_state(table: Path) -> None:
    source = ClipSource(table, window=2)
    first, second = source.order(0, 0, 70), source.order(0, 70, 70)
    assert sorted(first) == sorted(second) == list(range(70))
    assert first != second and first != source.order(1, 0, 70)
    assert source.order(0, 65, 10) == (first + second)[65:75]
    assert first != sorted(first)


def test_memory_holds_few_row_groups(table: Path) -> None:
    source: Any = ClipSource(table, window=1, remembered=1)
    read: list[int] = []
    whole = source._file.read_row_group
    source._file = type("Counting", (), {"read_row_group": lambda _, n, **k: read.append(n) or whole(n, **k)})()
    for start in range(0, 140, 10):
        source.batch(source.order(0, start, 10))
        assert len(source._groups) <= 2
    # Two passes over three groups: each is read once a pass, or twice where a batch lies across two.
    assert len(read) <= 8


def test_a_cut_file_and_a_missing_one(table: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(LeanmotionError, match="corrupt"):
        ClipSource(cut)
    with pytest.raises(LeanmotionError, match="no such file"):
        ClipSource(tmp_path / "none.parquet")


def test_nothing_is_left_of_a_failed_write(vae: Any, tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    with pytest.raises(LeanmotionError, match="not one clip"):
        write_clips(path, iter([]), vae)
    mixed = [Clip("a", pictures(0), "a"), Clip("b", pictures(0, frames=3), "b")]
    with pytest.raises(LeanmotionError, match="others are"):
        write_clips(path, mixed, vae)
    assert not list(tmp_path.iterdir())


def test_sprites_are_training_captions_and_extend() -> None:
    from leanmotion.sprites.world import held_out_captions, training_captions

    few, more = (list(sprites_clips(n, frames=2, size=16, seed=1)) for n in (33, 121))
    assert [c.caption for c in more[:33]] == [c.caption for c in few]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(few, more, strict=False))
    # 120 training captions: each once before any comes again.
    assert {c.caption for c in more[:120]} == set(training_captions())
    assert not {c.caption for c in more} & set(held_out_captions())
    assert few[0].frames.shape == (2, 16, 16, 3)


def test_clips_that_the_teacher_drew() -> None:
    (clip,) = teacher_clips(["a"], [pictures(0)])
    assert clip.caption == "a" and clip.source == "teacher"
    with pytest.raises(ValueError):
        list(teacher_clips(["a", "b"], [pictures(0)]))


def lossless(path: Path, video: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(video))


def captions_file(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


SIZE: dict[str, Any] = {"frames": 3, "height": 16, "width": 16}


def test_a_folder_gives_its_frames_and_lists_what_it_skips(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    video = pictures(0, frames=5, size=16)
    lossless(root / "a/good.mkv", video)
    lossless(root / "short.mkv", video[:4])
    (root / "broken.mkv").write_bytes((root / "a/good.mkv").read_bytes()[:300])
    (root / "text.mp4").write_text("not a video")
    names = ["a/good.mkv", "short.mkv", "broken.mkv", "text.mp4", "gone.mp4"]
    listed = captions_file(tmp_path / "captions.csv", [{"file": n, "caption": f"of {n}"} for n in names])
    skipped: list[Skipped] = []
    (clip,) = folder_clips(root, listed, **SIZE, stride=2, skipped=skipped)
    # 5 frames at stride 2 leave one place for 3 frames; no scaling, so the frames come out exactly.
    assert np.array_equal(clip.frames, video[::2])
    assert (clip.caption, clip.source) == ("of a/good.mkv", "folder:a/good.mkv")
    reasons = {s.file: s.reason for s in skipped}
    assert list(reasons) == names[1:]
    assert reasons["short.mkv"] == "has 4 frames, 5 are needed" and reasons["gone.mp4"] == "no such file"


def test_crops_belong_to_seed_and_name(tmp_path: Path) -> None:
    for name in ("a.mkv", "b.mkv"):
        lossless(tmp_path / name, pictures(0, frames=12, size=40))
    ab = captions_file(tmp_path / "ab.csv", [{"file": n, "caption": "x"} for n in ("a.mkv", "b.mkv")])
    only = captions_file(tmp_path / "b.csv", [{"file": "b.mkv", "caption": "x"}])
    a, b = folder_clips(tmp_path, ab, **SIZE, skipped=[])
    (alone,) = folder_clips(tmp_path, only, **SIZE, skipped=[])
    (other,) = folder_clips(tmp_path, only, **SIZE, seed=1, skipped=[])
    assert np.array_equal(b.frames, alone.frames)
    assert not np.array_equal(a.frames, b.frames) and not np.array_equal(b.frames, other.frames)
    assert len(list(folder_clips(tmp_path, ab, **SIZE, count=1, skipped=[]))) == 1


def test_a_video_is_scaled_until_it_covers_the_crop(tmp_path: Path) -> None:
    lossless(tmp_path / "wide.mkv", np.full((3, 10, 30, 3), 200, np.uint8))
    video = read_clip(tmp_path / "wide.mkv", **SIZE, stride=1, rng=np.random.default_rng(0))
    # A flat picture stays flat: the scaler's rounding is within one grey level.
    assert video.shape == (3, 16, 16, 3) and abs(video.astype(int) - 200).max() <= 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_webvid_layout(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    (root / "000001_000050").mkdir(parents=True)
    write_mp4(root / "000001_000050/1066674784.mp4", np.full((4, 32, 32, 3), 100, np.uint8), 8)
    row = {"videoid": "1066674784", "name": "a grey wall", "page_dir": "000001_000050", "duration": "PT1S"}
    if kind == "csv":
        listed = captions_file(tmp_path / "results.csv", [row])
    else:
        listed = tmp_path / "results.parquet"
        pq.write_table(pa.Table.from_pylist([row | {"videoid": 1066674784}]), listed)
    skipped: list[Skipped] = []
    (clip,) = folder_clips(root, listed, **SIZE, skipped=skipped)
    assert clip.caption == "a grey wall" and clip.frames.shape == (3, 16, 16, 3) and not skipped


OUTSIDE = ["../secret.mkv", "a/../../secret.mkv", "/etc/hostname", "..\\secret.mkv", "C:\\secret.mkv", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_captions_file_names_nothing_outside_its_folder(name: str, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    lossless(tmp_path / "secret.mkv", pictures(0, frames=3, size=16))
    with pytest.raises(LeanmotionError, match="not inside"):
        inside(root, name, "captions.csv, row 1")
    listed = tmp_path / "captions.parquet"
    pq.write_table(pa.table({"file": [name], "caption": ["x"]}), listed)
    with pytest.raises(LeanmotionError, match="row 1"):
        list(folder_clips(root, listed, **SIZE, skipped=[]))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with a video of its own, and with links: to it, out of the folder, and to a folder outside."""
    root = tmp_path / "videos"
    lossless(root / "own.mkv", pictures(0, frames=3, size=16))
    lossless(tmp_path / "secret.mkv", pictures(1, frames=3, size=16))
    (root / "inner.mkv").symlink_to(root / "own.mkv")
    (root / "link.mkv").symlink_to(tmp_path / "secret.mkv")
    (root / "away").symlink_to(tmp_path)
    (root / "loop.mkv").symlink_to(root / "loop.mkv")
    return root


def test_links_out_of_the_folder_are_skipped_and_listed(linked: Path, tmp_path: Path) -> None:
    names = ["link.mkv", "inner.mkv", "away/secret.mkv", "loop.mkv", "own.mkv"]
    listed = captions_file(tmp_path / "c.csv", [{"file": n, "caption": f"of {n}"} for n in names])
    skipped: list[Skipped] = []
    clips = list(folder_clips(linked, listed, **SIZE, skipped=skipped))
    assert [clip.caption for clip in clips] == ["of inner.mkv", "of own.mkv"]
    reasons = {one.file: one.reason for one in skipped}
    assert reasons.keys() == {"link.mkv", "away/secret.mkv", "loop.mkv"}
    assert "link out of the folder" in reasons["link.mkv"] and "link out" in reasons["away/secret.mkv"]


def test_links_into_the_cache_of_dvc_are_followed(linked: Path, tmp_path: Path, monkeypatch) -> None:
    """`cache.type: symlink`: DVC then leaves nothing but links in a folder that it tracks."""
    from dvc.repo import Repo

    Repo.init(str(linked), no_scm=True).close()
    cached = linked / ".dvc/cache/files/md5/ab/cdef"
    elsewhere = tmp_path / "cache"
    for place, name in ((cached, "tracked.mkv"), (elsewhere / "ab/cdef", "shared.mkv")):
        lossless(place, pictures(2, frames=3, size=16))
        (linked / name).symlink_to(place)
    listed = captions_file(tmp_path / "c.csv", [{"file": n, "caption": "x"} for n in ("tracked.mkv", "shared.mkv")])
    skipped: list[Skipped] = []
    assert [c.source for c in folder_clips(linked, listed, **SIZE, skipped=skipped)] == ["folder:tracked.mkv"]
    assert [one.file for one in skipped] == ["shared.mkv"]
    video_folder._caches.cache_clear()
    (linked / ".dvc/config.local").write_text(f"[cache]\n    dir = {elsewhere}\n")
    assert [c.source for c in folder_clips(linked, listed, **SIZE, skipped=skipped)][-1] == "folder:shared.mkv"


def test_a_playlist_does_not_open_other_files(tmp_path: Path) -> None:
    """A file that says .mp4 and is a playlist would make the decoder read whatever it names."""
    root = tmp_path / "videos"
    root.mkdir()
    write_mp4(tmp_path / "secret.mp4", np.full((4, 32, 32, 3), 100, np.uint8), 8)
    secret = tmp_path / "secret.mp4"
    (root / "hls.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    (root / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    listed = captions_file(tmp_path / "c.csv", [{"file": n, "caption": "x"} for n in ("hls.mp4", "concat.mp4")])
    skipped: list[Skipped] = []
    assert list(folder_clips(root, listed, **SIZE, skipped=skipped)) == []
    assert [s.file for s in skipped] == ["hls.mp4", "concat.mp4"]
    assert all("a playlist" in s.reason for s in skipped)


def test_unusable_folders_and_captions_files(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match="no such folder"):
        list(folder_clips(tmp_path / "none", tmp_path / "c.csv", **SIZE, skipped=[]))
    with pytest.raises(LeanmotionError, match="not a readable captions file"):
        list(folder_clips(tmp_path, tmp_path / "c.csv", **SIZE, skipped=[]))
    wrong = captions_file(tmp_path / "wrong.csv", [{"path": "a", "text": "b"}])
    with pytest.raises(LeanmotionError, match="has columns path, text"):
        list(folder_clips(tmp_path, wrong, **SIZE, skipped=[]))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(LeanmotionError, match="not a readable captions file"):
        list(folder_clips(tmp_path, tmp_path / "torn.parquet", **SIZE, skipped=[]))
