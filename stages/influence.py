"""Measure what the model's output changes without each unit, while the original goes its way; no clip is drawn."""

from pathlib import Path

from leanmotion.cost.macs import macs_after, unet_macs
from leanmotion.influence.parts import measure
from leanmotion.influence.tables import influence_rows, interaction_rows, macs_spent
from leanmotion.model.requests import requests_of
from leanmotion.model.sampler import latent_shape
from leanmotion.model.samplers import Samplers
from leanmotion.model.teacher import TeacherRecord
from leanmotion.model.units import list_units
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import write_table


def main(
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
    out: Path = Path("data/influence.parquet"),
    pairs: Path = Path("data/interaction.parquet"),
) -> None:
    """Squared changes of every unit, and inner products of their changes, by step and prompt of the rank split."""
    settings = load_settings(params)
    sampling, asked, requests = settings.sampling, settings.influence, requests_of(prompts, "rank", "a")
    samplers = Samplers(settings, TeacherRecord.read(teacher))
    pipeline, whole = samplers.pipeline, samplers.teacher()
    found = measure(whole, lambda: samplers.sampler(whole).pipeline, settings, requests[: asked.prompts])
    units = list_units(pipeline.unet)
    _, frames, height, width = latent_shape(pipeline, sampling)
    size = {"frames": frames, "height": height, "width": width, "tokens": pipeline.tokenizer.model_max_length}
    spent = macs_spent(
        unet_macs(pipeline.unet, **size), macs_after(pipeline.unet, **size), units, calls=1 + (sampling.guidance > 1),
        steps=len(found.weights), prompts=asked.prompts, sampled=found.calls, clips=len(requests),
    )  # fmt: skip
    meta = {"prompts": str(asked.prompts), "interval": str(asked.interval), **{k: str(v) for k, v in spent.items()}}
    rows = influence_rows(
        found.changes, units, found.weights, found.variances, resamples=asked.resamples, interval=asked.interval,
        seed=asked.seed,
    )  # fmt: skip
    write_table(out, "influence", rows, meta=meta)
    write_table(pairs, "interaction", interaction_rows(found.changes, units, found.weights), meta=meta)
    terminal.influence(rows, spent)


if __name__ == "__main__":
    stage.run(main, spread=True, float64=True)
