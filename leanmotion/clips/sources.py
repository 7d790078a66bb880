"""Which clips a student is distilled on, by the settings: rendered sprites, the teacher's own, or a folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from leanmotion.clips.latents import Clip, sprites_clips, teacher_clips, write_clips
from leanmotion.clips.video_folder import Skipped, check_names, folder_clips
from leanmotion.errors import LeanmotionError
from leanmotion.model.memory import settle
from leanmotion.model.requests import requests_of
from leanmotion.model.samplers import Samplers
from leanmotion.pipeline.processes import device, ranks
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.watched_paths import clips_folder
from leanmotion.videos.rendering import Take, fill_together
from leanmotion.videos.store import Chunk, ChunkStore, cut


def write_clips_of(
    settings: Settings, samplers: Samplers, out: Path, *, prompts: Path = Path("data/prompts")
) -> tuple[int, list[Skipped]]:
    """Write the `clips` table of the settings' source.

    Of many ranks all draw the teacher's clips, and the main one writes.

    Args:
        settings: All settings.
        samplers: Of the teacher.
        out: The table.
        prompts: The folder of prompt tables: the teacher's own clips are of `train.parquet`.

    Returns:
        The number of clips, and the files of a folder that were skipped, with reasons.

    Raises:
        LeanmotionError: No clip is to be had, or a setting of the source is missing.
    """
    chosen, sampling = settings.clips, settings.sampling
    check_shape(settings)
    if chosen.source == "teacher":
        fill_together([_drawn(settings, samplers, prompts)], samplers, label="the teacher's own clips")
    ranks().dismiss()
    skipped: list[Skipped] = []
    if chosen.source == "sprites":
        clips = sprites_clips(chosen.count, frames=sampling.frames, size=sampling.height, seed=chosen.seed)
    elif chosen.source == "teacher":
        clips = _stored(_drawn(settings, samplers, prompts)[1])
    else:
        clips = _from_folder(settings, chosen.count, skipped)
    progress = Progress("clips", chosen.count)
    vae = settle(samplers.base.vae, device()).eval().requires_grad_(False)
    count = write_clips(out, _counted(clips, progress), vae, meta={"source": chosen.source})
    progress.close()
    return count, skipped


def check_shape(settings: Settings) -> None:
    """Refuse a source that has no clips of the settings' shape.

    Raises:
        LeanmotionError: Sprites are square.
    """
    if settings.clips.source == "sprites" and settings.sampling.height != settings.sampling.width:
        raise LeanmotionError("clips.source: sprites are square: make sampling.height and sampling.width equal")


def check_folder(settings: Settings) -> None:
    """Refuse a folder that gives no clip, and captions that name what is outside of it; reads one clip at least.

    Raises:
        LeanmotionError: As said, or neither folder nor captions are to be read.
    """
    if settings.clips.source == "folder":
        folder, captions = clips_folder(settings)
        next(_from_folder(settings, 1, []))
        check_names(folder, captions)


def _from_folder(settings: Settings, count: int, skipped: list[Skipped]) -> Iterator[Clip]:
    folder, captions = clips_folder(settings)
    chosen, sampling = settings.clips, settings.sampling
    size = {"frames": sampling.frames, "height": sampling.height, "width": sampling.width}
    how = {"stride": chosen.stride, "seed": chosen.seed, "count": count}
    clips = folder_clips(folder, captions, **size, **how, skipped=skipped)
    if (first := next(clips, None)) is None:
        why = f", first {skipped[0].file}: {skipped[0].reason}" if skipped else ", as it has no rows"
        raise LeanmotionError(
            f"clips.captions: {captions} gives not one clip to train on{why} ({len(skipped)} skipped)"
        )
    yield first
    yield from clips


def _drawn(settings: Settings, samplers: Samplers, prompts: Path) -> tuple[Take, list[Chunk]]:
    """The teacher's own clips under fresh seeds."""
    variant = samplers.teacher()
    return Take("clips", variant, "train"), cut(variant, requests_of(prompts, "train", "a"), settings.sampling)


def _stored(chunks: Sequence[Chunk]) -> Iterator[Clip]:
    """Clips from the chunk store, a chunk in memory at a time."""
    store = ChunkStore()
    for chunk in chunks:
        yield from teacher_clips([request.prompt for request in chunk.requests], store.frames(chunk))


def _counted(clips: Iterator[Clip], progress: Progress) -> Iterator[Clip]:
    for clip in clips:
        yield clip
        progress.update(1)
