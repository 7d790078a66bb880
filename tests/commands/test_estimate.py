"""What `leanmotion check` foretells: counts in closed form, and times that follow the measured chunk."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from committed import SETTINGS
from typer.testing import CliRunner

from leanmotion.commands.cli import app
from leanmotion.commands.estimate import (
    COPIES,
    Speed,
    clips_to_draw,
    duration,
    seconds,
    size,
    training_steps,
    video_bytes,
)
from leanmotion.pipeline.settings import Settings, load_settings
from leanmotion.pipeline.training_settings import Budget, Round
from leanmotion.probing.probe_sets import probes_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings() -> Settings:
    return load_settings(SETTINGS)


def changed(settings: Settings, group: str, **values: object) -> Settings:
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update=values)})


def test_counts_are_those_of_the_stages(settings: Settings) -> None:
    found = clips_to_draw(settings)
    n = settings.prompts
    assert found["generate"] == 2 * (n.rank + n.select + n.report)
    assert found["ablate"] == 21 * n.rank
    assert found["render"] == 2 * len(settings.rounds) * (n.select + n.report)
    assert "clips" not in found
    own = changed(settings, "clips", source="teacher", count=7)
    assert clips_to_draw(own)["clips"] == 7


def test_probes_are_counted_as_they_are_made(settings: Settings) -> None:
    import pandas as pd

    units = pd.DataFrame(
        [
            {"unit": f"{g}-{i}", "granularity": g, "cosine": i / 100}
            for g in ("temporal_transformer", "transformer_block", "attention")
            for i in range(21)
        ]
    )
    made = sum(len(probes_of(name, p, units, seed=0)) for name, p in settings.probe.sets.items())
    assert clips_to_draw(settings)["probe"] == made * (settings.probe.prompts or settings.prompts.rank)


def test_bytes_follow_frames(settings: Settings) -> None:
    raw, low, high = video_bytes(settings)
    drawn = settings.sampling
    assert raw == sum(clips_to_draw(settings).values()) * drawn.frames * drawn.height * drawn.width * 3
    assert low < high == raw / 2 * COPIES
    twice = video_bytes(changed(settings, "sampling", frames=2 * drawn.frames))
    assert twice[0] == 2 * raw


def test_seconds_follow_the_measured_clip(settings: Settings) -> None:
    one, two = (seconds(settings, Speed(s, 0, "cpu")) for s in (1.0, 2.0))
    assert two == {stage: pytest.approx(2 * value) for stage, value in one.items()}
    assert one["ablate"] == clips_to_draw(settings)["ablate"]
    # All rounds but the one that deletes every block have something to train; 10 UNet calls a clip, 20 with guidance.
    d = settings.distillation
    budgets = [r.steps for r in settings.rounds.values() if r.size < 21]
    assert len(budgets) == len(settings.rounds) - 1
    steps = sum(d.steps if own is None else own for own in budgets)
    # Validation draws twice a round, and the teacher once.
    training, validation = steps * d.batch * 4 / 10, (len(budgets) * 2 + 1) * d.validation
    assert one["distill"] == pytest.approx(training + validation)
    guided = changed(settings, "sampling", guidance=7.5)
    assert seconds(guided, Speed(1.0, 0, "cpu"))["distill"] == pytest.approx(training / 2 + validation)
    untrained = {name: r.model_copy(update={"steps": 0}) for name, r in settings.rounds.items()}
    assert seconds(settings.model_copy(update={"rounds": untrained}), Speed(1.0, 0, "cpu"))["distill"] == 0
    # On a trajectory each clip is shown with both prompts.
    both = seconds(changed(guided, "distillation", inputs="teacher"), Speed(1.0, 0, "cpu"))
    assert both["distill"] == pytest.approx(one["distill"])


def test_seconds_of_end_points_and_of_a_total(settings: Settings) -> None:
    """A step draws its clips, and goes back through the last steps; a total is what each branch spends at most."""
    total, d = Budget(total=200), settings.distillation
    rounds = {
        "r08": Round.model_validate({"count": 8, "from": "base", "steps": 40}),
        "r17": Round.model_validate({"count": 17, "from": "r08"}),
        "other": Round.model_validate({"count": 17, "from": "base"}),
    }
    chosen = changed(settings, "distillation", objective="endpoint", last_steps=3, budget=total)
    chosen = chosen.model_copy(update={"rounds": rounds})
    assert training_steps(chosen) == [40, 160, 200]
    clips = 400 * d.batch * (1 + 2 * 3 / 10) + d.endpoint_clips + 7 * d.validation
    assert seconds(chosen, Speed(1.0, 0, "cpu"))["distill"] == pytest.approx(clips)


def test_people_read_it() -> None:
    assert [duration(s) for s in (42, 600, 9000)] == ["42 s", "10.0 min", "2.5 h"]
    assert [size(n) for n in (2_500_000, 3.2e9)] == ["2.5 MB", "3.2 GB"]


def test_check_measures_the_committed_teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, embedded: Path) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.chdir(embedded)
    raw = yaml.safe_load((embedded / "params.yaml").read_text())
    raw["sampling"] |= {"steps": 1, "chunk": 2}
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(raw, sort_keys=False))
    # However little is free: it says so, and what will be needed.
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_500_000))
    plain = CliRunner().invoke(app, ["check", "--params", str(params)])
    assert plain.exit_code == 0 and "check --measure" in plain.stdout and "1.5 MB are free" in plain.stdout
    assert "these FVDs are not those of papers" in plain.stdout and "False" not in plain.stdout
    assert (
        "the same ones, with new seeds" in plain.stdout
        and max(map(len, plain.stdout.replace(str(tmp_path), "").splitlines())) <= 120
    )
    result = CliRunner().invoke(app, ["check", "--params", str(params), "--measure"])
    assert result.exit_code == 0, result.output
    assert "a chunk of 2 clips" in result.stdout and "at peak while drawing" in result.stdout
    assert "  distill: " in result.stdout
