"""The real `dvc repro` on a micro teacher: only what changed reruns."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import warm
import yaml
from micro import MICRO, ROUNDS, Clone
from noting import leaves
from reads import Stage, other_value, stages_of
from safetensors.torch import load_file, save_file
from tiny import BLOCKS, edit_params

from leanmotion.model.student import Student
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame
from leanmotion.pipeline.watched_paths import watched

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def clone(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """After a whole first run, committed: one for all tests here, each of which starts where the one before ended."""
    clone = Clone.of(micro / "clone", tmp_path_factory.mktemp("clone") / "project")
    assert made(clone) == {"Sampler", "Run"}
    return clone


def test_nothing_changed_runs_nothing(clone: Clone) -> None:
    assert clone.repro() == set()
    assert "up to date" in clone.dvc("status")


# What decides a result is what DVC watches: these come first, while everything is up to date.

RECORDED = {"teacher.base", "teacher.adapter", "teacher.dtype", "teacher.motion_norm"}
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
def reads(micro: Path, clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Stage -> the settings that its code read, in the first run, and of some more under other settings."""
    stages, place = stages_of(clone.folder), tmp_path_factory.mktemp("reads")
    noted = shutil.copytree(micro / "noted", place / "noted")
    folder = shutil.copytree(clone.folder, place / "project", ignore=shutil.ignore_patterns(".git", ".dvc", ".scratch"))
    (folder / ".scratch").mkdir()
    text = (folder / "params.yaml").read_text()
    for name, changes in OTHER_RUNS:
        edit_params(folder / "params.yaml", changes)
        words = shlex.split(stages[name].command)[1:]
        done = warm.run(words, folder, {**clone.noted(noted), "DVC_STAGE": name})
        assert done.returncode == 0, done.stderr
        (folder / "params.yaml").write_text(text)
    return {name: set((noted / name).read_text().split()) for name in stages}


def test_a_stage_reads_no_setting_that_it_does_not_hang_on(clone: Clone, reads: dict[str, set[str]]) -> None:
    stages = stages_of(clone.folder)
    for name, stage in stages.items():
        recorded = RECORDED if RECORD in stage.files else set()
        assert not {setting for setting in reads[name] - recorded if not stage.covers(setting)}, name


def test_an_edit_of_any_setting_reruns_what_reads_it(clone: Clone, reads: dict[str, set[str]]) -> None:
    """DVC is asked after an edit of each that dvc.yaml names, and of one for all that the same stages hang on."""
    path = clone.folder / "params.yaml"
    text, settings = path.read_text(), load_settings(path)
    places = {name: place for name, place, _ in watched(settings)}
    before, fixed, asked = stages_of(clone.folder), set(), set()
    made_of = tuple(re.findall(r"\$\{((?!item|key)[^}]+)\}", (clone.folder / "dvc.yaml").read_text()))
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
        readers = {stage for stage in reads if name in reads[stage]}
        stages, again = before, covering(before, name)
        if name.startswith(made_of) or again not in asked:
            asked.add(again)
            clone.edit(**{name.replace(".", "__"): value})
            stages = stages_of(clone.folder)
            again = changed(stages)
            path.write_text(text)
        missed = {stage for stage in readers - again if name not in RECORDED or RECORD not in stages[stage].files}
        assert readers and not missed, f"{name}: {missed} would answer with old data"
        assert again == covering(stages, name) | {stage for stage in stages if stages[stage] != before[stage]}
    # A first round can start from nothing else than the teacher; four prompts are the least, and all that there are; so
    # are two sets.
    assert fixed == {"rounds.r2.from", "influence.prompts", "prompts.confirm_other_norm"}
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


def changed(stages: dict[str, Stage]) -> frozenset[str]:
    return frozenset(name for name, stage in stages.items() if stage.changed)


def covering(stages: dict[str, Stage], setting: str) -> frozenset[str]:
    return frozenset(name for name, stage in stages.items() if stage.covers(setting))


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


