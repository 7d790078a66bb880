"""Which units a probe removes: the most similar, seeded random ones, single ones."""

import pandas as pd
import pytest

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.settings import ProbeSet
from leanmotion.probing.probe_sets import probes_of
from leanmotion.probing.similarity_tables import mean_similarity

BLOCKS = [f"up_0_{i}" for i in range(6)]


def similarity() -> pd.DataFrame:
    """Two timesteps: means fall from up_0_5 to up_0_0, though single timesteps do not. Attention: two each."""
    rows = []
    for i, block in enumerate(BLOCKS):
        for timestep, wobble in ((900, 0.3), (100, -0.3)):
            sign = 1 if i % 2 else -1
            cosine = 0.1 * i + sign * wobble
            rows.append({"unit": block, "granularity": "temporal_transformer", "timestep": timestep, "cosine": cosine})
            for n in (1, 2):
                unit = f"{block}-block0-attn{n}"
                rows.append(
                    {"unit": unit, "granularity": "attention", "timestep": timestep, "cosine": -cosine + n / 100}
                )
    return pd.DataFrame(rows)


def probe_set(**changes) -> ProbeSet:
    return ProbeSet.model_validate({"granularity": "temporal_transformer", "counts": [1, 3]} | changes)


def test_mean_over_timesteps() -> None:
    mean = mean_similarity(similarity())
    assert mean[BLOCKS].round(12).tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_names_and_sizes() -> None:
    probes = probes_of("blocks", probe_set(single=2), similarity(), seed=0)
    assert [probe.name for probe in probes[:4]] == [
        "blocks_similar_1", "blocks_similar_3", "blocks_random_1", "blocks_random_3",
    ]  # fmt: skip
    assert [len(probe.units) for probe in probes] == [1, 3, 1, 3, 1, 1]
    assert [probe.pick for probe in probes] == ["similar"] * 2 + ["random"] * 2 + ["single"] * 2
    assert len({probe.name for probe in probes}) == len(probes)
    assert all(set(probe.units) <= set(BLOCKS) and len(set(probe.units)) == len(probe.units) for probe in probes)


def test_similar_ones_are_the_most_similar_and_nested() -> None:
    one, three = probes_of("blocks", probe_set(random=0), similarity(), seed=0)
    assert one.units == ("up_0_5",) and three.units == ("up_0_5", "up_0_4", "up_0_3")
    attention = probes_of("a", probe_set(granularity="attention", counts=[2], random=0), similarity(), seed=0)[0]
    assert attention.units == ("up_0_0-block0-attn2", "up_0_0-block0-attn1")


def test_random_ones_are_seeded_by_seed_and_name() -> None:
    many = probe_set(counts=[3], random=10)

    def drawn(name: str = "x", seed: int = 0) -> list[tuple[str, ...]]:
        return [probe.units for probe in probes_of(name, many, similarity(), seed=seed) if probe.pick == "random"]

    assert drawn() == drawn() and len(drawn()) == 10
    # 20 sets of 3 of 6, 10 draws: that two whole lists agree by chance has probability 20^-10.
    assert drawn() != drawn(seed=1) and drawn() != drawn("y") and len(set(drawn())) > 1


def test_equal_similarity_keeps_the_models_order() -> None:
    table = similarity()
    table["cosine"] = 0.5
    assert probes_of("x", probe_set(random=0), table, seed=0)[1].units == ("up_0_0", "up_0_1", "up_0_2")


@pytest.mark.parametrize(
    "change", [{"counts": [7]}, {"counts": [1], "single": 7}, {"granularity": "transformer_block"}]
)
def test_more_than_the_model_has(change: dict) -> None:
    message = r"probe\.sets\.big: asks for \d units, the model has [06] [a-z_]+: lower it"
    with pytest.raises(LeanmotionError, match=message):
        probes_of("big", probe_set(**change), similarity(), seed=0)


def test_single_names_have_no_dashes() -> None:
    probes = probes_of("a", probe_set(granularity="attention", counts=[], single=12), similarity(), seed=0)
    assert {probe.units[0].replace("-", "_") for probe in probes} == {p.name.removeprefix("a_single_") for p in probes}
    assert len(probes) == 12
