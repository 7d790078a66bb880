"""params.yaml as YAML, before anything in it is checked."""

from pathlib import Path
from typing import Any

import yaml

from leanmotion.errors import LeanmotionError


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


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is refused, as DVC does: a round would vanish without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{twice[0]} is given twice, line {node.start_mark.line + 1} and on")
        return super().construct_mapping(node, deep)