@pytest.mark.parametrize(("setting", "value"), [("dtype", "bfloat16"), ("motion_norm", "frame")])
def test_another_dtype_or_norm_reruns_everything_behind_inspect(
    clone: Clone, reads: dict[str, set[str]], setting: str, value: str
) -> None:
    text = (clone.folder / "params.yaml").read_text()
    clone.edit(**{f"teacher__{setting}": value})
    assert clone.repro("inspect") == {"check", "inspect"}
    readers = {name for name in reads if f"teacher.{setting}" in reads[name]}
    assert readers - {"check", "inspect"} <= changed(stages_of(clone.folder))
    if setting == "motion_norm":
        # What lies between these and `rank` loads no network.
        tables = {name: clone.folder / f"data/{name}.parquet" for name in ("similarity", "influence")}
        before = {name: read_frame(path, name) for name, path in tables.items()}
        using = {"generate@rank_a", "ablate@mid_0", "similarity", "influence"}
        assert using <= clone.repro(*sorted(using))
        assert not any(read_frame(path, name).equals(before[name]) for name, path in tables.items())
        assert made(clone) == {"Sampler"}
    (clone.folder / "params.yaml").write_text(text)
    assert clone.repro() == set(), "DVC still has what inspect wrote of the first one, and with it all that follows"


def made(clone: Clone) -> set[str]:
    """Kinds of what was made since this was asked last: `Sampler`, which draws, `Run`, which trains."""
    path = clone.folder / ".scratch/made"
    found = set(path.read_text().split()) if path.exists() else set()
    path.unlink(missing_ok=True)
    return found


def rewrite(clone: Clone, name: str, old: str, new: str) -> None:
    path = clone.folder / "leanmotion" / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_code_of_the_ranking_reruns_no_drawing_training_or_timing(clone: Clone) -> None:
    rewrite(clone, "ranking/fvd.py", "_EIGENVALUE_TOLERANCE =", "# Said here as well.\n_EIGENVALUE_TOLERANCE =")
    assert clone.repro() == {"check", "rank", "rerank@r2", "rerank@r4", "evaluate", "select", "confirm", "report"}
    assert made(clone) == set()


def test_a_docstring_draws_no_clip_and_trains_no_round(clone: Clone) -> None:
    """DVC runs all stages that hang on the room again, and they find what they made: here one of each kind."""
    chunks = {path: path.stat().st_mtime_ns for path in (clone.folder / ".scratch/chunks").rglob("*.parquet")}
    students = {path: path.read_bytes() for path in (clone.folder / "data/students").rglob("*") if path.is_file()}
    said = '    """Mean squared error against the data\'s own target, clips by weight: BK-SDM\'s L_Task."""\n'
    rewrite(clone, "distillation/losses.py", said, '    """Said otherwise."""\n    # And more.\n')
    training = changed(stages_of(clone.folder))
    assert training == {"check", "distill@r2", "distill@r4", "export"}
    rewrite(clone, "videos/codec.py", '"""Frames to bytes and back:', '"""Frames to bytes, and back:')
    drawing = changed(stages_of(clone.folder)) - training
    assert {"generate@rank_a", "ablate@mid_0", "probe@transformers", "clips", "render@r4"} <= drawing
    assert not {"similarity", "profile", "measure"} & drawing
    some = {"distill@r2", "generate@rank_a", "ablate@mid_0", "probe@transformers", "clips", "render@r4"}
    assert clone.repro("--single-item", *sorted(some)) == some
    assert changed(stages_of(clone.folder)) == (training | drawing) - some, "nothing behind them"
    assert made(clone) == set()
    assert chunks == {path: path.stat().st_mtime_ns for path in (clone.folder / ".scratch/chunks").rglob("*.parquet")}
    assert students == {path: path.read_bytes() for path in students}
    rewrite(clone, "distillation/losses.py", '    """Said otherwise."""\n    # And more.\n', said)
    rewrite(clone, "videos/codec.py", '"""Frames to bytes, and back:', '"""Frames to bytes and back:')
    assert clone.repro() == set(), "DVC still knows what came of it"


def test_a_constant_of_the_sampler_draws_all_clips_anew(clone: Clone) -> None:
    """And trains no round anew: training decodes no pictures."""
    before = clone.chunks()
    some = ("generate@rank_a", "ablate@mid_0", "distill@r2")
    rewrite(clone, "model/sampler.py", "_DECODE = 16", "_DECODE = 15")
    assert {*some, "probe@transformers", "clips", "render@r4"} <= changed(stages_of(clone.folder))
    assert clone.repro("--single-item", *some) == {*some}
    assert made(clone) == {"Sampler"}
    new = clone.chunks() - before
    assert len(new) == 2 * MICRO["prompts__rank"]
    rewrite(clone, "model/sampler.py", "_DECODE = 15", "_DECODE = 16")
    assert not clone.repro(), "DVC still knows what came of it"
    assert made(clone) == set() and clone.chunks() == before | new


