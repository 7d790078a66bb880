"""Every wrong setting is named, with the mend, in one line."""

import copy
from pathlib import Path

import pytest
import yaml
from committed import SETTINGS, default_params, settings

from leanmotion.errors import LeanmotionError, did_you_mean
from leanmotion.pipeline.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DEFAULTS = settings()
GONE = object()


def changed(place: str, value: object) -> dict:
    """The default settings with one of them set, or taken away."""
    raw = copy.deepcopy(DEFAULTS)
    *path, last = place.split(".")
    here = raw
    for part in path:
        here = here[part]
    if value is GONE:
        del here[last]
    else:
        here[last] = value
    return raw


def problem(tmp_path, raw: object) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    with pytest.raises(LeanmotionError) as caught:
        load_settings(path)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"{path}: "), line
    return line.removeprefix(f"{path}: ")


def test_the_repositorys_own_are_valid() -> None:
    assert len(load_settings(SETTINGS).teacher.blocks) == 21
    for path in (SETTINGS, default_params()):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = load_settings(path)
        assert settings.split_counts == {split: raw["prompts"][split] for split in ("rank", "select", "report")}
        assert Settings.model_validate(settings.model_dump(by_alias=True)) == settings


@pytest.mark.parametrize("path", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid(path: Path) -> None:
    load_settings(path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        # Unknown keys, at every level
        ("samplin", {}, "samplin: unknown setting (did you mean 'sampling'?)"),
        ("sampling.step", 5, "sampling.step: unknown setting (did you mean 'steps'?)"),
        ("sampling.qqqq", 5, "sampling.qqqq: unknown setting: known are ['frames', 'height'"),
        ("rounds.r04.form", "base", "rounds.r04.form: unknown setting (did you mean 'from'?)"),
        ("rounds.r04.from_", "base", "rounds.r04.from_: unknown setting (did you mean 'from'?)"),
        ("probe.sets.blocks.randm", 1, "probe.sets.blocks.randm: unknown setting (did you mean 'random'?)"),
        ("teacher.adaptor", "x", "teacher.adaptor: unknown setting (did you mean 'adapter'?)"),
        ("distillation.learningrate", 1, "(did you mean 'learning_rate'?)"),
        # Of earlier versions
        ("teacher.dep", "data/teacher", "teacher.dep: gone: remove it, as DVC watches teacher.base and"),
        ("teacher.base_revision", None, "teacher.base_revision: gone: remove it, and name a model of the hub by a pin"),
        ("extractor.revision", None, "extractor.revision: gone: remove it, and name a model of the hub by a pin"),
        ("clips.path", None, "clips.path is null: write builtin/none"),
        ("clips.captions", None, "clips.captions is null: write builtin/none"),
        # Missing
        ("sampling", GONE, "sampling: missing: add it"),
        ("sampling.steps", GONE, "sampling.steps: missing: add it"),
        ("rounds.r08.from", GONE, "rounds.r08.from: missing: add it"),
        ("teacher.blocks", GONE, "teacher.blocks: missing: add it"),
        # Wrong types
        ("sampling.steps", "10", "sampling.steps is '10': input should be a valid integer"),
        ("sampling.steps", 2.5, "sampling.steps is 2.5: input should be a valid integer"),
        ("sampling.steps", None, "sampling.steps is None: input should be a valid integer"),
        ("sampling.steps", True, "sampling.steps is True: input should be a valid integer"),
        ("sampling.guidance", "high", "sampling.guidance is 'high': input should be a valid number"),
        ("distillation.learning_rate", "1e-3", "is '1e-3': input should be a valid number: YAML reads 1.0e-3 as one"),
        ("sampling.guidance", [7.5], "sampling.guidance is [7.5]: input should be a valid number"),
        ("selection.confident", "yes please", "selection.confident is 'yes please': input should be a valid boolean"),
        ("teacher.base", 5, "teacher.base is 5: input should be a valid string"),
        ("teacher.blocks", "mid_0", "teacher.blocks is 'mid_0': input should be a valid list"),
        ("sampling", 5, "sampling is 5: input should be"),
        ("rounds", [4, 8], "rounds is [4, 8]: input should be a valid dictionary"),
        ("distillation.trainable", 5, "distillation.trainable is 5: input should be"),
        # Out of range
        ("sampling.steps", 0, "sampling.steps is 0: input should be greater than or equal to 1"),
        ("sampling.steps", -3, "sampling.steps is -3: input should be greater than or equal to 1"),
        ("sampling.frames", 0, "sampling.frames is 0"),
        ("sampling.height", 63, "sampling.height is 63: input should be a multiple of 8"),
        ("sampling.width", 0, "sampling.width is 0"),
        ("sampling.guidance", 0.5, "sampling.guidance is 0.5"),
        ("sampling.guidance", float("nan"), "sampling.guidance is nan"),
        ("sampling.chunk", 0, "sampling.chunk is 0"),
        ("prompts.rank", 3, "prompts.rank is 3: input should be greater than or equal to 4"),
        ("prompts.seed", 2**32, "prompts.seed is 4294967296: input should be less than 4294967296"),
        ("prompts.seed", 10**30, "prompts.seed is 1000"),
        ("prompts.seed", -1, "prompts.seed is -1"),
        ("ranking.interval", 1.0, "ranking.interval is 1.0: input should be less than 1"),
        ("ranking.interval", float("nan"), "ranking.interval is nan"),
        ("ranking.resamples", 5, "ranking.resamples is 5"),
        ("profile.rounds", 1, "profile.rounds is 1"),
        ("distillation.steps", -1, "distillation.steps is -1"),
        ("distillation.learning_rate", 0, "distillation.learning_rate is 0"),
        ("distillation.learning_rate", float("inf"), "distillation.learning_rate is inf"),
        ("distillation.output_weight", -0.1, "distillation.output_weight is -0.1"),
        ("distillation.ema", 1.0, "distillation.ema is 1.0"),
        ("selection.allowance", -0.25, "selection.allowance is -0.25"),
        ("selection.allowance", float("nan"), "selection.allowance is nan"),
        ("report.clips", 1000, "report.clips is 1000"),
        ("distillation.last_steps", 0, "distillation.last_steps is 0"),
        ("distillation.endpoint_clips", 0, "distillation.endpoint_clips is 0"),
        ("distillation.budget.total", -1, "distillation.budget.total is -1"),
        ("distillation.budget.unharmed", 1.5, "distillation.budget.broken is 1.0: it must exceed unharmed (1.5)"),
        # Words that are not among the known ones
        ("distillation.objective", "ends", "distillation.objective is 'ends': input should be 'steps' or 'endpoint'"),
        ("distillation.budget.totl", 5, "distillation.budget.totl: unknown setting (did you mean 'total'?)"),
        ("sampling.scheduler", "ddmi", "sampling.scheduler is 'ddmi': input should be 'base', 'ddim', 'euler'"),
        ("teacher.dtype", "float8", "teacher.dtype is 'float8': input should be 'float32', 'bfloat16' or 'float16'"),
        ("extractor.name", "resnet", "is 'resnet': input should be 'sprites', 'i3d', 'videomae' or 'vjepa2'"),
        ("ranking.criterion", "best", "ranking.criterion is 'best'"),
        ("clips.source", "internet", "clips.source is 'internet'"),
        ("selection.rule", "all", "selection.rule is 'all'"),
        ("probe.sets.blocks.granularity", "layer", "probe.sets.blocks.granularity is 'layer'"),
        ("teacher.sha256", "abc", "teacher.sha256 is 'abc'"),
        ("extractor.sha256", "Z" * 64, "extractor.sha256 is 'ZZZ"),
        # Blocks
        ("teacher.blocks", [], "teacher.blocks is []"),
        ("teacher.blocks", ["mid_0", "up_0_0", "mid_0"], "teacher.blocks lists mid_0 twice: name each once"),
        ("teacher.blocks", ["mid.0"], "teacher.blocks.0 is 'mid.0'"),
        ("teacher.blocks", ["mid_0", "../x"], "teacher.blocks.1 is '../x'"),
        # Rounds
        ("rounds", {}, "rounds is {}"),
        ("rounds.base", {"count": 1, "from": "base"}, "rounds.base: the name is taken"),
        ("rounds.r04.count", 0, "rounds.r04.count is 0"),
        ("rounds.r08.steps", -1, "rounds.r08.steps is -1"),
        ("rounds.r21.count", 22, "rounds.r21.count is 22: teacher.blocks lists only 21"),
        ("rounds.r08.from", "r4", "rounds.r08.from is 'r4': name an earlier round or base (did you mean 'r"),
        ("rounds.r08.from", "r17", "rounds.r08.count is 8: it must exceed the 17 of 'r17'"),
        ("rounds.r08.from", "r08", "rounds.r08.count is 8: it must exceed the 8 of 'r08'"),
        ("rounds.r04.from", "r08", "rounds.r04.count is 4: it must exceed the 8 of 'r08'"),
        ("rounds.r08.count", 4, "rounds.r08.count is 4: it must exceed the 4 of 'r04'"),
        ("rounds", {"r 4": {"count": 4, "from": "base"}}, "rounds.r 4 is 'r 4'"),
        ("rounds", {"../r4": {"count": 4, "from": "base"}}, "rounds.../r4 is '../r4'"),
        ("rounds", {4: {"count": 4, "from": "base"}}, "rounds.4 is 4: input should be a valid string"),
        # Splits and probes
        ("similarity.prompts", 7300, "similarity.prompts is 7300: the rank split has"),
        ("probe.sets.transformers.counts", [1, 22], "probe.sets.transformers.counts exceeds the 21 blocks"),
        ("probe.sets.transformers.counts", [0], "probe.sets.transformers.counts.0 is 0"),
        ("probe.sets.transformers.counts", [1, 1], "probe.sets.transformers.counts lists 1 twice: name each once"),
    ],
)  # fmt: skip
def test_each_names_the_setting_and_the_mend(tmp_path, place: str, value: object, said: str) -> None:
    assert said in problem(tmp_path, changed(place, value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no settings: copy a preset"),
        ("- a\n- b\n", "holds no settings"),
        ("just words", "holds no settings"),
        ("teacher: {base: [", "not YAML"),
        ("teacher: !!python/object/apply:os.system ['true']", "not YAML"),
        ("a: 1\n\tb: 2\n", "not YAML"),
    ],
)
def test_files_that_hold_no_settings(tmp_path, text: str, said: str) -> None:
    assert said in problem(tmp_path, text)


