"""Measure what the model's output changes without each unit, while the original goes its way; no clip is drawn."""

from pathlib import Path

from leanmotion.cost.macs import macs_after, unet_macs
from leanmotion.influence.parts import changes_of
from leanmotion.influence.step_weights import final_gains, spread_over, weights_of
from leanmotion.influence.tables import influence_rows, interaction_rows, macs_spent
from leanmotion.model.requests import requests_of
from leanmotion.model.sampler import latent_shape, make_scheduler
from leanmotion.model.samplers import Networks
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
    sampling, asked = settings.sampling, settings.influence
    networks, requests = Networks(settings, TeacherRecord.read(teacher)), requests_of(prompts, "rank", "a")
    pipeline = networks.pipeline
    gains = final_gains(make_scheduler(pipeline.scheduler, sampling.scheduler), sampling.steps)
    steps = spread_over(len(gains), asked.steps)
    changes = changes_of(networks, settings, requests[: asked.prompts], steps)
    units = list_units(pipeline.unet)
    _, frames, height, width = latent_shape(pipeline, sampling)
    size = {"frames": frames, "height": height, "width": width, "tokens": pipeline.tokenizer.model_max_length}
    spent = macs_spent(
        unet_macs(pipeline.unet, **size), macs_after(pipeline.unet, **size), units, calls=1 + (sampling.guidance > 1),
        steps=steps, prompts=asked.prompts, drawn=len(gains) * len(requests),
    )  # fmt: skip
    meta = {"prompts": str(asked.prompts), "interval": str(asked.interval), **{k: str(v) for k, v in spent.items()}}
    weights = dict(zip(steps, weights_of(gains, steps), strict=True))
    rows = influence_rows(changes, units, weights, resamples=asked.resamples, interval=asked.interval, seed=asked.seed)
    write_table(out, "influence", rows, meta=meta)
    write_table(pairs, "interaction", interaction_rows(changes, units, weights), meta=meta)
    terminal.influence(rows, spent)


if __name__ == "__main__":
    stage.run(main, spread=True)
