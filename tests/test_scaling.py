"""How error falls with compute: laws through a ladder of trainings, and what is said of two kinds of networks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from worldsim.errors import UsageError
from worldsim.eval import comparison_ladder
from worldsim.eval.comparison_figures import scaling_figure
from worldsim.eval.comparison_ladder import scaling
from worldsim.eval.comparison_plan import PLANS, ladder_of
from worldsim.eval.comparison_scores import between
from worldsim.eval.scaling import Law, fit, front, resampled

PLAN = dataclasses.replace(PLANS["quick"], seeds=3, steps=800, rungs=("pico", "micro"), ladder=(100, 200, 400, 800))
MFLOP = {"pico": 60.0, "micro": 160.0, "nano": 440.0, "pico-unet": 80.0, "micro-unet": 200.0, "nano-unet": 600.0}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw other errors often enough for these tests; a report draws them ten thousand times."""
    monkeypatch.setattr(comparison_ladder, "RESAMPLES", 500)


def records(laws: dict[str, Law], waste: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return trainings whose errors follow a law of each kind; those of the middle size cost ``waste`` times the error."""
    said = {}
    for end, trials in ladder_of(PLAN).items():
        tops = [dataclasses.replace(trials[-1], name=f"nano{end}-seed{seed}", steps=PLAN.steps) for seed in range(3)]
        for trial in (*trials, *tops):
            error = float(laws[end](trial.steps * 48 * MFLOP[trial.preset] / 1e6)) * (
                waste if "micro" in trial.preset else 1
            )
            error *= 1 + 0.01 * (int(trial.name[-1]) - 1) if "seed" in trial.name else 1
            said[trial.name] = {"validation": {"error_1": 0.5 * error, "error_8": 1.5 * error, "copy_last_1": 9.0}}
    return said


def test_a_law_is_found_again():
    """Noise-free points give back their law; with nothing to fall there is only c."""
    law, compute = Law(a=0.5, b=0.3, c=0.05), np.geomspace(0.5, 500, 8)
    found = fit(compute, law(compute))
    assert (found.a, found.b, found.c) == pytest.approx((0.5, 0.3, 0.05), rel=1e-2)
    assert float(found(5000.0)) == pytest.approx(float(law(5000.0)), rel=1e-3)
    flat = fit(compute, np.full(8, 0.2))
    assert flat(np.array([1.0, 1e6])) == pytest.approx([0.2, 0.2])


def test_the_front_is_what_nothing_cheaper_beats():
    """Of equal compute the better one, and nobody who is worse than somebody cheaper."""
    compute, error = np.array([4.0, 1.0, 2.0, 2.0, 8.0]), np.array([0.2, 0.5, 0.6, 0.3, 0.25])
    assert front(compute, error) == [1, 3, 0]


def test_other_seeds_widen_the_interval():
    """Laws through resampled points lie around the law, the wider the more trainings differ."""
    law, compute = Law(a=0.5, b=0.3, c=0.05), np.geomspace(0.5, 500, 8)
    widths = []
    for spread in (0.005, 0.03):
        laws = resampled(compute, law(compute), spread, 100, np.random.default_rng(0))
        low, high, _ = between(np.array([other.b for other in laws]))
        assert low < 0.3 < high
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


def test_the_ladder_leaves_out_what_is_trained_anyway():
    """Every size and length of both kinds once, but the largest, which must be foretold."""
    ladder = ladder_of(PLAN)
    assert list(ladder) == ["", "-unet"] and all(len(trials) == 3 * 4 - 1 for trials in ladder.values())
    assert {(one.preset, one.steps) for one in ladder["-unet"]} >= {("pico-unet", 800), ("nano-unet", 400)}
    assert all(one.name not in ("nano-steps800", "nano-unet-steps800") for trials in ladder.values() for one in trials)
    assert ladder_of(PLANS["quick"]) == {"": [], "-unet": []}
    for wrong in ({"ladder": ()}, {"ladder": (0, 5)}, {"rungs": ()}):
        with pytest.raises(UsageError, match="ladder"):
            dataclasses.replace(PLAN, **wrong)


def test_who_falls_faster_is_said():
    """A larger exponent is supported, and reversed the other way round; the law foretells the largest training; a picture is drawn."""
    steep, shallow = Law(a=0.5, b=0.5, c=0.02), Law(a=0.4, b=0.2, c=0.02)
    said = scaling(PLAN, ladder_of(PLAN), records({"": steep, "-unet": shallow}), MFLOP)
    assert (
        said is not None
        and said["outcome"] == "supported"
        and said["difference"]["value"] == pytest.approx(0.3, abs=0.02)
    )
    assert said["spread"] == pytest.approx(0.01, rel=0.01)
    for kind in said["kinds"].values():
        following = kind["next"]
        assert following["measured"] == pytest.approx(following["foretold"], rel=0.02)
        assert following["low"] < following["foretold"] < following["high"]
        assert following["tflop"] > max(point["tflop"] for point in kind["points"])
    other = scaling(PLAN, ladder_of(PLAN), records({"": shallow, "-unet": steep}), MFLOP)
    assert other is not None and other["outcome"] == "reversed"
    assert scaling_figure(said).startswith(b"\x89PNG")


def test_a_size_that_wastes_compute_is_not_on_the_front():
    """Points above the law do not bend it; without enough on the front nothing is said."""
    law = Law(a=0.5, b=0.5, c=0.02)
    said = scaling(PLAN, ladder_of(PLAN), records({"": law, "-unet": law}, waste=1.5), MFLOP)
    assert said is not None and said["kinds"]["dit"]["law"]["b"] == pytest.approx(0.5, abs=0.02)
    on_front = {point["preset"] for point in said["kinds"]["dit"]["points"] if point["on_front"]}
    assert "micro" not in on_front
    nothing = Law(a=0.0, b=1.0, c=0.1)
    assert scaling(PLAN, ladder_of(PLAN), records({"": nothing, "-unet": nothing}), MFLOP) is None
