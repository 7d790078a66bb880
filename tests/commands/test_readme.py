"""The README: its figures are those of metrics/, its snippet runs, and the command that writes it."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from committed import ROOT, SETTINGS, committed
from diffusers import DDIMScheduler
from finished_run import Run
from PIL import Image

from leanmotion.commands import readme, readme_results
from leanmotion.errors import LeanmotionError
from leanmotion.model.judged_sampling import judged_sampling
from leanmotion.model.pruned_adapter import save_pruned
from leanmotion.pipeline.settings import Sampling
from leanmotion.pipeline.tables import read_frame


def stale(text: str, params: Path, metrics: Path) -> list[str]:
    """Where a README does not say what these settings and metrics say, measured times aside: no metric holds those."""
    try:
        found = readme.read_results(params, metrics)
    except LeanmotionError as error:
        return [str(error)]
    seconds = readme.current_seconds(text)
    missing = {"base", "none", *found.settings.rounds} - set(seconds)
    blocks = readme.blocks(found, seconds)
    return [*missing, *(name for name, block in blocks.items() if readme.current(text, name) != block)]


@pytest.fixture(scope="module")
def told() -> tuple[str, Path, Path]:
    """The README, and what it tells of: settings and metrics in git, whatever a run has left here since.

    Or else those that lie here: so it is between `make readme` after a run and the commit of both. They can make these
    tests pass, never fail.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if not (in_git := stale(text, committed("params.yaml"), committed("metrics"))):
        return text, committed("params.yaml"), committed("metrics")
    here = stale(text, ROOT / "params.yaml", ROOT / "metrics")
    assert not here, f"README.md is not of metrics/: {in_git} (in git), {here} (here): `make readme` after a run"
    return text, ROOT / "params.yaml", ROOT / "metrics"


def test_every_figure_of_the_readme_is_that_of_metrics(told: tuple[str, Path, Path]) -> None:
    text, params, metrics = told
    assert stale(text, params, metrics) == []
    for picture in (readme.GIF, readme.SHEET):
        assert (ROOT / picture).is_file() and picture in text


def test_it_is_short_and_narrow() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sum(word.strip("|") != "" for word in text.split()) <= 1000
    assert not [line for line in text.splitlines() if len(line) > 120]
    assert max(line.count("|") - 1 for line in text.splitlines() if line.startswith("|")) <= 6


def test_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links and all((ROOT / link).exists() for link in links)


def test_a_figure_that_is_not_of_metrics_is_found(told: tuple[str, Path, Path]) -> None:
    """Any digit between the markers but those of measured times."""
    text, params, metrics = told
    for marker in ("results", "reading"):
        start, end = text.index(f"<!-- {marker} -->"), text.index(f"<!-- /{marker} -->")
        places = [i for i in range(start, end) if text[i].isdigit()]
        assert len(places) > 20
        for place in places[:: len(places) // 20]:
            changed = text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]
            if readme.current_seconds(changed) == readme.current_seconds(text):
                assert stale(changed, params, metrics), text[max(0, place - 20) : place + 20]


def test_the_snippet_of_the_readme_runs(teacher_folder, make_unet, tmp_path: Path, monkeypatch) -> None:
    """On a tiny teacher, in two steps; text, names and calls are the README's."""
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert snippet
    folder = teacher_folder(levels=2, layers=1)
    how = Sampling(frames=3, height=32, width=32, steps=2, guidance=1.0, chunk=1, threads=1)
    judged = judged_sampling(how, DDIMScheduler.from_pretrained(folder.base, subfolder="scheduler"))
    save_pruned(make_unet(levels=2, layers=1), tmp_path / "data/export/pruned", judged=judged)
    shutil.copytree(folder.base, tmp_path / "data/teacher/base")
    monkeypatch.chdir(tmp_path)
    assert len(snippet[1].strip().splitlines()) <= 8
    torch.manual_seed(0)
    exec(compile(snippet[1], "README.md", "exec"), {})
    assert getattr(Image.open(tmp_path / "clip.gif"), "n_frames", 1) > 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("run"))
    run.write()
    # `select` writes the same figures twice: a record for later stages, and what git and `dvc metrics` read.
    shutil.copyfile(run.data / "selection.json", run.metrics / "selection.json")
    (run.metrics / "selection.txt").write_text("because it is the furthest\nDeleted: a, b\n")
    return run


