"""The rank stage's tables on hand-made features."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from tiny import BLOCKS, tiny_settings

from leanmotion.errors import LeanmotionError
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.probing.probe_sets import probes_of
from leanmotion.ranking.fvd import frechet_distance
from leanmotion.ranking.importance import metrics_of, rank_importance
from leanmotion.ranking.rounding import rounded

SETTINGS = tiny_settings(prompts={"rank": 24})
VIDEOS, DIMENSIONS = 24, 4
SHIFT = {block: 0.5 * (1 + (3 * i) % 7) for i, block in enumerate(BLOCKS)}
"""How far each block's removal moves the features: all different, not in the model's order."""
ORDER = sorted(BLOCKS, key=lambda block: SHIFT[block])


def similarity() -> pd.DataFrame:
    rows = [
        {"unit": f"{block}{suffix}", "block": block, "granularity": granularity, "timestep": t,
         "cosine": 0.9 - SHIFT[block] / 10,
         "cosine_std": 0.1, "residual_cosine": 0.9 if "attn" in suffix else None, "count": 8}
        for block in BLOCKS
        for suffix, granularity in (
            ("", "temporal_transformer"), ("-block0", "transformer_block"),
            ("-block0-attn1", "attention"), ("-block0-attn2", "attention"),
        )
        for t in (900, 100)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def units() -> pd.DataFrame:
    table = similarity().drop_duplicates("unit").reset_index(drop=True)
    return table[["unit", "block", "granularity"]].assign(
        address="x", depth=0, channels=8, parameters=range(100, 100 + len(table)), macs=range(1000, 1000 + len(table))
    )


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (VIDEOS, DIMENSIONS))


def rows(variant: str, features: np.ndarray, seeds: str = "a") -> pd.DataFrame:
    frame = pd.DataFrame(
        {"variant": variant, "split": "rank", "seeds": seeds, "index": range(VIDEOS), "prompt": "a dog"}
    )
    frame["seed"] = range(VIDEOS) if seeds == "a" else range(100, 100 + VIDEOS)
    frame["features"] = list(features.astype(np.float32))
    frame["motion"] = list(np.abs(features).astype(np.float32))
    frame["labels"] = [[]] * VIDEOS
    return frame


def feature_set(tmp_path, **replaced: pd.DataFrame) -> FeatureSet:
    original = noise(0)
    takes = {"full": rows("full", original), "null": rows("full", noise(1), "b")}
    takes |= {block: rows(block, original + SHIFT[block]) for block in BLOCKS}
    for name, chosen in SETTINGS.probe.sets.items():
        for probe in probes_of(name, chosen, similarity(), seed=SETTINGS.probe.seed):
            moved = original + sum(SHIFT[unit.split("-")[0]] for unit in probe.units)
            takes[probe.name] = rows(probe.name, moved).head(SETTINGS.probe.prompts or VIDEOS)
    for name, frame in (takes | replaced).items():
        write_table(tmp_path / name, "features", frame, meta={"extractor": "sprites", "extractor_sha256": "0" * 64})
    return FeatureSet([tmp_path / name for name in takes])


def influence() -> pd.DataFrame:
    """Of two steps and four prompts; of each unit as large as its block's shift."""
    rows = []
    for unit in units().to_dict("records"):
        for step, weight in ((0, 1.0), (1, 3.0)):
            values = [SHIFT[unit["block"]] * size for size in (0.5, 1.0, 1.5, 2.0)]
            rows.append(
                {**{k: unit[k] for k in ("unit", "block", "granularity")}, "step": step, "timestep": 9.0 - step,
                 "weight": weight, "change": float(np.mean(values)), "change_low": 0.0, "change_high": 9.0,
                 "by_prompt": values}
            )  # fmt: skip
    return pd.DataFrame(rows)


SPENT = {
    "steps": 10, "macs_step": 100, "macs_walk": 1000, "macs_temporal_transformer": 9000, "macs_transformer_block": 5000,
    "macs_attention": 7000, "drawn_temporal_transformer": 100_000, "drawn_transformer_block": 120_000,
    "drawn_attention": 200_000,
}  # fmt: skip


def rank(settings, features, similarity, units, latency):
    return rank_importance(settings, features, similarity, units, latency, influence(), SPENT)


def latency() -> dict[str, float]:
    return dict.fromkeys(BLOCKS, 0.01)


@pytest.fixture
def features(tmp_path) -> FeatureSet:
    return feature_set(tmp_path)


