"""From changes of the model's output to tables of influence and interaction, and what these say of units and sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leanmotion.pipeline.settings import GRANULARITIES

if TYPE_CHECKING:
    from leanmotion.model.units import Unit

BLOCKS = "temporal_transformer"


@dataclass(frozen=True, eq=False)
class Interaction:
    """`G_ij = sum_k w_k <D_i, D_j>` over the steps k, of units of a granularity in the model's order, for each prompt.

    The predicted damage of a set is `1' G 1`: the squared change of the final latent, to first order, where the units'
    changes add up.
    """

    units: list[str]
    by_prompt: Float[np.ndarray, "prompts units others"]

    @property
    def mean(self) -> Float[np.ndarray, "units others"]:
        """Over prompts."""
        return self.by_prompt.mean(axis=0)

    def damage(self, removed: Sequence[str]) -> float:
        """Predicted damage of a set."""
        member = self._member(removed)
        return float(member @ self.mean @ member)

    def draws(self, removed: Sequence[str], resamples: int, seed: int) -> Float[np.ndarray, " resamples"]:
        """The same over resampled prompts."""
        member = self._member(removed)
        return resampled_means((self.by_prompt @ member @ member)[None], resamples, seed)[0]

    def _member(self, removed: Sequence[str]) -> np.ndarray:
        return np.isin(self.units, list(removed)).astype(np.float64)


def influence_rows(
    changes: Sequence[Mapping[str, Any]],
    units: Sequence[Unit],
    weights: Mapping[int, float],
    variances: Mapping[int, float],
    *,
    resamples: int,
    interval: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Artefact `influence`: a row a unit and step, in forward order of units.

    Args:
        changes: rows of `output_changes`, over all prompts.
        units: of the model, in forward order.
        weights: step -> its weight, of `step_weights.step_weights`.
        variances: step -> variance along its changes, of `step_weights.variances_of`.
        resamples: of prompts, with replacement.
        interval: coverage of `change_low` and `change_high`.
        seed: of the resampling.
    """
    kinds = {unit.id: {"block": unit.block, "granularity": unit.granularity} for unit in units}
    own = [row for row in changes if row["unit"] == row["other"]]
    means = resampled_means(np.array([row["values"] for row in own]), resamples, seed)
    low, high = np.quantile(means, [0.5 - interval / 2, 0.5 + interval / 2], axis=1)
    rows = [
        {
            "unit": row["unit"], **kinds[row["unit"]], "step": row["step"], "timestep": row["timestep"],
            "variance": variances[row["step"]], "weight": weights[row["step"]],
            "change": float(np.mean(row["values"])), "change_low": float(low[i]), "change_high": float(high[i]),
            "by_prompt": list(row["values"]),
        }
        for i, row in enumerate(own)
    ]  # fmt: skip
    place = list(kinds).index
    return sorted(rows, key=lambda row: place(row["unit"]))


def interaction_rows(
    changes: Sequence[Mapping[str, Any]], units: Sequence[Unit], weights: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Artefact `interaction`: a row a pair of units and step, each pair once; `value` is the mean over prompts."""
    kinds = {unit.id: unit.granularity for unit in units}
    return [
        {
            "unit": row["other"], "other": row["unit"], "granularity": kinds[row["unit"]], "step": row["step"],
            "timestep": row["timestep"], "weight": weights[row["step"]], "value": float(np.mean(row["values"])),
            "by_prompt": list(row["values"]),
        }
        for row in changes
    ]  # fmt: skip


def macs_spent(
    macs: Mapping[str, int],
    after: Mapping[str, int],
    units: Sequence[Unit],
    *,
    calls: int,
    steps: int,
    prompts: int,
    sampled: int,
    clips: int,
) -> dict[str, int]:
    """Multiply-accumulates of the UNet's calls: what influence took, and what drawing for FVD takes.

    Drawing for FVD is the original's and that of every unit's removal. Decoding frames, which it does besides, is not
    counted, nor the timestep's embedding in a call that leaves out what comes before a block.

    Args:
        macs: of one call on one clip: of each unit by its id, and `total`.
        after: of each block, from it on (`cost.macs.macs_after`).
        units: of the model.
        calls: at each step: 2 with guidance.
        steps: how many changes were measured at.
        prompts: how many.
        sampled: steps of the sampler.
        clips: of the rank split.

    Returns:
        `steps` of the sampler; `macs_step`, of a clip at one of them; `macs_walk`, of the whole model; and for each
        granularity `macs_<granularity>`, of its units' changes, and `drawn_<granularity>`.
    """
    spent = {
        "steps": sampled,
        "macs_step": calls * macs["total"],
        "macs_walk": calls * prompts * (sampled + steps) * macs["total"],
    }
    for granularity in GRANULARITIES:
        these = [unit for unit in units if unit.granularity == granularity]
        left_out = sum(macs["total"] - after[unit.block] for unit in these)
        whole = sum(macs["total"] - macs[unit.id] for unit in these)
        spent[f"macs_{granularity}"] = calls * prompts * steps * (whole - left_out)
        spent[f"drawn_{granularity}"] = calls * sampled * clips * (macs["total"] + whole)
    return spent


def spent_of(meta: Mapping[str, str]) -> dict[str, int]:
    """What `macs_spent` said, as the meta of both artefacts have it."""
    return {k: int(v) for k, v in meta.items() if k == "steps" or k.startswith(("macs_", "drawn_"))}


def by_prompt(influence: pd.DataFrame) -> pd.DataFrame:
    """Influence of each unit on each prompt: the weighted sum over steps. Rows are units, in the table's order."""
    values = np.stack(influence["by_prompt"].to_list()) * influence["weight"].to_numpy()[:, None]
    table: Any = pd.DataFrame(values, index=influence["unit"].to_numpy())
    return table.groupby(level=0, sort=False).sum()


def influence_of(influence: pd.DataFrame) -> dict[str, float]:
    """Unit -> influence: `sum_k w_k E|D_k|^2`, about the squared change of the final latent."""
    return {str(unit): float(value) for unit, value in by_prompt(influence).mean(axis=1).items()}


def influence_draws(influence: pd.DataFrame, resamples: int, seed: int) -> Float[np.ndarray, "sets units"]:
    """Influence of each unit over resampled prompts."""
    return resampled_means(by_prompt(influence).to_numpy(), resamples, seed).T


def interaction_of(interaction: pd.DataFrame, granularity: str = BLOCKS) -> Interaction:
    """The matrix of one granularity out of artefact `interaction`, units in the model's order."""
    rows: Any = interaction[interaction["granularity"] == granularity]
    units = [str(unit) for unit in dict.fromkeys(rows["other"])]
    place = {unit: i for i, unit in enumerate(units)}
    found = np.zeros((len(rows["by_prompt"].iloc[0]), len(units), len(units)))
    for one, other, weight, values in zip(rows["unit"], rows["other"], rows["weight"], rows["by_prompt"], strict=True):
        i, j = place[one], place[other]
        found[:, i, j] += weight * np.asarray(values)
        if i != j:
            found[:, j, i] = found[:, i, j]
    return Interaction(units, found)


def resampled_means(values: Float[np.ndarray, "rows prompts"], resamples: int, seed: int) -> np.ndarray:
    """Means of each row over prompts drawn with replacement, the same ones for all rows: [rows, resamples]."""
    prompts = values.shape[1]
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    return values @ counts.T / prompts