@pytest.fixture
def project(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A README with markers; the settings are the run's."""
    monkeypatch.setattr(readme_results, "load_settings", lambda path: run.settings)
    (tmp_path / "docs").mkdir()
    path = tmp_path / "README.md"
    path.write_text(
        "# x\n<!-- results -->\nold\n<!-- /results -->\nby hand\n<!-- reading -->\n<!-- /reading -->\nend\n"
    )
    return path


def blocks(found: readme.Results, seconds: dict[str, float] | None = None) -> dict[str, str]:
    """The blocks, each paragraph in one line."""
    return {
        name: re.sub(r"(?<!\n)\n(?![\n|])", " ", text) for name, text in readme.blocks(found, seconds or {}).items()
    }


def write(run: Run, path: Path) -> Any:
    return readme.write_readme(path, params=Path("unread"), data=run.data, metrics=run.metrics)


def test_the_command_writes_table_and_pictures(run: Run, project: Path) -> None:
    written = write(run, project)
    text = project.read_text(encoding="utf-8")
    assert [path.name for path in written] == ["original-and-pruned.gif", "contact-sheet.png", "README.md"]
    assert all(path.is_file() for path in written)
    assert "old" not in text and "by hand" in text and text.endswith("end\n")
    rows = read_frame(run.data / "evaluation.parquet", "evaluation").query("split == 'report'")
    line = next(line for line in text.splitlines() if line.startswith("| **r2**, chosen | 2 |"))
    fvd = rows.query("round == 'r2' and arm == 'distilled'").iloc[0]
    assert f"{fvd['fvd']:.3g} [{fvd['fvd_low']:.3g}, {fvd['fvd_high']:.3g}]" in line
    latency = read_frame(run.data / "latency.parquet", "latency").set_index("variant")["seconds"]
    assert readme.current_seconds(text) == {
        name: pytest.approx(latency["full" if name == "base" else name], rel=1e-2)
        for name in ("base", "r2", "all", "none")
    }
    # Every round was drawn with its own clips, also the one with nothing left to train.
    # The columns are of the same seeds, so that the original's own row is 0; what other seeds change is a sentence.
    assert re.search(r"\| original \| 0 \| 0 \| 0 \|", text) and "other seeds |" not in text
    base = rows.query("round == 'base'").iloc[0]
    yardstick = f"{base['null']:.3g} [{base['fvd_cross_low']:.3g}, {base['fvd_cross_high']:.3g}]: the yardstick."
    assert yardstick in " ".join(text.split())
    assert "not repaired" not in next(line for line in text.splitlines() if line.startswith("| all |"))
    again = [path.read_bytes() for path in written]
    write(run, project)
    assert [path.read_bytes() for path in written] == again


def confirm(run: Run, metrics: Path, **changes: Any) -> readme.Results:
    """What is read of a run that was confirmed so."""
    shutil.copytree(run.metrics, metrics)
    figures = {
        "round": "r2", "removed": 2, "sets": 4, "videos": 192, "captions": 16, "null": 8.25, "fvd_cross": 9.5,
        "excess": 0.1515, "excess_low": -0.104, "excess_high": 0.4375, "motion_accuracy": 0.9375,
        "original_motion_accuracy": 0.9583,
    }  # fmt: skip
    kept = {name: value for name, value in (figures | changes).items() if value is not None}
    (metrics / "confirm.json").write_text(json.dumps(kept))
    return readme.read_results(SETTINGS, metrics)


def test_the_headline_is_what_confirmed_the_choice(run: Run, tmp_path: Path) -> None:
    said = blocks(confirm(run, tmp_path / "metrics"))
    top = said["results"]
    assert (
        "**Without 2 of its 21 motion blocks the FVD to the original's clips is 9.5, where the original with other "
        "seeds has 8.25: 15% more (90% interval: -10% to 44%).**"
    ) in top
    assert "93.8% of these new clips show the motion asked for; of the original's, 95.8%." in top
    figures = "of 192 other clips, so that its figures differ (16 captions, new seeds; sets of 48)."
    assert figures in said["reading"]
    # Three excesses, each of other clips: which to believe.
    third = float(readme.read_results(SETTINGS, run.metrics).selection["distilled_excess"])
    assert f"The table's clips say {third:.0%}, the top's 15%. Each is of other clips" in said["reading"]
    # The report split's own, wider interval is no second answer beside it.
    assert "On the report split" not in said["reading"]
    nearer = blocks(confirm(run, tmp_path / "nearer", excess=-0.11))["results"]
    assert "has 8.25: 11% less (90% interval" in nearer
    alone = confirm(run, tmp_path / "own prompts", motion_accuracy=None)
    assert "motion asked for" not in blocks(alone)["results"]
    ends = {"": 1.04, "_low": 0.5, "_high": 2.0}
    other = {f"other_norm_excess{end}": value for end, value in ends.items()}
    said = blocks(confirm(run, tmp_path / "other", other_norm_videos=96, **other))
    assert (
        "With motion normalised frame by frame, as in ComfyUI, the difference is "
        "104% (50% to 200%; 96 clips; below 0: closer than other seeds)." in said["reading"]
    )
    timed = blocks(alone, {"base": 0.08, "r2": 0.06, "none": 0.04})
    assert "the model needs 75% of the time for a UNet call, and the FVD" in timed["results"]
    # The last round of that run deletes 7 of 21 blocks: it is another network.
    assert "compute the same" not in timed["reading"]


def test_nothing_is_confirmed_where_no_round_was_chosen_and_no_other_round_ever(run: Run, tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match=r"confirm\.json is of r4, not of r2: `dvc repro confirm`"):
        confirm(run, tmp_path / "another", round="r4")
    found = replace(confirm(run, tmp_path / "none"), confirmed={"round": "base", "removed": 0})
    assert blocks(found)["results"].endswith("Same prompts, same seeds.*")


def test_no_clip_is_called_distilled_that_was_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_results, "load_settings", lambda path: run.settings)
    found = readme.read_results(SETTINGS, run.metrics)
    for trained, words in (("True", "the rest distilled"), ("False", "the rest left as it was")):
        rounds = [{**row, "trained": trained if row["round"] == "r2" else row["trained"]} for row in found.rounds]
        said = blocks(replace(found, rounds=rounds))["results"]
        assert f"motion blocks deleted, {words}. Same prompts" in said


