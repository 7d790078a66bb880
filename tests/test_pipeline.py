"""The real `dvc repro` on a micro teacher: only what changed reruns, and a killed stage goes on where it was."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from committed import ROOT, SETTINGS, weights
from reads import Stage, leaves, other_value, reads_of, stages_of
from tiny import BLOCKS, edit_params

from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame
from leanmotion.pipeline.watched_paths import watched
from leanmotion.report.gallery import write_clips

pytestmark = pytest.mark.timeout(900)


class Clone:
    """A clone of the project on a micro teacher: random weights, two levels, seven blocks, three clips a split."""

    def __init__(self, folder: Path, teacher: Any) -> None:
        self.folder = folder
        for name in ("leanmotion", "stages", "builtin"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copyfile(ROOT / name, folder / name)
        shutil.copyfile(SETTINGS, folder / "params.yaml")
        shutil.copytree(weights("data/extractor"), folder / "data/extractor")
        (folder / "metrics").mkdir()
        (folder / "metrics/teacher.json").write_text("{}")
        shutil.copytree(teacher.base, folder / "micro/base")
        shutil.copytree(teacher.adapter, folder / "micro/adapter")
        # Named in the settings, though no stage takes clips from them before a test does.
        (folder / "micro/videos").mkdir()
        for name in ("one", "two"):
            write_clips([np.zeros((8, 16, 16, 3), np.uint8)], folder / f"micro/videos/{name}.mp4", fps=8)
        (folder / "micro/captions.csv").write_text("file,caption\none.mp4,nothing\ntwo.mp4,nothing either\n")
        self.edit(**_MICRO)
        self.git("init", "-q")
        self.dvc("init", "-q")
        self.dvc("config", "core.analytics", "false")
        self.commit("start")

    @property
    def env(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        names = {
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@t",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@t",
        }
        kept = {k: v for k, v in os.environ.items() if k != "LEANMOTION_SCRATCH"}
        return {**kept, **names, "PATH": path, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def git(self, *words: str) -> str:
        return self.run("git", *words).stdout

    def dvc(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *words).stdout

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def repro(self, *targets: str) -> set[str]:
        """Run `dvc repro`, of all stages or up to some; the names of the stages that ran."""
        return set(re.findall(r"Running stage '([^']+)'", self.dvc("repro", *targets)))

    def edit(self, **changes: Any) -> None:
        """Set values in params.yaml, `sampling__steps=3` for `sampling.steps`."""
        edit_params(self.folder / "params.yaml", changes)

    def chunks(self) -> set[str]:
        return {path.name for path in (self.folder / ".scratch/chunks").rglob("*.parquet")}


_MICRO: dict[str, Any] = {
    "teacher__base": "micro/base",
    "teacher__adapter": "micro/adapter",
    "teacher__sha256": None,
    "extractor__sha256": None,
    "teacher__blocks": BLOCKS,
    "prompts__rank": 4,
    "prompts__select": 4,
    "prompts__report": 4,
    "prompts__confirm": 2,
    "sampling__steps": 2,
    "sampling__chunk": 4,
    "sampling__threads": 1,
    "sampling__height": 16,
    "sampling__width": 16,
    "similarity__prompts": 4,
    "influence__prompts": 4,
    "influence__steps": 2,
    "influence__batch": 4,
    "profile__rounds": 3,
    "profile__warmup": 1,
    "profile__batch": 1,
    "probe__sets": {"transformers": {"granularity": "temporal_transformer", "counts": [1, 2]}},
    "ranking__resamples": 20,
    "evaluation__resamples": 20,
    "clips__count": 8,
    "clips__path": "micro/videos",
    "clips__captions": "micro/captions.csv",
    "rounds": {"r2": {"count": 2, "from": "base"}, "r4": {"count": 4, "from": "r2"}},
    "distillation__steps": 2,
    "distillation__batch": 2,
    "distillation__warmup": 0,
    "distillation__checkpoint_every": 1,
    "report__clips": 2,
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Any) -> Clone:
    """After a whole first run, committed."""
    clone = Clone(tmp_path_factory.mktemp("clone"), teacher_folder(levels=2, layers=1))
    ran = clone.repro()
    assert {"check", "inspect", "rank", "distill@r4", "report", *(f"ablate@{b}" for b in BLOCKS)} <= ran
    clone.commit("first run")
    return clone


def test_nothing_changed_runs_nothing(clone: Clone) -> None:
    assert clone.repro() == set()
    assert "up to date" in clone.dvc("status")


# What decides a result is what DVC watches: these come first, while everything is up to date.

RECORDED = {"teacher.base", "teacher.adapter", "teacher.dtype"}
"""Settings that stages read which do not hang on them: they hang on data/teacher.json, which records what these name
and how it is loaded, and refuse anything else (tests/model/test_teacher.py)."""
RECORD = "data/teacher.json"
OTHER_RUNS: list[tuple[str, dict[str, Any]]] = [
    ("clips", {"clips__source": "teacher"}),
    ("clips", {"clips__source": "folder"}),
    ("rerank@r4", {"ranking__rerank": True}),
    ("rerank@r4", {"ranking__rerank": True, "ranking__criterion": "similarity"}),
    ("distill@r4", {"sampling__guidance": 2.0, "distillation__validation": 2}),
]
"""Stages that read other settings where these are set."""


@pytest.fixture(scope="module")
def reads(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Stage -> the settings that its code read, in a run of each, and of some more under other settings."""
    stages = stages_of(clone.folder)
    folder = tmp_path_factory.mktemp("reads") / "project"
    shutil.copytree(clone.folder, folder, ignore=shutil.ignore_patterns(".git", ".dvc", ".scratch"))
    text = (folder / "params.yaml").read_text()
    found = {name: reads_of(stage.command, folder) for name, stage in stages.items()}
    for name, changes in OTHER_RUNS:
        edit_params(folder / "params.yaml", changes)
        found[name] |= reads_of(stages[name].command, folder)
        (folder / "params.yaml").write_text(text)
    return found


