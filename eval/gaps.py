"""The action gap: does every action dimension of a dream do what it does in the true world? Knows no network.

For one dimension, half a question to the world and half to the model. The world plays a script and the same script with
this one column taken from another scene; only pixels where these two truths differ count. The truth's gap is the error
of the second truth against the first. The model's gap is its error against the first truth with the wrong column minus
that with the right one. Their ratio is 1 for a perfect model and 0 for one that does not heed this dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from worldsim.envs.tracks import facts_of
from worldsim.eval.pixels import changed, derangement, pixel_errors
from worldsim.eval.statistics import Estimate, ratio
from worldsim.eval.trials import Dreamer, Script, dream, simulate, stack_actions, swap_column
from worldsim.spec import WorldSpec

GAP_FRAMES = 16
"""Frames that are compared: enough for a whole excursion, too few for chaos to separate the truths by itself."""
_EXCURSIONS = ("tilt", "curtain")  # they start at a stop, so they must go out before they can come back


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionGap:
    """The gap of one action dimension; None where no pixel of any scene depends on it."""

    dimension: str
    ratio: Estimate | None
    """Model's gap over the truth's gap: 1 is perfect, 0 is blind to this dimension."""
    error_right: Estimate | None
    """Model's mean error on the pixels that depend on the dimension, with the right actions."""
    error_swapped: Estimate | None
    """The same with the column of another scene."""
    truth_gap: Estimate | None
    """The world's own error on these pixels when the column is swapped."""
    pixels_share: float
    """Share of all pixels that depend on the dimension."""

    def to_json(self) -> dict[str, Any]:
        """Return the gap as a JSON-able dictionary."""
        data = {name: getattr(self, name) for name in ("ratio", "error_right", "error_swapped", "truth_gap")}
        numbers = {name: None if value is None else value.to_json() for name, value in data.items()}
        return {**numbers, "pixels_share": self.pixels_share}


def gap_column(name: str, rng: np.random.Generator, steps: int) -> Float32[np.ndarray, " t"]:
    """Draw rates in which a dimension matters: out, wait and back for tilt and curtain, strong pieces for the others."""
    rates: list[float] = []
    if name in _EXCURSIONS:
        rates += [0.0] * int(rng.integers(0, 5))
    while len(rates) < steps:
        rate, duration = rng.uniform(0.4, 1.0), int(rng.integers(3, 7))
        if name in _EXCURSIONS:
            rates += [rate] * duration + [0.0] * int(rng.integers(0, 6)) + [-rate] * duration
        else:
            rates += [rate if rng.random() < 0.5 else -rate] * duration
    return np.array(rates[:steps], dtype=np.float32)


def gap_scripts(
    env: gym.Env[Any, Any], spec: WorldSpec, dimension: int, seeds: Sequence[int], steps: int = GAP_FRAMES
) -> list[Script]:
    """Draw scenes in which ``dimension`` is at work alone (even seeds) or beside all others but tilt (odd seeds)."""
    scripts = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 2, dimension])
        with env.unwrapped.undrawn():  # type: ignore[attr-defined]
            _, info = env.reset(seed=seed)
        still = np.zeros((steps, spec.action_dim), dtype=np.float32)
        script = Script(seed=seed, actions=still, azimuth_deg=facts_of(info["state"], 0.0).azimuth_deg)
        for other, name in enumerate(spec.action_names):
            if other == dimension or (seed % 2 and name != "tilt"):
                script = swap_column(script, other, gap_column(name, rng, steps), spec.action_names)
        scripts.append(script)
    return scripts


def swapped(scripts: Sequence[Script], spec: WorldSpec, dimension: int, seed: int) -> list[Script]:
    """Give every script the ``dimension`` column of another one, drawn so that nobody keeps their own."""
    order = derangement(len(scripts), np.random.default_rng([seed, 3, dimension]))
    columns = [scripts[k].actions[:, dimension] for k in order]
    return [
        swap_column(script, dimension, column, spec.action_names)
        for script, column in zip(scripts, columns, strict=True)
    ]


def action_gap(
    dreamer: Dreamer, spec: WorldSpec, dimension: int, scripts: Sequence[Script], *, workers: int = 1, seed: int = 0
) -> ActionGap:
    """Measure the gap of one dimension over scripts from `gap_scripts`: two truths and two dreams per scene."""
    others = swapped(scripts, spec, dimension, seed)
    right, wrong = simulate(spec, scripts, workers=workers), simulate(spec, others, workers=workers)
    noise = [script.seed for script in scripts]
    return gap_between(
        spec.action_names[dimension],
        (right.frames, wrong.frames),
        dream(dreamer, right, stack_actions(scripts), seeds=noise),
        dream(dreamer, right, stack_actions(others), seeds=noise),
        changed(wrong.frames, right.frames),
    )


def gap_between(
    dimension: str,
    truths: tuple[UInt8[np.ndarray, "n t h w 3"], UInt8[np.ndarray, "n t h w 3"]],
    dream_right: UInt8[np.ndarray, "n t h w 3"],
    dream_wrong: UInt8[np.ndarray, "n t h w 3"],
    mask: Bool[np.ndarray, "n t h w"],
) -> ActionGap:
    """Return the gap between two truths, (right, wrong), that differ in what was done in one dimension, on the pixels of ``mask``.

    Both dreams begin as the right truth does; the second is told what was done in the wrong one.
    """
    right, wrong = truths
    with_right, with_wrong, between = (pixel_errors(film, right, mask) for film in (dream_right, dream_wrong, wrong))

    def total(errors: Float64[np.ndarray, "n t"]) -> Float64[np.ndarray, " n"]:
        return errors.sum(axis=1)

    count = total(with_right.count)
    return ActionGap(
        dimension=dimension,
        ratio=ratio(total(with_wrong.total - with_right.total), total(between.total)),
        error_right=ratio(total(with_right.total), count),
        error_swapped=ratio(total(with_wrong.total), count),
        truth_gap=ratio(total(between.total), count),
        pixels_share=float(mask.mean()),
    )
