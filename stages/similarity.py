"""Measure the cosine similarity between input and output of every unit, while the original draws clips."""

from contextlib import closing
from pathlib import Path

from leanmotion.model.requests import requests_of
from leanmotion.model.samplers import Samplers
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import write_table
from leanmotion.probing.similarity import SimilarityRecorder
from leanmotion.probing.similarity_tables import similarity_ranges


def main(
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
    out: Path = Path("data/similarity.parquet"),
) -> None:
    """Average over tokens, frames and the first prompts of the rank split; keep every timestep."""
    settings = load_settings(params)
    # Hooks watch inside the blocks that would be compiled.
    plain = settings.sampling.model_copy(update={"torch_compile": False})
    settings = settings.model_copy(update={"sampling": plain})
    samplers = Samplers(settings, TeacherRecord.read(teacher))
    requests = requests_of(prompts, "rank", "a")[: settings.similarity.prompts]
    draw = samplers(samplers.teacher())
    size = settings.sampling.chunk
    bar = closing(Progress("similarity", len(requests)))
    with SimilarityRecorder(samplers.pipeline.unet) as recorder, bar as progress:
        # Whole batches only: padding would count its clip again.
        for start in range(0, len(requests), size):
            draw(requests[start : start + size])
            progress.update(len(requests[start : start + size]))
    rows = recorder.rows()
    write_table(out, "similarity", rows)
    terminal.similarity(similarity_ranges(rows))


if __name__ == "__main__":
    stage.run(main)
