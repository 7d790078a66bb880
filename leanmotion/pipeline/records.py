"""Small JSON artefacts that carry a SHA-256 of their own content: a flipped bit is never another deletion list."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.writing import write_text

DIGEST = "digest"


def record_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of JSON values, whatever their layout and the order of keys; `digest` itself left out."""
    plain = {key: value for key, value in content.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def write_record(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON values with their digest, atomically."""
    write_text(path, json.dumps({**content, DIGEST: record_digest(content)}, indent=1) + "\n")


def read_record(path: str | Path, *, made_by: str) -> dict[str, Any]:
    """What `write_record` wrote, without the digest.

    Args:
        path: Of the file.
        made_by: The command that makes it anew, for the message.

    Raises:
        LeanmotionError: Missing, not JSON, or not what was written.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise LeanmotionError(f"{path}: no such file: `{made_by}` makes it") from None
    except (ValueError, RecursionError) as error:
        raise LeanmotionError(f"{path}: corrupt (not JSON): delete it, then `{made_by}`") from error
    if not isinstance(content, dict) or content.get(DIGEST) != record_digest(content):
        raise LeanmotionError(f"{path}: corrupt (its content is not what was written): delete it, then `{made_by}`")
    del content[DIGEST]
    return content