def test_a_stage_reads_no_setting_that_it_does_not_hang_on(clone: Clone, reads: dict[str, set[str]]) -> None:
    stages = stages_of(clone.folder)
    for name, stage in stages.items():
        recorded = RECORDED if RECORD in stage.files else set()
        assert not {setting for setting in reads[name] - recorded if not stage.covers(setting)}, name


def test_an_edit_of_any_setting_reruns_what_reads_it(clone: Clone, reads: dict[str, set[str]]) -> None:
    path = clone.folder / "params.yaml"
    text, settings = path.read_text(), load_settings(path)
    places = {name: place for name, place, _ in watched(settings)}
    before, fixed = stages_of(clone.folder), set()
    assert not changed(before)
    for name in leaves(yaml.safe_load(text)):
        if name in places:
            # The same under another name: what it says is the same, what names it is not.
            value = f"{places[name]}-2{Path(places[name]).suffix}"
            copy = shutil.copytree if (clone.folder / places[name]).is_dir() else shutil.copyfile
            copy(clone.folder / places[name], clone.folder / value)
        elif (value := other_value(settings, name)) is None:
            fixed.add(name)
            continue
        clone.edit(**{name.replace(".", "__"): value})
        readers = {stage for stage in reads if name in reads[stage]}
        stages = stages_of(clone.folder)
        again = changed(stages)
        missed = {stage for stage in readers - again if name not in RECORDED or RECORD not in stages[stage].files}
        assert readers and not missed, f"{name}: {missed} would answer with old data"
        assert again == {stage for stage in stages if stages[stage].covers(name) or stages[stage] != before[stage]}
        path.write_text(text)
    # A first round can start from nothing else than the teacher.
    assert fixed == {"rounds.r2.from"}
    assert stages_of(clone.folder) == before