def test_a_key_given_twice(tmp_path) -> None:
    """YAML's readers take the last without a word: a round would silently vanish."""
    text = yaml.safe_dump(DEFAULTS)
    assert "r08 is given twice" in problem(tmp_path, text.replace("  r11:", "  r08:"))
    assert "sampling is given twice" in problem(tmp_path, text + "sampling: {}\n")


def test_keys_that_are_no_words(tmp_path) -> None:
    """`on:` is a boolean to YAML."""
    assert "True: " in problem(tmp_path, DEFAULTS | {True: 1})


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path) -> None:
    with pytest.raises(LeanmotionError, match=r"nowhere\.yaml: no such file: run from the project's folder"):
        load_settings(tmp_path / "nowhere.yaml")
    (tmp_path / "params.yaml").write_bytes(b"teacher: \xff\xfe")
    with pytest.raises(LeanmotionError, match="not YAML"):
        load_settings(tmp_path / "params.yaml")
    with pytest.raises(LeanmotionError, match="not YAML"):
        load_settings(tmp_path)


def test_integers_do_for_numbers_and_rounds_may_branch() -> None:
    assert Settings.model_validate(changed("sampling.guidance", 7)).sampling.guidance == 7.0
    branched = Settings.model_validate(changed("rounds.r11.from", "r04"))
    assert branched.rounds["r11"].from_ == "r04"