def test_blocks_that_matter_less_come_first(features) -> None:
    found = rank(SETTINGS, features, similarity(), units(), latency())
    assert found.ranking.order == [row["block"] for row in found.blocks] == ORDER
    for row in found.blocks:
        # A shift of every feature and nothing else: the distance is the shift's square in each dimension.
        assert row["fvd"] == pytest.approx(DIMENSIONS * SHIFT[str(row["block"])] ** 2, rel=1e-4)
        assert row["similarity"] == pytest.approx(0.9 - SHIFT[str(row["block"])] / 10)
        fact = units().set_index("unit").loc[row["block"]]
        assert (row["parameters"], row["macs"]) == (fact["parameters"], fact["macs"])
    assert found.meta["extractor"] == "sprites" and found.meta["videos"] == "24" and found.meta["criterion"] == "fvd"
    assert found.ranking.null["fvd"] == pytest.approx(frechet_distance(noise(0).astype("f4"), noise(1).astype("f4")))


@pytest.mark.parametrize(
    ("criterion", "order"),
    [(name, ORDER) for name in ("similarity", "influence", "paired", "fvd_per_latency", "kvd")],
)
def test_other_criteria(features, criterion: str, order: list[str]) -> None:
    settings = tiny_settings(prompts={"rank": 24}, ranking={"criterion": criterion})
    assert rank(settings, features, similarity(), units(), latency()).ranking.order == order


def test_measured_time_is_only_where_it_was_asked_for(features) -> None:
    """Else the same videos would give another table on another day."""
    plain = rank(SETTINGS, features, similarity(), units(), {})
    assert all("latency" not in row for row in plain.blocks)
    settings = tiny_settings(prompts={"rank": 24}, ranking={"criterion": "fvd_per_latency"})
    # A block that measures as a loss of time is taken as one that saves nearly nothing, never as a negative.
    slow = {**latency(), ORDER[0]: -0.001}
    rows = {row["block"]: row for row in rank(settings, features, similarity(), units(), slow).blocks}
    assert rows[ORDER[0]]["latency"] == pytest.approx(0.0001) and rows[ORDER[1]]["latency"] == 0.01


def test_tables_fit_their_schemas(features, tmp_path) -> None:
    found = rank(SETTINGS, features, similarity(), units(), latency())
    for artefact, table in (
        ("ranking", found.blocks), ("pairs", found.pairs), ("correlations", found.ranking.correlations),
        ("probes", found.probes), ("criteria", found.criteria),
    ):  # fmt: skip
        write_table(tmp_path / artefact, artefact, table, meta=found.meta)
        assert len(read_frame(tmp_path / artefact, artefact)) == len(table) > 0
    assert len(found.pairs) == 7 * 6
    pairs = {(pair["block"], pair["other"]): pair["probability"] for pair in found.pairs}
    assert all(pairs[a, b] + pairs[b, a] == pytest.approx(1) for a, b in pairs)


def test_probes_stand_beside_what_they_remove(features) -> None:
    found = rank(SETTINGS, features, similarity(), units(), latency())
    facts = units().set_index("unit")
    assert [row["pick"] for row in found.probes] == ["similar", "similar", "random", "random"]
    for row in found.probes:
        shift = sum(SHIFT[unit] for unit in row["units"])
        assert row["fvd"] == pytest.approx(DIMENSIONS * shift**2, rel=1e-4)
        assert row["parameters"] == facts.loc[row["units"], "parameters"].sum() and row["count"] == len(row["units"])


def test_criteria_tell_how_far_they_agree_and_what_they_cost(features) -> None:
    found = rank(SETTINGS, features, similarity(), units(), latency())
    rows = {row["criterion"]: row for row in found.criteria}
    assert {row["granularity"] for row in found.criteria} == {"temporal_transformer"}
    assert rows["influence"]["kendall"] == rows["similarity"]["kendall"] == 1.0, "both fall with the shift"
    assert rows["influence"]["share"] == (1000 + 9000) / 100_000
    assert rows["similarity"]["share"] == SETTINGS.similarity.prompts * 10 * 100 / 100_000
    assert (rows["macs"]["share"], rows["paired"]["share"], rows["fvd_half"]["share"]) == (0, 1, 0.5)
    for row in found.criteria:
        assert row["kendall_low"] <= row["kendall"] <= row["kendall_high"], row
    metrics = metrics_of(found, similarity())
    assert metrics["tau_influence"] == 1.0 and metrics["cost_influence"] == 0.1
    assert metrics["influence_mid_0"] == pytest.approx(4 * 1.25 * SHIFT["mid_0"])


