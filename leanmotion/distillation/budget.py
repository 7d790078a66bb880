"""How many steps a round trains: by the harm that its deletion has done, inside a total for the whole way."""

from leanmotion.pipeline.training_settings import Budget


def steps_for(budget: Budget, spent: int, distance: float) -> int:
    """Steps of a round that is so far from the teacher before training.

    total * distance / broken, rounded, of which what rounds before have spent is not there any more; none where the
    distance is below `unharmed`.

    Args:
        budget: of the settings.
        spent: steps of all rounds before.
        distance: squared difference of drawn latents to the teacher's, relative (`drawn_distance`).
    """
    if distance < budget.unharmed:
        return 0
    share = min(1.0, distance / budget.broken)
    return max(0, min(round(budget.total * share), budget.total - spent))
