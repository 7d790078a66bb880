"""How to read the page, in five lines."""

from markupsafe import Markup

from leanmotion.pipeline.numbers import data
from leanmotion.report.artefacts import Artefacts


def how_to_read(found: Artefacts) -> list[tuple[str, Markup]]:
    """Five words of the page, and what each means here."""
    confirmed, null = found.confirmed, found.figure("null_fvd")
    value = float(confirmed["null"].iloc[0]) if len(confirmed) else null
    whose = "at the top" if len(confirmed) else "of the ranking"
    at = Markup("") if value is None else Markup(" ({} for the clips {})").format(data(value), whose)
    official = (
        "By the official I3D, as in papers"
        if found.official
        else f"By {found.meta.get('extractor', 'other')} features: compare it on this page only"
    )
    words = {
        "FVD": Markup("How far two sets of videos are apart; 0 is no difference, less is better. {}.").format(official),
        "Null": Markup(
            "FVD between the original's own videos under two sets of seeds; each split's clips have their own{}. A "
            "lower FVD is less change than another seed makes."
        ).format(at),
        "Excess": Markup(
            "How much further than the null; at 0% as far as another seed. [low, high] is the {:.0%} interval."
        ).format(found.settings.evaluation.interval),
        "Round": Markup(
            "A set of deleted blocks (motion modules; up_2_1: way up, stage 2, block 1, both from 0). Pruned: only "
            "deleted. Distilled: then trained to make up for it, and kept where that helped."
        ),
        "Charts": Markup(
            "On an axis marked (log) each power of ten takes equal room; 2e-06 is 2 millionths. Times are of the "
            "machine that ran this."
        ),
    }
    return list(words.items())
