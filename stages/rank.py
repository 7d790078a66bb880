"""Rank the blocks by what their removal does to the videos, and write each round's deletion list."""

from pathlib import Path

from leanmotion.features.feature_tables import FeatureSet
from leanmotion.influence.tables import interaction_of, spent_of
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.records import write_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame, read_table, table_meta, write_table
from leanmotion.pipeline.writing import write_text
from leanmotion.ranking.deletions import deletions
from leanmotion.ranking.importance import metrics_of, rank_importance
from leanmotion.ranking.rounding import write_metrics


def main(
    params: Path = Path("params.yaml"),
    features: Path = Path("data/features"),
    similarity: Path = Path("data/similarity.parquet"),
    influence: Path = Path("data/influence.parquet"),
    interaction: Path = Path("data/interaction.parquet"),
    units: Path = Path("data/units.parquet"),
    profile: Path = Path("data/profile.parquet"),
    out: Path = Path("data/ranking.parquet"),
    pairs: Path = Path("data/pairs.parquet"),
    ranks: Path = Path("data/ranks.parquet"),
    correlations: Path = Path("data/correlations.parquet"),
    criteria: Path = Path("data/criteria.parquet"),
    probes: Path = Path("data/probes.parquet"),
    order: Path = Path("data/order"),
    metrics: Path = Path("metrics/ranking.json"),
    listed: Path = Path("metrics/order.txt"),
) -> None:
    """Write ranking, probabilities of pairs and ranks, correlations, criteria, probes, deletion lists and metrics."""
    settings = load_settings(params)
    names = ["full/rank_a", "full/rank_b", *(f"ablate/{b}" for b in settings.teacher.blocks)]
    names += [f"probe/{name}" for name in settings.probe.sets]
    read = FeatureSet([features / f"{name}.parquet" for name in names])
    cosine = read_frame(similarity, "similarity")
    savings = read_frame(profile, "profile").set_index("variant")["saving"].to_dict()
    changes = read_table(influence, "influence")
    found = rank_importance(
        settings, read, cosine, read_frame(units, "units"), savings, changes.to_pandas(), spent_of(table_meta(changes))
    )
    write_table(out, "ranking", found.blocks, meta=found.meta)
    write_table(pairs, "pairs", found.pairs, meta=found.meta)
    write_table(ranks, "ranks", found.ranks, meta=found.meta)
    write_table(correlations, "correlations", found.ranking.correlations, meta=found.meta)
    write_table(criteria, "criteria", found.criteria, meta=found.meta)
    write_table(probes, "probes", found.probes, meta=found.meta)
    lists = deletions(settings, found.ranking.order, interaction_of(read_frame(interaction, "interaction")))
    for name, content in lists.items():
        write_record(order / f"{name}.json", content)
    for stale in {path for path in order.glob("*.json") if path.stem not in lists}:
        stale.unlink()
    write_metrics(metrics, metrics_of(found, cosine))
    # A line a block, least important first: what `git diff` shows, and no table of metrics has room for.
    write_text(listed, "\n".join(found.ranking.order) + "\n")
    tau, null = found.ranking.settling["split_half_tau"], found.ranking.null["fvd"]
    terminal.ranking(found.blocks, f"split-half Kendall tau {tau:.2f}; the original under other seeds: FVD {null:.3g}")


if __name__ == "__main__":
    stage.run(main)
