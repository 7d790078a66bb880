"""Make the clips that students are distilled on: VAE latents and captions."""

from pathlib import Path

from leanmotion import stage, summary
from leanmotion.clip_sources import write_clips_of
from leanmotion.settings import load_settings
from leanmotion.teacher import TeacherRecord
from leanmotion.variants import Samplers


def main(
    params: Path = Path("params.yaml"),
    teacher: Path = Path("data/teacher.json"),
    out: Path = Path("data/clips.parquet"),
) -> None:
    """Write the latents of `clips.count` clips from the source of the settings."""
    settings = load_settings(params)
    count, skipped = write_clips_of(settings, Samplers(settings, TeacherRecord.read(teacher)), out)
    print(f"{count} clips from {settings.clips.source}, {len(skipped)} skipped")
    if skipped:
        summary.show("skipped", ["file", "why"], [[file.file, file.reason] for file in skipped])


if __name__ == "__main__":
    stage.run(main, spread=True)
