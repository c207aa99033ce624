"""The learning rate over a run."""

import pytest

from kdbias.errors import KdbiasError
from kdbias.training.step import DECAYS, rate_factor


def rates(schedule: str, steps: int = 100, warmup: int = 0, milestones: tuple = (0.5, 0.9)) -> list[float]:
    options = {"schedule": schedule, "warmup_steps": warmup, "milestones": milestones}
    return [rate_factor(s, steps, **options) for s in range(steps)]


def test_decays_go_where_their_names_say() -> None:
    assert rates("cosine")[0] == 1.0
    assert rates("cosine")[50] == pytest.approx(0.5)
    assert rates("linear")[75] == pytest.approx(0.25)
    assert rates("step")[49:51] == [1.0, pytest.approx(0.1)]
    assert rates("step")[99] == pytest.approx(0.01)
    assert set(rates("constant")) == {1.0}


@pytest.mark.parametrize("schedule", DECAYS)
@pytest.mark.parametrize("warmup", [0, 1, 10, 100])
def test_the_rate_stays_within_zero_and_one_and_warms_up_evenly(schedule: str, warmup: int) -> None:
    found = rates(schedule, warmup=warmup)
    assert all(0 < r <= 1 for r in found)
    assert found[:warmup] == pytest.approx([(s + 1) / (warmup + 1) for s in range(warmup)])


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(KdbiasError, match="cosine, linear"):
        rates("exponential")