def test_an_edit_of_the_file_behind_a_setting_reruns_what_reads_it(clone: Clone, reads: dict[str, set[str]]) -> None:
    stages = stages_of(clone.folder)
    # `check` reads files, but writes the same always; the report shows what the settings name.
    aside = {"check", "report"}
    for name, place, _ in watched(load_settings(clone.folder / "params.yaml")):
        readers = {stage for stage in reads if name in reads[stage]} - aside
        assert readers
        for undo in _edits(clone.folder / place):
            again = changed(stages_of(clone.folder))
            missed = {stage for stage in readers - again if name not in RECORDED or RECORD not in stages[stage].files}
            assert not missed, f"{name}: {missed} would answer with old data"
            assert again == {stage for stage in stages if place in stages[stage].files}
            undo()
    assert not changed(stages_of(clone.folder))


def changed(stages: dict[str, Stage]) -> set[str]:
    return {name for name, stage in stages.items() if stage.changed}


def _edits(place: Path) -> Iterator[Callable[[], object]]:
    """Change a file, or one of a folder; add one to the folder; take one away. After each, what puts it back."""
    file = place if place.is_file() else next(path for path in sorted(place.rglob("*")) if path.is_file())
    content = file.read_bytes()
    file.write_bytes(content + b"\n")
    yield lambda: file.write_bytes(content)
    if place.is_dir():
        (place / "new.mp4").write_bytes(b"new")
        yield (place / "new.mp4").unlink
        file.unlink()
        yield lambda: file.write_bytes(content)


def test_another_dtype_reruns_everything_behind_inspect(clone: Clone, reads: dict[str, set[str]]) -> None:
    text = (clone.folder / "params.yaml").read_text()
    clone.edit(teacher__dtype="bfloat16")
    assert clone.repro("inspect") == {"check", "inspect"}
    readers = {name for name in reads if "teacher.dtype" in reads[name]}
    assert readers - {"check", "inspect"} <= changed(stages_of(clone.folder))
    (clone.folder / "params.yaml").write_text(text)
    assert clone.repro() == set(), "DVC still has what inspect wrote of the first dtype, and with it all that follows"


TRACER = """

def _trace() -> None:
    def wrap(module, owner):
        if module not in sys.modules:
            return
        kind = getattr(sys.modules[module], owner)
        inner = kind.__init__

        def traced(*args, **kwargs):
            with open(".scratch/made", "a") as file:
                file.write(owner + "\\n")
            inner(*args, **kwargs)

        kind.__init__ = traced

    wrap("leanmotion.model.sampler", "Sampler")
    wrap("leanmotion.distillation.training", "_Run")


_run = run


def run(main, **how):
    _trace()
    _run(main, **how)
"""
"""Notes in .scratch/made what draws and what trains; in a module that no stage hangs on and no address covers."""


@pytest.fixture(scope="module")
def traced(clone: Clone) -> Clone:
    """The clone, from now on with a tracer."""
    with (clone.folder / "leanmotion/pipeline/stage.py").open("a") as file:
        file.write(TRACER)
    return clone


def made(clone: Clone) -> set[str]:
    """Kinds of what was made since this was asked last: `Sampler`, which draws, `_Run`, which trains."""
    path = clone.folder / ".scratch/made"
    found = set(path.read_text().split()) if path.exists() else set()
    path.unlink(missing_ok=True)
    return found


def rewrite(clone: Clone, name: str, old: str, new: str) -> None:
    path = clone.folder / "leanmotion" / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_code_of_the_ranking_reruns_no_drawing_training_or_timing(traced: Clone) -> None:
    rewrite(traced, "ranking/fvd.py", "_EIGENVALUE_TOLERANCE =", "# Said here as well.\n_EIGENVALUE_TOLERANCE =")
    assert traced.repro() == {"rank", "rerank@r2", "rerank@r4", "evaluate", "select", "report"}
    assert made(traced) == set()