def test_a_comment_and_a_report_setting(clone: Clone) -> None:
    path = clone.folder / "params.yaml"
    path.write_text("# a comment\n" + path.read_text())
    assert not changed(stages_of(clone.folder))
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
    done = clone.try_dvc("repro")
    assert done.returncode != 0
    assert "ranking.resamplse: unknown setting (did you mean 'resamples'?)" in done.stderr
    (clone.folder / "params.yaml").write_text(before)
    assert clone.repro() <= {"check"}


def test_another_extractor_keeps_all_videos(clone: Clone) -> None:
    shutil.copytree(clone.folder / "data/extractor", clone.folder / "other")
    weights = load_file(clone.folder / "other/model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, clone.folder / "other/model.safetensors")
    before = clone.chunks()
    clone.edit(extractor__path="other")
    ran = clone.repro("evaluate")
    assert {"check", "embed", "rank", "evaluate"} <= ran
    assert not [name for name in ran if name.startswith(("generate", "ablate", "probe"))]
    assert before == clone.chunks()
    clone.edit(extractor__path="data/extractor")
    assert clone.repro("rank") <= {"check", "rank"}, "its text is in git, not in DVC's cache"


def test_more_distillation_steps_keep_everything_up_to_rank(clone: Clone) -> None:
    clone.edit(distillation__steps=3)
    ran = clone.repro("evaluate")
    assert {"check", "distill@r2", "distill@r4", "render@r2", "evaluate"} <= ran
    assert not [name for name in ran if name.startswith(("generate", "ablate", "probe", "embed", "rank", "clips"))]


def test_a_round_has_a_budget_of_its_own(clone: Clone) -> None:
    before = (clone.folder / "params.yaml").read_text()
    clone.edit(rounds__r4__steps=1)
    changed = json.loads(clone.dvc("status", "--json", "distill@r2", "distill@r4"))
    assert set(changed) == {"distill@r4"}
    (clone.folder / "params.yaml").write_text(before)


def test_a_larger_last_round_reruns_no_early_one(clone: Clone) -> None:
    clone.edit(rounds={**ROUNDS, "r4": {"count": 5, "from": "r2"}})
    ran = clone.repro("render")
    assert {"distill@r4", "render@r4"} <= ran
    assert not {"distill@r2", "render@r2"} & ran


def test_the_set_that_solve_writes_is_deleted_and_timed(clone: Clone) -> None:
    before = (clone.folder / "params.yaml").read_text()

    def solved(*words: str) -> str:
        line = "import sys; from leanmotion.commands.cli import app; app(sys.argv[1:])"
        done = warm.run(["-c", line, "solve", *words], clone.folder, clone.env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    solved("--blocks", "3", "--write", "lean")
    ran = clone.repro("measure")
    assert {"rank", "rerank@lean", "distill@lean", "measure"} <= ran
    assert not {"distill@r2", "distill@r4"} & ran
    asked = load_settings(clone.folder / "params.yaml").rounds["lean"].blocks or []
    student = Student.read(clone.folder / "data/students/lean")
    assert len(asked) == 3 and student.removed == tuple(asked)
    names = load_file(student.adapter / "pruned_motion.safetensors")
    places = [re.match(r"(down|mid|up)_blocks?\.(?:(\d)\.)?motion_modules\.(\d)", name) for name in names]
    assert {"_".join(filter(None, place.groups())) for place in places if place} == set(BLOCKS) - set(asked)
    assert "(lean)" in solved("--blocks", "3"), "the same set again: its time is measured now"
    (clone.folder / "params.yaml").write_text(before)


def test_more_videos_generate_only_the_missing_ones(clone: Clone) -> None:
    before = clone.chunks()
    clone.edit(prompts__rank=6)
    changed = clone.dvc("status", "generate@select_a", "generate@report_b")
    assert "up to date" in changed
    ran = clone.repro("rank")
    assert {"generate@rank_a", "ablate@mid_0", "rank"} <= ran
    # Two chunks more for each of: seeds a and b of the original, seven ablations, four probes (of which the single
    # removals are ablations already drawn under the same address).
    new = clone.chunks() - before
    assert before <= clone.chunks()
    probes = read_frame(clone.folder / "data/probes.parquet", "probes")["units"]
    distinct = {tuple(sorted(units)) for units in probes}
    assert len(new) == 2 * (2 + len(BLOCKS) + len([units for units in distinct if len(units) > 1]))


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
    assert clone.repro("generate@rank_a") == {"check", "prompts", "generate@rank_a"}
    assert _drawn(clone) == {"a dog runs", "a bird sings"}


def _drawn(clone: Clone) -> set[str]:
    return set(read_frame(clone.folder / "data/videos/full/rank_a.parquet", "videos")["prompt"])
