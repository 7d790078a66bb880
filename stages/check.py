"""Refuse all that settings and files alone would stop a later stage at, before any work. Its output never changes."""

from pathlib import Path

from leanmotion.checking.refusals import refuse
from leanmotion.checking.remarks import remarks
from leanmotion.pipeline import stage
from leanmotion.pipeline.params_file import refuse_unwritten
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.sources import refuse_missing
from leanmotion.pipeline.writing import write_text


def main(params: Path = Path("params.yaml"), out: Path = Path("data/check.json")) -> None:
    """Refuse wrong settings and missing files in one line; write the same constant file whenever all is well."""
    settings = load_settings(params)
    if Path("dvc.yaml").is_file():
        refuse_unwritten(params)
        refuse_missing()
    for line in remarks(refuse(settings)):
        print(line)
    write_text(out, '{"settings": "valid", "weights": "present"}\n')


if __name__ == "__main__":
    stage.run(main)
