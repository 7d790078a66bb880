"""What test_launch.py runs as ranks: the real stages `generate` and `distill`, one rank killed; or none."""

import importlib.util
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline import processes, stage

STAGES = Path(__file__).parents[1] / "stages"


def stage_main(name: str) -> Any:
    """The `main` of a stage's script."""
    spec = importlib.util.spec_from_file_location(f"stage_{name}", STAGES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def work(folder: Path) -> None:
    """Draw the rank split and distil a round; rank 1, where there is one, dies once over its first chunk."""
    from leanmotion.videos.store import ChunkStore

    put = ChunkStore.put

    def noted(store: ChunkStore, chunk: Any, clips: Any) -> None:
        attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
        if (attempt, rank) == ("0", "1"):
            while (folder / "drawn.log").read_text().count("\n") < 2:  # until rank 0 has done its share
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        put(store, chunk, clips)
        with (folder / "drawn.log").open("a") as log:
            log.write(f"{attempt} {chunk.address}\n")

    (folder / "drawn.log").touch()
    if "RANK" in os.environ:
        ChunkStore.put = noted  # pyright: ignore[reportAttributeAccessIssue]
        # Ranks but the main one end with their stage: here they go on to the next.
        processes.leave = lambda: None
    shared = {"params": folder / "params.yaml", "teacher": folder / "teacher.json"}
    with suppress(SystemExit):
        stage_main("generate")("rank", "a", folder / "rank_a.parquet", prompts=folder / "prompts", **shared)
    stage_main("distill")(
        "r1", folder / "base", folder / "order.json", folder / "r1", clips=folder / "clips.parquet", **shared
    )


def main(what: str, folder: Path) -> None:
    (folder / f"up-{os.environ.get('RANK')}-{os.getpid()}").touch()
    if what == "work":
        work(folder)
    elif what == "wait":
        time.sleep(600)
    elif what == "refuse":
        print(f"rank {os.environ['RANK']} says so")
        if os.environ["RANK"] == "1":
            raise LeanmotionError("sampling.steps is 0:\nchoose more")
        time.sleep(600)


if __name__ == "__main__":
    stage.run(main, spread=True)
