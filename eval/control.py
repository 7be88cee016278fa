"""Control probes (P6): does each action dimension of a dream do what it does in the true world? Knows no model.

A scene is a pair of tales with the same start that differ in one action column; only pixels where the two truths
differ count, and both films are compared with both truths. A predictor that does not heed the column shows the same
film twice: its gap is nothing. The gap of the truth is one, and what both films do wrong alike (a tint, a haze) cancels.
(The pixel form of what Genie measures in dB, both ways round; `worldsim.eval.gaps` is one way for a quality report.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import scipy.ndimage
from jaxtyping import UInt8

from worldsim.envs.arena import arena_spec
from worldsim.envs.controls import ACTION_NAMES
from worldsim.envs.painter import Painter
from worldsim.eval import rows
from worldsim.eval.families import Family, Measure, Reader, Scene, Scores, each_tale, first_that
from worldsim.eval.gaps import gap_column, gap_scripts
from worldsim.eval.pixels import changed, pixel_errors
from worldsim.eval.statistics import quotient
from worldsim.eval.tales import play
from worldsim.eval.trials import swap_column

STEPS = 16
SMOOTHING = 5
"""Side in pixels of the squares over which films are averaged before they are compared."""
LEAST_PIXELS = 200
"""Fewest pixels, over all frames of a scene, that must depend on the action."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control(Family):
    """One action dimension."""

    code: str
    title: str
    dimension: int
    references: tuple[str, ...] = ("climatology",)  # drawn with the true cameras, it obeys
    claim: ClassVar[str] = "action control"
    error = Measure(
        name="control lost",
        columns=("gap", "true_gap"),
        statistic=lambda means: 1 - quotient(means),
        perfect=0.0,
        meaning="1 minus the action gap (error against the truth of the other column minus against the right one) over the truth's",
    )
    measures = (
        Measure(name="error, right action", columns=("right", "pixels"), statistic=quotient, perfect=0.0,
                meaning="squared error (black -1, white 1) of 5 x 5 means on the pixels that depend on the action"),
        Measure(name="error, other action", columns=("wrong", "pixels"), statistic=quotient,
                meaning="the same against the truth of the other column"),
    )  # fmt: skip

    def scene(self, env: gym.Env[Any, Any], split: str, index: int) -> Scene:
        """Return two tales that differ in the dimension's column; it alone is at work, or in every other scene all are."""
        spec, name = arena_spec(env), ACTION_NAMES[self.dimension]

        def attempt(rng: np.random.Generator, seed: int) -> Scene | None:
            right = gap_scripts(env, spec, self.dimension, [2 * seed + index % 2], STEPS)[0]
            wrong = swap_column(right, self.dimension, gap_column(name, rng, STEPS), ACTION_NAMES)
            pair = play(env, right), play(env, wrong)
            differ = changed(pair[0].frames, pair[1].frames)
            return pair if differ.sum() >= LEAST_PIXELS else None

        return first_that(self.code, split, index, attempt)

    def score(self, scenes: Sequence[Scene], frames: UInt8[np.ndarray, "n m t h w 3"], reader: Reader) -> Scores:
        """Score both films of a scene against both truths, where the truths differ."""
        del reader
        truths = [np.stack([scene[member].frames for scene in scenes]) for member in (0, 1)]
        mask = changed(*truths)
        first, second = (_smooth(film) for film in truths)
        one, other = (_smooth(frames[:, member]) for member in (0, 1))
        right = [pixel_errors(one, first, mask), pixel_errors(other, second, mask)]
        wrong = [pixel_errors(other, first, mask), pixel_errors(one, second, mask)]
        between = pixel_errors(second, first, mask)
        totals = {"right": right, "wrong": wrong}
        columns = {name: (pair[0].total + pair[1].total).sum(axis=1) for name, pair in totals.items()}
        columns |= {
            "gap": columns["wrong"] - columns["right"],
            "true_gap": 2 * between.total.sum(axis=1),
            "pixels": 2 * between.count.sum(axis=1),
        }
        cost = (right[0].total + right[1].total) / np.maximum(2 * between.count, 1)
        return Scores(columns=columns, frame_cost=cost)

    def describe(self, scene: Scene) -> str:
        """Name the dimension."""
        return f"{self.title}; A {_rates(scene, 0, self.dimension)}, B {_rates(scene, 1, self.dimension)}"

    def trivial(self, scenes: Sequence[Scene], painter: Painter) -> Mapping[str, UInt8[np.ndarray, "n m t h w 3"]]:
        """Return what copies the last frame."""
        del painter
        return each_tale(scenes, lambda tales: {"copy last": rows.copy_last(tales)})


def _smooth(film: np.ndarray) -> np.ndarray:
    """Return local means, so that a dream that is only a little blurred is not taken for one that does not obey."""
    return scipy.ndimage.uniform_filter(film, size=SMOOTHING, axes=(2, 3), mode="nearest")


def _rates(scene: Scene, member: int, dimension: int) -> str:
    return " ".join(f"{rate:+.1f}" for rate in scene[member].script.actions[:12:3, dimension])


CONTROL: tuple[Control, ...] = tuple(
    Control(code=f"P6-{name.replace('push_', '')}", title=f"{name} is one thing or another", dimension=index)
    for index, name in enumerate(ACTION_NAMES)
)
