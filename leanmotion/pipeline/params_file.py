"""params.yaml as YAML, before anything in it is checked."""

from pathlib import Path
from typing import Any

import yaml

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.sources import read_flow


def read_params(path: Path) -> dict[str, Any]:
    """The content of a params.yaml.

    Raises:
        LeanmotionError: missing, not YAML, a key given twice, or no settings in it.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise LeanmotionError(f"{path}: no such file: run from the project's folder, or copy a preset") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise LeanmotionError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise LeanmotionError(f"{path}: holds no settings: copy a preset")
    return raw


def refuse_unwritten(path: Path, flow: Path = Path("dvc.yaml")) -> int:
    """Refuse a params.yaml that lacks what a stage of dvc.yaml names; returns how many families of stages.

    A setting may have a default, but DVC takes only what is written: it would stop at that stage, after all before it.

    Raises:
        LeanmotionError: such a setting, the first of them; or no dvc.yaml.
    """
    raw, stages = read_params(path), read_flow(flow)
    for name, stage in stages.items():
        for wanted in stage.get("do", stage).get("params", []):
            if isinstance(wanted, str) and "$" not in wanted and not _holds(raw, wanted.split(".")):
                raise LeanmotionError(f"{path}: lacks {wanted}, which stage {name} reads: add it, as presets/ have it")
    return len(stages)


def _holds(raw: Any, names: list[str]) -> bool:
    for name in names:
        if not isinstance(raw, dict) or name not in raw:
            return False
        raw = raw[name]
    return True


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is refused, as DVC does: a round would vanish without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{twice[0]} is given twice, line {node.start_mark.line + 1} and on")
        return super().construct_mapping(node, deep)


def with_round(path: Path, name: str, blocks: list[str]) -> str:
    """The text of a params.yaml with one more round, which deletes these blocks from the teacher; all else as it is.

    Raises:
        LeanmotionError: there is a round of this name, or the rounds stand in one line.
    """
    if name in (read_params(path).get("rounds") or {}):
        raise LeanmotionError(f"rounds.{name}: is there already: choose another name, or take it out of {path}")
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, yaml.SafeLoader)
    nodes = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    rounds = nodes.get("rounds")
    if not isinstance(rounds, yaml.MappingNode) or rounds.flow_style or not rounds.value:
        raise LeanmotionError(f"{path}: rounds: write each on a line of its own, as the presets do")
    first, last = rounds.value[0][0], rounds.value[-1][1]
    lines = text.splitlines(keepends=True)
    # A value in braces ends in its last line; one in a block at the begin of the line that follows it.
    at = last.end_mark.line + (1 if last.end_mark.column else 0)
    if at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += "\n"
    lines.insert(at, f"{' ' * first.start_mark.column}{name}: {{blocks: [{', '.join(blocks)}], from: base}}\n")
    return "".join(lines)
