"""Which clips a student is distilled on, by the settings: rendered sprites, the teacher's own, or a folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from leanmotion.chunks import Chunk, ChunkStore, cut
from leanmotion.clips import Clip, sprites_clips, teacher_clips, write_clips
from leanmotion.errors import LeanmotionError
from leanmotion.folders import Skipped, folder_clips
from leanmotion.memory import settle
from leanmotion.progress import Progress
from leanmotion.prompts import prompt_sequence
from leanmotion.ranks import device, ranks
from leanmotion.rendering import Take, fill_together
from leanmotion.sampling import Request
from leanmotion.settings import Settings
from leanmotion.variants import Samplers


def write_clips_of(settings: Settings, samplers: Samplers, out: Path) -> tuple[int, list[Skipped]]:
    """Write the `clips` table of the settings' source.

    Of many ranks all draw the teacher's clips, and the main one writes.

    Returns:
        The number of clips, and the files of a folder that were skipped, with reasons.

    Raises:
        LeanmotionError: No clip is to be had, or a setting of the source is missing.
    """
    chosen, sampling = settings.clips, settings.sampling
    if chosen.source == "teacher":
        fill_together([_drawn(settings, samplers)], samplers, label="the teacher's own clips")
    ranks().dismiss()
    skipped: list[Skipped] = []
    if chosen.source == "sprites":
        if sampling.height != sampling.width:
            raise LeanmotionError("clips.source: sprites are square: make sampling.height and sampling.width equal")
        clips = sprites_clips(chosen.count, frames=sampling.frames, size=sampling.height, seed=chosen.seed)
    elif chosen.source == "teacher":
        clips = _stored(_drawn(settings, samplers)[1])
    else:
        if chosen.path is None or chosen.captions is None:
            raise LeanmotionError("clips.path and clips.captions: name the folder of videos and its captions file")
        size = {"frames": sampling.frames, "height": sampling.height, "width": sampling.width}
        clips = folder_clips(
            chosen.path, chosen.captions, **size, stride=chosen.stride, seed=chosen.seed, count=chosen.count,
            skipped=skipped,
        )  # fmt: skip
    progress = Progress("clips", chosen.count)
    vae = settle(samplers.base.vae, device()).eval().requires_grad_(False)
    count = write_clips(out, _counted(clips, progress), vae, meta={"source": chosen.source})
    progress.close()
    return count, skipped


def _drawn(settings: Settings, samplers: Samplers) -> tuple[Take, list[Chunk]]:
    """The teacher's own clips under fresh seeds."""
    variant = samplers.teacher()
    return Take("clips", variant, "train"), cut(variant, teacher_requests(settings), settings.sampling)


def _stored(chunks: Sequence[Chunk]) -> Iterator[Clip]:
    """Clips from the chunk store, a chunk in memory at a time."""
    store = ChunkStore()
    for chunk in chunks:
        yield from teacher_clips([request.prompt for request in chunk.requests], store.frames(chunk))


def teacher_requests(settings: Settings) -> Sequence[Request]:
    """Prompts of the training list (for the sprites: the captions that no evaluation uses), seeds of their own."""
    return [
        Request(prompt, settings.prompts.negative, seed)
        for prompt, seed in prompt_sequence(settings.prompts, settings.clips.count, settings.clips.seed)
    ]


def _counted(clips: Iterator[Clip], progress: Progress) -> Iterator[Clip]:
    for clip in clips:
        yield clip
        progress.update(1)
