"""Estimates and their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from worldsim.eval.statistics import Estimate, estimate, margin, ratio


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Over many data sets the 95 % interval of a mean holds the true mean in 90 to 99 % of them."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        sample = rng.normal(3.0, 1.0, size=(40, 1))
        found = estimate(sample, lambda means: means[..., 0], resamples=400, seed=trial)
        hits += found.low <= 3.0 <= found.high
    assert 180 <= hits <= 198


def test_pairing_removes_what_scenes_share() -> None:
    """A constant advantage in every scene has an interval of no width, however different the scenes are."""
    scenes = np.random.default_rng(1).uniform(0, 100, size=30)
    columns = np.stack([scenes, scenes + 2.0, scenes + 5.0, np.ones(30)], axis=1)
    found = estimate(columns, margin(0, (1, 2), 3))
    assert found.value == pytest.approx(2.0)
    assert found.high - found.low < 1e-9


def test_the_same_seed_gives_the_same_interval() -> None:
    """Two calls agree to the bit, another seed does not."""
    sample = np.random.default_rng(2).normal(size=(20, 1))
    one, two, other = (estimate(sample, lambda means: means[..., 0], seed=seed) for seed in (5, 5, 6))
    assert one == two
    assert one != other


def test_a_ratio_is_of_sums_and_undefined_without_denominator() -> None:
    """A scene without cases weighs nothing; without any case at all there is no number."""
    found = ratio(np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 4.0]))
    assert found is not None
    assert found.value == pytest.approx(4 / 6)
    assert ratio(np.zeros(3), np.zeros(3)) is None


def test_undefined_resamples_widen_the_interval() -> None:
    """When some draws of scenes hold no case, the interval has no end there, and JSON says so with null."""
    found = ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))  # a quarter of the draws misses the only case
    assert found is not None
    assert found.low == -np.inf
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == {"value": 0.5, "low": None, "high": None, "n": 2}


def test_nothing_is_dropped() -> None:
    """NaN in a column is refused instead of being skipped."""
    with pytest.raises(ValueError, match="finite"):
        estimate(np.array([[1.0], [np.nan]]), lambda means: means[..., 0])


def test_an_estimate_prints_with_its_interval() -> None:
    """People see value and both ends."""
    assert str(Estimate(value=0.5, low=0.25, high=0.75, n=4)) == "0.500 [0.250, 0.750]"
