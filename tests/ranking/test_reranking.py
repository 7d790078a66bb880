"""Scores of the blocks that a student still has, and the lists made of them."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from committed import SETTINGS, weights
from tiny import BLOCKS, tiny_settings

from leanmotion.clips.sources import write_clips_of
from leanmotion.cost.inspection import inspect_teacher
from leanmotion.distillation.rounds import run_round
from leanmotion.features.extractors import load_extractor
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import RoundPlan, Student
from leanmotion.pipeline.records import write_record
from leanmotion.pipeline.tables import write_table
from leanmotion.prompts.splits import prompt_rows
from leanmotion.ranking.fvd import frechet_distance
from leanmotion.ranking.reranking import keeps_its_order, reranked, scores_on

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parents[2]

ROOT = Path(__file__).parents[2]


def student(*removed: str) -> Student:
    return Student(Path("nowhere"), "r1", "a" * 64, removed)


def test_the_least_important_of_what_is_left_goes() -> None:
    plan = RoundPlan("r3", student("mid_0"), ("down_0_0", "down_1_0", "mid_0"))
    scores = {block: float(i) for i, block in enumerate(reversed(BLOCKS)) if block != "mid_0"}
    removed = reranked(plan, scores, BLOCKS)["removed"]
    # As many as the first list has, what is gone stays gone, in the model's order.
    assert removed == ["mid_0", "up_1_0", "up_1_1"]
    # Equal scores keep the model's order.
    assert reranked(plan, dict.fromkeys(scores, 0.0), BLOCKS)["removed"] == [
        "down_0_0",
        "down_1_0",
        "mid_0",
    ]


def test_when_the_first_order_stays() -> None:
    on, off = tiny_settings(ranking={"rerank": True}), tiny_settings()
    random = tiny_settings(ranking={"rerank": True, "criterion": "random"})
    assert not keeps_its_order(on, student("mid_0"))
    assert keeps_its_order(off, student("mid_0")) and keeps_its_order(on, student())
    assert keeps_its_order(random, student("mid_0"))


def test_off_it_copies_the_list_and_reads_nothing_else(tmp_path: Path) -> None:
    """The stage itself: no student, no weights, no features are asked for."""
    write_record(tmp_path / "order.json", {"removed": ["mid_0"]})
    stage = [sys.executable, str(ROOT / "stages/rerank.py"), "--params", str(SETTINGS), "--round", "r08"]
    files = ["--previous", "nowhere", "--order", "order.json", "--out", "out/r08.json"]
    subprocess.run(
        [*stage, *files], cwd=tmp_path, check=True, env={**__import__("os").environ, "PYTHONPATH": str(ROOT)}
    )
    assert (tmp_path / "out/r08.json").read_bytes() == (tmp_path / "order.json").read_bytes()


def test_scores_on_a_student(teacher_folder, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    folders = teacher_folder(levels=2, layers=1)
    size = {"height": 16, "width": 16}
    settings = tiny_settings(folders, sampling=size, ranking={"rerank": True})
    record, facts = inspect_teacher(settings)
    samplers = Samplers(settings, record)
    write_clips_of(settings, samplers, tmp_path / "clips.parquet")
    write_table(tmp_path / "prompts/rank.parquet", "prompts", prompt_rows(settings.prompts, "rank"))
    base = Student(tmp_path / "base", "base", record.sha256, ())
    run_round(settings, RoundPlan("r1", base, ("mid_0",)), samplers, tmp_path / "clips.parquet", tmp_path / "r1")
    first = Student.read(tmp_path / "r1")
    samplers = Samplers(settings, record, [first])
    extractor = load_extractor("sprites", path=weights("data/extractor"), batch=8)

    def scores(criterion: str) -> dict[str, float]:
        changed = tiny_settings(folders, sampling=size, ranking={"rerank": True, "criterion": criterion})
        return scores_on(
            first, changed, samplers, extractor, prompts=tmp_path / "prompts", units=pd.DataFrame(facts),
            savings=dict.fromkeys(BLOCKS, 0.5),
        )  # fmt: skip

    found = scores("fvd")
    assert list(found) == [block for block in BLOCKS if block != "mid_0"]
    # A block's score is the distance of the student without it to the original, on the ranking's seeds.
    rows = prompt_rows(settings.prompts, "rank")
    from leanmotion.model.requests import Request

    requests = [Request(str(r["prompt"]), str(r["negative"]), int(r["seed_a"])) for r in rows]
    drawn = [samplers(v)(requests) for v in (samplers.teacher(), samplers.student(first, ["up_1_1"]))]
    features = [extractor.features(frames).astype("float32").astype("float64") for frames in drawn]
    assert found["up_1_1"] == pytest.approx(frechet_distance(*features), rel=1e-9)
    own = samplers(samplers.student(first))(requests)
    assert (drawn[1] != own).any(), "the block was removed, and is back afterwards"
    # A saving that is equal for all: what a block adds, in the same order.
    added = scores("fvd_per_latency")
    assert sorted(added, key=lambda b: added[b]) == sorted(found, key=lambda b: found[b])
    similar = scores("similarity")
    assert similar.keys() == found.keys() and all(-1 <= value <= 1 for value in similar.values())
