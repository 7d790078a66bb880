"""What a change of the model's output at each sampler step does to the final latent: perturbed and derived.

At one step in turn the output is changed by a tenth of what removing a block changes it by, and sampling goes on to the
end. Beside it stand the gains that `influence.step_weights` derives. Run after `dvc repro influence`:
`python benchmarks/step_gains.py --prompts 4 --block down_0_0 --block up_2_2`. It prints the table of docs/method.md.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from leanmotion.influence.step_weights import final_gains
from leanmotion.influence.trajectory import Trajectory
from leanmotion.model.removal import without_units
from leanmotion.model.requests import Request, requests_of
from leanmotion.model.sampler import make_scheduler, one_thread_a_call
from leanmotion.model.samplers import Samplers
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.settings import Sampling, load_settings
from leanmotion.pipeline.stage import quiet_libraries
from leanmotion.pipeline.tables import read_frame

SMALL = 0.1
"""Of a block's change: so that the model answers in proportion."""


@torch.inference_mode()
def perturbed_gains(pipeline: Any, sampling: Sampling, requests: Sequence[Request], block: str) -> list[float]:
    """Size of the final latent's change over that of the output's, root mean squares over clips; one a step."""
    unet = pipeline.unet

    def predict(walk: Trajectory, step: int) -> Any:
        return walk.prediction(unet(**walk.inputs(step), return_dict=False)[0])

    def finish(walk: Trajectory, start: int) -> Any:
        for step in range(start, len(walk.timesteps)):
            walk.advance(predict(walk, step), step)
        return walk.latents

    walk = Trajectory(pipeline, sampling, requests, device())
    changed: list[tuple[Trajectory, Any]] = []
    for step in range(len(walk.timesteps)):
        whole = predict(walk, step)
        with without_units(unet, [block]):
            change = SMALL * (predict(walk, step) - whole)
        other = copy.deepcopy(walk)
        other.advance(whole + change, step)
        changed.append((other, change))
        walk.advance(whole, step)
    ends = [finish(other, step + 1) - walk.latents for step, (other, _) in enumerate(changed)]
    return [float(end.norm() / change.norm()) for end, (_, change) in zip(ends, changed, strict=True)]


def main() -> None:
    """Print a row a block, and one for each variance that `influence` measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=4, help="of the rank split")
    parser.add_argument("--block", action="append", help="whose change; down_0_0 and up_2_2 where none is named")
    asked = parser.parse_args()
    quiet_libraries()
    settings = load_settings(Path("params.yaml"))
    requests = requests_of(Path("data/prompts"), "rank", "a")[: asked.prompts]
    samplers = Samplers(settings, TeacherRecord.read("data/teacher.json"))
    pipeline = samplers.sampler(samplers.teacher()).pipeline
    with one_thread_a_call():  # calls of a small network are too short to share
        rows = {
            f"measured, change of `{block}`": perturbed_gains(pipeline, settings.sampling, requests, block)
            for block in asked.block or ["down_0_0", "up_2_2"]
        }
    scheduler = make_scheduler(pipeline.scheduler, settings.sampling.scheduler)
    steps: Any = read_frame(Path("data/influence.parquet"), "influence").drop_duplicates("step")
    for variance, name in [*zip(steps["variance"], (f"as at step {s}" for s in steps["step"]), strict=True), (1.0, "")]:
        label = f"derived, variance {variance:.3g} {name}".rstrip()
        rows[label] = final_gains(scheduler, settings.sampling.steps, float(variance))
    count = len(next(iter(rows.values())))
    print("| gain at step |", " | ".join(map(str, range(count))), "|")
    print("|---" * (count + 1) + "|")
    for name, gains in rows.items():
        print(f"| {name} |", " | ".join(f"{gain:.2f}" for gain in gains), "|")


if __name__ == "__main__":
    main()