def test_all_blocks_deleted_and_no_motion_module_are_one_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_results, "load_settings", lambda path: run.settings)
    said = blocks(readme.read_results(SETTINGS, run.metrics), {"base": 0.08, "all": 0.0401, "none": 0.0399})["reading"]
    assert "all and *no motion module* compute the same: their times differ by chance." in said


def test_it_says_whether_students_blur_or_stand_still(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_results, "load_settings", lambda path: run.settings)
    rows = {row["round"]: row for row in csv.DictReader((run.plots / "rounds.csv").open())}
    shown = [f"{float(rows['r2'][f'distilled_{look}']):.1%}" for look in ("sharpness", "movement")]
    said = blocks(readme.read_results(SETTINGS, run.metrics))["reading"]
    # The other round has nothing left that could be trained.
    assert "as shares of the original's: {} and {} in r2.".format(*shown) in said


def test_every_line_is_narrow(run: Run, tmp_path: Path) -> None:
    found = confirm(run, tmp_path / "metrics")
    said = readme.blocks(replace(found, reason="a long sentence " * 40), {"base": 1.0, "none": 123.4})
    assert all(len(line) <= 120 for block in said.values() for line in block.splitlines())


@pytest.mark.parametrize(
    "text", ["nothing", "<!-- results --><!-- /results -->", "<!-- /results --><!-- results --> <!-- reading -->"]
)
def test_a_readme_without_markers_is_left_alone(run: Run, project: Path, text: str) -> None:
    project.write_text(text)
    with pytest.raises(LeanmotionError, match="wants one"):
        write(run, project)
    assert project.read_text(encoding="utf-8") == text and not list((project.parent / "docs").iterdir())


def test_missing_metrics_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match=r"dvc repro"):
        readme.read_results(SETTINGS, tmp_path)


@pytest.mark.parametrize("part", ["base", "adapter"])
def test_figures_of_the_embedded_teacher_are_said_of_no_other(run: Run, tmp_path: Path, part: str) -> None:
    params, metrics = tmp_path / "params.yaml", tmp_path / "metrics"
    params.write_text(SETTINGS.read_text().replace(f"{part}: data/teacher/{part}", f"{part}: data/another"))
    shutil.copytree(run.metrics, metrics)
    shares = {"original_colour": 0.9, "original_shape": 0.8, "original_motion": 0.7}
    (metrics / "teacher.json").write_text(json.dumps({**shares, "clips": 256}))
    own, other = (readme.read_results(path, metrics) for path in (SETTINGS, params))
    assert own.teacher is not None and other.teacher is None
    said = f"{own.teacher['original_motion']:.0%} of the motions of new captions."
    assert said in blocks(own)["reading"] and "of new captions" not in blocks(other)["reading"]
