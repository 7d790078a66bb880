"""One deletion, distilled in several ways: which settings bring the student closest to the teacher.

Run in the project's folder after `dvc repro`, one `--try` a way, its settings as in params.yaml under `distillation`:

    python benchmarks/distillation.py --round r14 --try "" --try "inputs=teacher" \
        --try "objective=endpoint last_steps=1 learning_rate=0.001"

With `--noise` networks are trained as if they predicted noise, as Stable Diffusion does: noise = alpha v + sigma z_t,
exactly, of teacher and student alike. Each way deletes the round's blocks from the teacher at once and trains the
settings' steps. Finished ways are kept in the scratch store (`.scratch/trials`) and cost nothing the second time; a
killed one goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from leanmotion.distillation import rounds
from leanmotion.features.embedding import open_extractor
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline.settings import Settings, load_settings
from leanmotion.pipeline.tables import read_frame
from leanmotion.study.trial import Bench, Trial


def changed(settings: Settings, text: str) -> Settings:
    """The settings with some of `distillation` changed, checked as params.yaml is."""
    changes = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in text.split())}
    raw = settings.model_dump(by_alias=True)
    raw["distillation"] |= changes
    return Settings.model_validate(raw)


def predict_noise(unet: Any, scheduler: Any) -> None:
    """Turn a UNet that predicts v into one that predicts noise, in place; its weights stay what they are."""
    kind, alphas = type(unet), scheduler.alphas_cumprod

    class View(kind):
        def forward(self, sample: Any, timestep: Any, *args: Any, **how: Any) -> Any:
            v = kind.forward(self, sample, timestep, *args, **how)[0]
            alpha = alphas[timestep.long()].to(sample).view(-1, 1, 1, 1, 1)
            return (alpha.sqrt() * v + (1 - alpha).sqrt() * sample,)

    View.__name__ = kind.__name__
    unet.__class__ = View


class NoiseBench(Bench):
    """A bench whose networks predict noise while they train; clips are drawn as ever, by the same weights."""

    def _distilled(self, trial: Trial, settings: Settings, folder: Path) -> Student:
        pipeline = self.samplers.pipeline
        kind, plain = type(pipeline.unet), pipeline.scheduler
        made = rounds.student_unet

        def seen(*arguments: Any) -> Any:
            student = made(*arguments)
            predict_noise(student, plain)
            return student

        predict_noise(pipeline.unet, plain)
        pipeline.scheduler = type(plain).from_config(plain.config, prediction_type="epsilon")
        try:
            with patch.object(rounds, "student_unet", seen):
                return super()._distilled(trial, settings, folder)
        finally:
            pipeline.unet.__class__, pipeline.scheduler = kind, plain


def main() -> None:
    """Print a row a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round", required=True, help="a round of `rounds`")
    parser.add_argument("--try", dest="ways", action="append", default=[], help="changes of `distillation`")
    parser.add_argument("--split", default="select", help="the clips that are compared (seeds b)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the flow's folder")
    parser.add_argument("--order", type=Path, help="a deletion list; else the round's own in data/order")
    parser.add_argument("--noise", action="store_true", help="train networks as predictors of noise")
    arguments = parser.parse_args()
    settings, data = load_settings(), arguments.data
    order = arguments.order or data / f"order/{arguments.round}.json"
    removed = tuple(json.loads(order.read_text(encoding="utf-8"))["removed"])
    bench = (NoiseBench if arguments.noise else Bench)(
        settings,
        Samplers(settings, TeacherRecord.read(data / "teacher.json")),
        open_extractor(settings),
        units=read_frame(data / "units.parquet", "units"),
        clips=data / "clips.parquet",
        prompts=data / "prompts",
        split=arguments.split,
    )
    print(f"{len(removed)} blocks deleted at once; {arguments.split} split; same-seed distances to the original")
    print("| distillation | fvd | low | high | excess | paired | motion read | distance before, after | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for i, way in enumerate(arguments.ways or [""]):
        this = changed(settings, way)
        how = this.distillation
        start = time.perf_counter()
        asked = "noise" if arguments.noise else "orders"
        rows = bench.run(Trial(asked, "given", "temporal_transformer", (removed,), how.seed, how.steps), this)
        took = time.perf_counter() - start
        for row in rows[0 if i == 0 else 1 :]:
            name = "none (pruned only)" if row["arm"] == "pruned" else way or "as in params.yaml"
            distances = [row["distance_before"], row["distance_after"]] if row["arm"] == "distilled" else []
            seen = ", ".join("-" if d is None else f"{d:.4g}" for d in distances)
            accuracy = "-" if row["motion_accuracy"] is None else f"{row['motion_accuracy']:.1%}"
            fvd = " | ".join(f"{row[k]:.4g}" for k in ("fvd", "fvd_low", "fvd_high"))
            print(
                f"| {name} | {fvd} | {row['excess']:.0%} | {row['paired']:.4g} | {accuracy} | {seen} | {took:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
