"""Which blocks each round deletes: the first of an order, the best nested sets, or the set that the round names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leanmotion.influence.tables import Interaction
from leanmotion.pipeline.settings import Settings
from leanmotion.probing.best_sets import Link, members_of, nested, number_of


def deletions(settings: Settings, order: Sequence[str], interaction: Interaction) -> dict[str, dict[str, Any]]:
    """Round -> the content of its list: all blocks gone after it, in the model's order. `named`: by the settings.

    Args:
        settings: all settings; `ranking.search` says how, but for rounds that name their blocks.
        order: block ids, least important first.
        interaction: of the blocks, read where `ranking.search` is `sets`.
    """
    gone = _by_sets(settings, interaction) if settings.ranking.search == "sets" else _by_order(settings, order)
    return {
        name: {"removed": [b for b in settings.teacher.blocks if b in gone[name]]}
        | ({"named": True} if this.blocks else {})
        for name, this in settings.rounds.items()
    }


def _by_order(settings: Settings, order: Sequence[str]) -> dict[str, set[str]]:
    """A round goes on with the least important of what is left.

    Where no set is named before it these are the first `count` of the order, so that its list does not change when the
    order changes further down, nor when it changes within the round.
    """
    found: dict[str, set[str]] = {"base": set()}

    def gone(name: str) -> set[str]:
        if name not in found:
            this = settings.rounds[name]
            before = gone(this.from_)
            left = [block for block in order if block not in before]
            found[name] = set(this.blocks) if this.blocks else before | set(left[: this.size - len(before)])
        return found[name]

    return {name: gone(name) for name in settings.rounds}


def _by_sets(settings: Settings, interaction: Interaction) -> dict[str, set[str]]:
    place = interaction.units.index
    chain = {
        name: Link(
            this.size,
            "" if this.from_ == "base" else this.from_,
            number_of([place(block) for block in this.blocks]) if this.blocks else None,
        )
        for name, this in settings.rounds.items()
    }
    chosen = nested(interaction.mean, chain)
    return {name: {interaction.units[i] for i in members_of(number)} for name, number in chosen.items()}