def test_settings_do_not_change() -> None:
    settings = Settings.model_validate(DEFAULTS)
    with pytest.raises(ValueError, match="frozen"):
        settings.sampling.steps = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_did_you_mean() -> None:
    assert did_you_mean("up_3_3", ["up_3_2", "mid_0"]) == " (did you mean 'up_3_2'?)"
    assert did_you_mean("zzz", ["up_3_2"]) == ""


def test_what_distillation_trains_on_and_trains(tmp_path) -> None:
    for parts in (["motion.attention", "up_3_2"], ["up_3_1-block0-attn1"]):
        assert Settings.model_validate(changed("distillation.trainable", parts)).distillation.trainable == parts
    said = problem(tmp_path, changed("distillation.trainable", ["motion.attention", "up_7_2"]))
    assert said == "distillation.trainable: 'up_7_2' is none of teacher.blocks: name some of them"
    raw = changed("distillation.inputs", "student")
    raw["distillation"]["task_weight"] = 0.5
    assert "distillation.task_weight must be 0 where inputs is student" in problem(tmp_path, raw)
    raw = changed("distillation.objective", "endpoint")
    raw["distillation"]["task_weight"] = 0.5
    assert "distillation.task_weight must be 0 where objective is endpoint" in problem(tmp_path, raw)
    raw["distillation"] |= {"task_weight": 0.0, "last_steps": 11}
    assert "distillation.last_steps is 11: it is at most sampling.steps (10)" in problem(tmp_path, raw)
    raw = changed("distillation.budget.total", 100)
    raw["distillation"]["validation"] = 0
    assert "distillation.budget goes by distances before training: set distillation.validation" in problem(
        tmp_path, raw
    )
    assert "distillation.inputs is 'noise'" in problem(tmp_path, changed("distillation.inputs", "noise"))
