"""All sections onto one page, and the CSV files beside it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.writing import write_text
from leanmotion.report.artefacts import BASE, Artefacts, Frame, read_artefacts
from leanmotion.report.sections import (
    carry_over,
    criteria,
    front,
    granularity,
    guide,
    headline,
    losses,
    media,
    provenance,
    ranking,
    rounds,
    savings,
    similarity,
    unet_map,
)

LIMIT = 15_000_000


def write_report(settings: Settings, *, data: Path, carried_over: Path, out: Path, plots: Path) -> int:
    """Write the page and the CSV files; the same inputs give the same bytes.

    Args:
        settings: All settings.
        data: The folder of the Parquet artefacts.
        carried_over: The table of `make carry-over`, shown where it is there and of this run's teacher.
        out: The page.
        plots: The folder of the CSV files; others in it are dropped.

    Returns:
        The page's size in bytes.

    Raises:
        LeanmotionError: An artefact is missing or damaged, or the page is larger than 15 MB.
    """
    found = read_artefacts(settings, data)
    page = render_page(found, carry_over.read_carried_over(carried_over, found))
    size = len(page.encode())
    if size > LIMIT:
        raise LeanmotionError(f"report.clips: the page would have {size / 1e6:.0f} MB, over 15: show fewer clips")
    tables = plot_tables(found)
    for name, table in tables.items():
        write_text(plots / name, _csv(table))
    for stale in {path for path in plots.glob("*.csv") if path.name not in tables}:
        stale.unlink()
    write_text(out, page)
    return size


def render_page(found: Artefacts, carried: carry_over.CarriedOver) -> str:
    """The page's HTML."""
    # Prompts, titles and paths come from outside: everything is escaped unless built as Markup here.
    environment = Environment(
        loader=PackageLoader("leanmotion.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    clips, budgets = media.read_media(found), front.Budgets.of(found)
    context: dict[str, Any] = {
        "title": found.settings.report.title,
        "sentence": headline.sentence(found),
        "evidence": headline.evidence(found),
        "motion_time": headline.motion_time(found),
        "three_excesses": headline.three_excesses(found),
        "dealt_anew": headline.dealt_anew(found),
        "under_other_norm": headline.under_other_norm(found),
        "guide": guide.how_to_read(found),
        "labels": headline.labels(found),
        "reading": headline.reading(found),
        "facts": headline.facts(found),
        "confirmed": headline.confirmed(found),
        "findings": _findings(found, carried, budgets),
        "media": clips,
        "rounds": [{"name": n, "removed": found.removed[n]} for n in found.rounds],
        "picked": found.rounds[-1] if found.chosen == BASE else found.chosen,
        "chosen": found.chosen,
        "map": unet_map.unet_map(found),
        "ranking": ranking.ranking_figure(found),
        "ranking_table": ranking.ranking_table(found),
        "ranking_reading": ranking.reading(found),
        "beside": criteria.beside_figure(found),
        "criteria": criteria.criteria_figure(found),
        "criteria_reading": criteria.reading(found),
        "ranges": similarity.ranges_figure(found),
        "heat_maps": similarity.heat_maps(found),
        "probes": granularity.probes_figure(found),
        "verdict": granularity.verdict(found),
        "round_figures": rounds.rounds_figures(found),
        "front": front.front_figure(found, budgets),
        "front_measured": front.measured(found, budgets),
        "front_table": front.front_table(budgets),
        "savings": savings.savings_figure(found),
        "savings_reading": savings.reading(found),
        "carried": carry_over.carry_over_figure(carried),
        "losses": losses.losses_figure(found),
        "provenance": provenance.provenance(found),
        "settings": provenance.settings_text(found),
        "store": {"clips": clips.clips, "rounds": {n: found.removed[n] for n in found.rounds}, "notes": clips.notes},
    }
    return environment.get_template("page.html.j2").render(context)


def _findings(found: Artefacts, carried: carry_over.CarriedOver, budgets: front.Budgets) -> dict[str, str]:
    """What each section opens with: its finding in a sentence, by the section's id."""
    return {
        "videos": media.finding(found),
        "map": unet_map.finding(found),
        "ranking": ranking.finding(found),
        "influence": criteria.finding(found),
        "similarity": similarity.finding(found),
        "granularity": granularity.finding(found),
        "rounds": rounds.finding(found),
        "budgets": front.finding(found, budgets),
        "savings": savings.finding(found),
        "carry-over": carry_over.finding(carried, found.chosen),
        "losses": losses.finding(found),
        "provenance": provenance.finding(found),
    }


def plot_tables(found: Artefacts) -> dict[str, Frame]:
    """The CSV files by name, for `dvc plots` and for anyone who wants the numbers behind a chart."""
    return {
        "ranking.csv": ranking.ranking_csv(found),
        "criteria.csv": criteria.criteria_csv(found),
        "rounds.csv": rounds.rounds_csv(found),
        "losses.csv": losses.losses_csv(found),
        "similarity.csv": similarity.similarity_csv(found),
        "similarity_units.csv": similarity.similarity_units_csv(found),
        "probes.csv": granularity.probes_csv(found),
    }


def _csv(table: Frame) -> str:
    return table.to_csv(index=False, lineterminator="\n", float_format="%.9g")
