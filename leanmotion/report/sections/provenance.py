"""What the page was made from: settings, weights, extractor, versions. No times, hosts or commits."""

import json
from importlib.metadata import PackageNotFoundError, version

from markupsafe import Markup

from leanmotion.report.artefacts import Artefacts
from leanmotion.report.elements import Table

PACKAGES = (
    "leanmotion", "torch", "diffusers", "transformers", "accelerate", "numpy", "scipy", "pandas", "pyarrow", "av",
)  # fmt: skip


def finding(found: Artefacts) -> Markup:
    """What the page hangs on, in a sentence."""
    return Markup("One teacher ({}), {} features and the settings below: the same give the same page.").format(
        str(found.teacher.get("sha256", ""))[:12], found.meta.get("extractor", "unknown")
    )


def provenance(found: Artefacts) -> list[Table]:
    """Tables of weights, of what distances are of, and of versions."""
    meta = found.meta
    weights = [["teacher, all files together", str(found.teacher.get("sha256", ""))]]
    weights += [[name, str(digest)] for name, digest in sorted(dict(found.teacher.get("files", {})).items())]
    weights += [[f"student {name}", digest] for name, digest in found.weights.items()]
    counts = found.settings.split_counts
    measured = [
        ["extractor", f"{meta.get('extractor', '')}, {meta.get('extractor_dimensions', '?')} dimensions"],
        ["extractor weights", meta.get("extractor_sha256", "")],
        ["official I3D of published FVD", "yes" if found.official else "no: these values compare with each other only"],
        ["videos (N) a variant", ", ".join(f"{split} {count}" for split, count in counts.items())],
        ["frames", meta.get("frames", "")],
        ["ranked by", meta.get("criterion", "")],
        [
            "intervals",
            f"ranking {found.settings.ranking.interval:.0%}, rounds {found.settings.evaluation.interval:.0%}",
        ],
    ]
    return [
        Table("Measured with", ["What", "Value"], measured),
        Table("Weights by sha256", ["File", "sha256"], weights),
        Table("Library versions", ["Package", "Version"], [[name, _version(name)] for name in PACKAGES]),
    ]


def settings_text(found: Artefacts) -> str:
    """All settings as they were understood."""
    return json.dumps(found.settings.model_dump(by_alias=True), indent=1, ensure_ascii=False)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"
