"""Steps where the harm is: what a total allows."""

from hypothesis import given
from hypothesis import strategies as st

from leanmotion.distillation.budget import steps_for
from leanmotion.pipeline.training_settings import Budget

BUDGETS = st.builds(
    Budget,
    total=st.integers(1, 10_000),
    unharmed=st.floats(0, 0.5),
    broken=st.floats(0.5, 2, exclude_min=True),
)
DISTANCES = st.floats(0, 5)


@given(BUDGETS, st.lists(DISTANCES, max_size=8))
def test_rounds_one_after_the_other_never_spend_more_than_the_total(budget: Budget, distances: list[float]) -> None:
    spent = 0
    for distance in distances:
        steps = steps_for(budget, spent, distance)
        assert steps >= 0 and (steps == 0 if distance < budget.unharmed else True)
        spent += steps
    assert spent <= budget.total


@given(BUDGETS, st.integers(0, 20_000), DISTANCES, DISTANCES)
def test_more_harm_never_has_fewer_steps(budget: Budget, spent: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert steps_for(budget, spent, low) <= steps_for(budget, spent, high) <= max(0, budget.total - spent)


def test_in_proportion() -> None:
    budget = Budget(total=200, unharmed=0.02, broken=0.4)
    found = [steps_for(budget, 0, distance) for distance in (0.0, 0.019, 0.02, 0.1, 0.2, 0.4, 3.0)]
    assert found == [0, 0, 10, 50, 100, 200, 200]
    assert [steps_for(budget, spent, 0.2) for spent in (0, 120, 200, 500)] == [100, 80, 0, 0]