def test_a_docstring_draws_no_clip_and_trains_no_round(traced: Clone) -> None:
    """DVC runs all stages that hang on the room again, and they find what they made."""
    chunks = {path: path.stat().st_mtime_ns for path in (traced.folder / ".scratch/chunks").rglob("*.parquet")}
    students = {path: path.read_bytes() for path in (traced.folder / "data/students").rglob("*") if path.is_file()}
    said = '    """Mean squared error against the data\'s own target: BK-SDM\'s L_Task."""\n'
    rewrite(traced, "distillation/losses.py", said, '    """Said otherwise."""\n    # And more.\n')
    assert traced.repro() == {"distill@r2", "distill@r4", "export"}, "nothing is drawn before, and nothing after"
    rewrite(traced, "videos/codec.py", '"""Frames to bytes and back:', '"""Frames to bytes, and back:')
    ran = traced.repro()
    assert {"generate@rank_a", "ablate@mid_0", "probe@transformers", "clips", "render@r4"} <= ran
    assert not [name for name in ran if name.startswith(("distill", "similarity", "profile", "measure"))]
    assert made(traced) == set()
    assert chunks == {path: path.stat().st_mtime_ns for path in (traced.folder / ".scratch/chunks").rglob("*.parquet")}
    assert students == {path: path.read_bytes() for path in students}


def test_a_constant_of_the_sampler_draws_all_clips_anew(traced: Clone) -> None:
    """And trains no round anew: training decodes no pictures."""
    before = traced.chunks()
    rewrite(traced, "model/sampler.py", "_DECODE = 16", "_DECODE = 15")
    assert {"generate@rank_a", "ablate@mid_0", "distill@r4", "render@r4"} <= traced.repro("render", "clips")
    assert made(traced) == {"Sampler"}
    new = traced.chunks() - before
    assert len(new) == len(before)
    rewrite(traced, "model/sampler.py", "_DECODE = 15", "_DECODE = 16")
    traced.repro()
    assert made(traced) <= {"Sampler"} and traced.chunks() == before | new


def test_a_comment_and_a_report_setting(clone: Clone) -> None:
    path = clone.folder / "params.yaml"
    path.write_text("# a comment\n" + path.read_text())
    assert clone.repro() == set()
    clone.edit(report__title="another title")
    assert clone.repro() == {"check", "report"}


def test_a_ranking_setting_reruns_rank_and_later(clone: Clone) -> None:
    clone.edit(ranking__resamples=24)
    ran = clone.repro()
    # The order stayed, so that no round hangs on it.
    assert {"check", "rank"} <= ran <= {"check", "rank", "report"}


def test_an_unknown_key_stops_everything_also_on_a_cached_run(clone: Clone) -> None:
    before = (clone.folder / "params.yaml").read_text()
    clone.edit(ranking__resamplse=30)
    done = clone.run(sys.executable, "-m", "dvc", "repro", check=False)
    assert done.returncode != 0
    assert "ranking.resamplse: unknown setting (did you mean 'resamples'?)" in done.stderr
    (clone.folder / "params.yaml").write_text(before)
    assert clone.repro() <= {"check"}