def test_single_units_that_were_drawn_are_compared_at_their_granularity(tmp_path) -> None:
    """Clips of the first prompts alone, as the setting says."""
    global SETTINGS
    sets = {
        "blocks": {"granularity": "transformer_block", "counts": [], "random": 0, "single": 5},
        "attentions": {"granularity": "attention", "counts": [2], "random": 0, "single": 6},
        "few": {"granularity": "temporal_transformer", "counts": [1], "random": 0},
    }
    settings = tiny_settings(prompts={"rank": 24}, probe={"sets": sets, "prompts": 8})
    before, SETTINGS = SETTINGS, settings
    try:
        found = rank(settings, feature_set(tmp_path), similarity(), units(), latency())
    finally:
        SETTINGS = before
    fine = {(row["criterion"], row["granularity"]): row for row in found.criteria if "block" in row["granularity"]
            or row["granularity"] == "attention"}  # fmt: skip
    assert set(fine) == {(c, g) for c in ("similarity", "influence") for g in ("transformer_block", "attention")}
    assert fine["influence", "transformer_block"]["units"] == 5 and fine["influence", "attention"]["units"] == 6
    assert fine["influence", "transformer_block"]["kendall"] == 1.0
    assert fine["influence", "attention"]["share"] == (1000 + 7000) / 200_000
    assert all(row["videos"] == 8 for row in found.probes)
    for row in found.probes:
        alone = len(row["units"]) == 1
        assert (row["influence"] is not None) == alone == (row["similarity"] is not None)
    figures, by_name = metrics_of(found, similarity()), {(r["criterion"], r["granularity"]): r for r in found.criteria}
    assert figures["attentions_tau_influence"] == round(fine["influence", "attention"]["kendall"], 2)
    # A key a figure: the criterion of attention layers for blocks is not similarity for attention layers.
    assert len(by_name) == len(found.criteria)
    assert sum("tau_" in name and "split_half" not in name for name in figures) == 3 * len(by_name)
    one, other = by_name["similarity_attention", "temporal_transformer"], by_name["similarity", "attention"]
    assert figures["tau_similarity_attention"] == round(one["kendall"], 2)
    assert figures["attentions_tau_similarity"] == round(other["kendall"], 2)


def test_videos_of_other_seeds_are_refused(tmp_path) -> None:
    spoiled = rows("mid_0", noise(3)).assign(seed=range(5, 5 + VIDEOS))
    with pytest.raises(LeanmotionError, match="videos differ in seed"):
        rank(SETTINGS, feature_set(tmp_path, mid_0=spoiled), similarity(), units(), latency())


def test_a_block_without_videos_is_named(tmp_path) -> None:
    gone = rows("another", noise(3))
    with pytest.raises(LeanmotionError, match="no features of 'mid_0'"):
        rank(SETTINGS, feature_set(tmp_path, mid_0=gone), similarity(), units(), latency())


def test_metrics_are_flat_stable_and_plain_json(features) -> None:
    found = rank(SETTINGS, features, similarity(), units(), latency())
    metrics = metrics_of(found, similarity())
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert not any("." in key or isinstance(value, dict | list) for key, value in metrics.items())
    assert [key for key in metrics if key.startswith("fvd_")] == [f"fvd_{block}" for block in BLOCKS]
    assert all(metrics[f"fvd_{row['block']}"] == rounded(row["fvd"], found.nulls["fvd"]) for row in found.blocks)
    a, b = noise(0).astype("f4").astype(float), noise(1).astype("f4").astype(float)
    assert found.nulls["paired"] == pytest.approx(float(((a - b) ** 2).sum(axis=1).mean()))
    assert found.nulls["motion"] == pytest.approx(np.abs(np.abs(a) - np.abs(b)).sum() / np.abs(a).sum())
    assert {f"null_{name}": float(found.meta[f"null_{name}"]) for name in found.nulls} == pytest.approx(
        {f"null_{name}": null for name, null in found.nulls.items()}
    )


def test_a_single_units_key_is_the_units(features) -> None:
    """The probe's own name begins with the set's: `attentions_single_down_2_1_block0_attn2` makes a table wide."""
    found = rank(SETTINGS, features, similarity(), units(), latency())
    single = {
        "probe": "attentions_single_mid_0_block0_attn1", "pick": "single", "units": ["mid_0-block0-attn1"], "fvd": 1.0
    }  # fmt: skip
    metrics = metrics_of(dataclasses.replace(found, probes=[*found.probes, single]), similarity())
    assert metrics["probe_fvd_mid_0_block0_attn1"] == 1.0
    assert {f"probe_fvd_{row['probe']}" for row in found.probes} <= set(metrics)
