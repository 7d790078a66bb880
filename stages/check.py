"""Check the settings, the adapter and that every weight file is there, before any work. Its output never changes."""

from pathlib import Path

from leanmotion.cost.inspection import check_adapter
from leanmotion.features.embedding import open_extractor
from leanmotion.model.teacher import weight_files
from leanmotion.pipeline import stage
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import write_text
from leanmotion.pipeline.watched_paths import check_paths
from leanmotion.prompts.splits import load_prompts


def main(params: Path = Path("params.yaml"), out: Path = Path("data/check.json")) -> None:
    """Refuse wrong settings and missing files in one line; write the same constant file whenever all is well."""
    settings = load_settings(params)
    check_paths(settings)
    weight_files(settings.teacher)
    check_adapter(settings)
    load_prompts(settings.prompts.source)
    load_prompts(settings.prompts.confirm_source, "prompts.confirm_source")
    open_extractor(settings)
    write_text(out, '{"settings": "valid", "weights": "present"}\n')


if __name__ == "__main__":
    stage.run(main)