def test_another_extractor_keeps_all_videos(clone: Clone) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(clone.folder / "data/extractor", clone.folder / "other")
    weights = load_file(clone.folder / "other/model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, clone.folder / "other/model.safetensors")
    before = clone.chunks()
    clone.edit(extractor__path="other")
    ran = clone.repro()
    assert {"check", "embed", "rank", "evaluate"} <= ran
    assert not [name for name in ran if name.startswith(("generate", "ablate", "probe"))]
    clone.edit(extractor__path="data/extractor")
    clone.repro()
    assert before <= clone.chunks()


def test_more_distillation_steps_keep_everything_up_to_rank(clone: Clone) -> None:
    clone.edit(distillation__steps=3)
    ran = clone.repro()
    assert {"check", "distill@r2", "distill@r4", "render@r2", "evaluate"} <= ran
    assert not [name for name in ran if name.startswith(("generate", "ablate", "probe", "embed", "rank", "clips"))]


def test_a_round_has_a_budget_of_its_own(clone: Clone) -> None:
    before = (clone.folder / "params.yaml").read_text()
    clone.edit(rounds__r4__steps=1)
    changed = json.loads(clone.dvc("status", "--json", "distill@r2", "distill@r4"))
    assert set(changed) == {"distill@r4"}
    (clone.folder / "params.yaml").write_text(before)


def test_a_larger_last_round_reruns_no_early_one(clone: Clone) -> None:
    clone.edit(rounds={"r2": {"count": 2, "from": "base"}, "r4": {"count": 5, "from": "r2"}})
    ran = clone.repro()
    assert {"distill@r4", "render@r4"} <= ran
    assert not {"distill@r2", "render@r2"} & ran


def test_more_videos_generate_only_the_missing_ones(clone: Clone) -> None:
    before = clone.chunks()
    clone.edit(prompts__rank=8)
    changed = clone.dvc("status", "generate@select_a", "generate@report_b")
    assert "up to date" in changed
    ran = clone.repro("rank")
    assert {"generate@rank_a", "ablate@mid_0", "rank"} <= ran
    # One chunk more for each of: seeds a and b of the original, seven ablations, four probes (of which the single
    # removals are ablations already drawn under the same address).
    new = clone.chunks() - before
    assert before <= clone.chunks()
    probes = clone.run(
        sys.executable,
        "-c",
        "import pyarrow.parquet as p; print(p.read_table('data/probes.parquet')['units'].to_pylist())",
    ).stdout
    distinct = {tuple(sorted(units)) for units in json.loads(probes.replace("'", '"'))}
    assert len(new) == 2 + len(BLOCKS) + len([units for units in distinct if len(units) > 1])


def test_deleted_videos_of_one_block_come_back_alone(clone: Clone) -> None:
    video = clone.folder / "data/videos/ablate/mid_0.parquet"
    content = video.read_bytes()
    video.unlink()
    shutil.rmtree(clone.folder / ".dvc/cache/runs", ignore_errors=True)
    stored = clone.folder / ".dvc/cache/files/md5"
    digest = yaml.safe_load((clone.folder / "dvc.lock").read_text())["stages"]["ablate@mid_0"]["outs"][0]["md5"]
    (stored / digest[:2] / digest[2:]).unlink()
    assert clone.repro("rank") == {"ablate@mid_0"}
    assert video.read_bytes() == content


def test_kill_9_in_the_middle_then_repro_goes_on(clone: Clone) -> None:
    clone.edit(sampling__steps=3)
    before = clone.chunks()
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "rank"], cwd=clone.folder, env=clone.env, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (drawn := clone.chunks() - before):
        assert dvc.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    dvc.send_signal(signal.SIGKILL)
    dvc.wait()
    kept = {path: path.stat().st_mtime_ns for path in (clone.folder / ".scratch/chunks").rglob("*.parquet")}
    clone.repro("rank")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "finished chunks were drawn again"
    assert drawn <= clone.chunks()
    assert not list(clone.folder.rglob("*.partial"))


def test_experiments_and_diffs_work(clone: Clone) -> None:
    clone.commit("before the experiment")
    clone.dvc("exp", "run", "-q", "-S", "ranking.criterion=similarity", "rank")
    assert "similarity" in clone.dvc("exp", "show", "--csv", "--no-pager")
    assert "similarity" in clone.dvc("params", "diff", "--md")
    assert "criterion" in clone.dvc("metrics", "diff", "--md", "--all")
    clone.dvc("plots", "show", "--json")


def test_edited_prompts_are_drawn(clone: Clone) -> None:
    file = clone.folder / "prompts.txt"
    file.write_text("a dog runs\na cat sleeps\n")
    clone.edit(prompts__source="prompts.txt")
    clone.repro("generate@rank_a")
    assert _drawn(clone) == {"a dog runs", "a cat sleeps"}
    file.write_text("a dog runs\na bird sings\n")
    assert clone.repro("generate@rank_a") == {"prompts", "generate@rank_a"}
    assert _drawn(clone) == {"a dog runs", "a bird sings"}


def _drawn(clone: Clone) -> set[str]:
    return set(read_frame(clone.folder / "data/videos/full/rank_a.parquet", "videos")["prompt"])
