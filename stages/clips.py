"""Make the clips that students are distilled on: VAE latents and captions."""

from pathlib import Path

import pyarrow.parquet as pq

from leanmotion.clips.sources import write_clips_of
from leanmotion.model.requests import cut_remarks
from leanmotion.model.samplers import Samplers
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.settings import load_settings


def main(
    params: Path = Path("params.yaml"),
    teacher: Path = Path("data/teacher.json"),
    prompts: Path = Path("data/prompts"),
    out: Path = Path("data/clips.parquet"),
) -> None:
    """Write the latents of `clips.count` clips from the source of the settings."""
    settings = load_settings(params)
    samplers = Samplers(settings, TeacherRecord.read(teacher))
    count, skipped = write_clips_of(settings, samplers, out, prompts=prompts)
    print(f"{count} clips from {settings.clips.source}, {len(skipped)} skipped")
    captions = list(dict.fromkeys(pq.read_table(out, columns=["caption"])["caption"].to_pylist()))
    for line in cut_remarks("captions", captions, samplers.base.tokenizer):
        print(line)
    if skipped:
        terminal.show("skipped", ["file", "why"], [[file.file, file.reason] for file in skipped])


if __name__ == "__main__":
    stage.run(main, spread=True)
