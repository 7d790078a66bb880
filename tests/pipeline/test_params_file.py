"""params.yaml before it is checked: what dvc.yaml names has to be written there."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from committed import default_params

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.params_file import read_params, refuse_unwritten
from leanmotion.pipeline.settings import load_settings

ROOT = Path(__file__).parents[2]


def named() -> set[str]:
    """All single settings that dvc.yaml names."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = [wanted for stage in stages.values() for wanted in stage.get("do", stage).get("params", [])]
    return {wanted for wanted in params if isinstance(wanted, str) and "." in wanted and "$" not in wanted}


@pytest.mark.parametrize("name", sorted(named()))
def test_a_named_setting_that_is_not_written_is_one_line(name: str, tmp_path: Path) -> None:
    """Whether it has a default or not: DVC would stop at its stage, in its own words."""
    path = tmp_path / "params.yaml"
    shutil.copyfile(default_params(), path)
    raw = read_params(path)
    section, key = name.split(".")
    del raw[section][key]
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    with pytest.raises(LeanmotionError, match=f"lacks {re.escape(name)}, which stage [a-z_]+ reads: add it"):
        refuse_unwritten(path, ROOT / "dvc.yaml")


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))], ids=lambda p: p.stem
)
def test_presets_write_all_that_is_named(path: Path, tmp_path: Path) -> None:
    text = default_params() if path.name == "params.yaml" else path
    shutil.copyfile(text, tmp_path / "params.yaml")
    assert load_settings(tmp_path / "params.yaml")
    assert refuse_unwritten(tmp_path / "params.yaml", ROOT / "dvc.yaml") > 20


def test_without_a_dvc_yaml(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match=r"dvc\.yaml: not readable"):
        refuse_unwritten(ROOT / "presets/animatediff-v3.yaml", tmp_path / "dvc.yaml")
