"""What a family of probe scenes is: how its scenes are made, what is read off a predictor's frames, what is reported.

A probe asks every predictor the same questions about scenes of one family, and scores the frames it answers with. The
machinery (`worldsim.eval.probe`) knows families only by this page; the families themselves are in `worldsim.eval.permanence`
and its neighbours, and by code in `worldsim.eval.registry`. Knows no model.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from jaxtyping import Float64, UInt8

from worldsim.envs.painter import Painter
from worldsim.eval import rows
from worldsim.eval.places import Places
from worldsim.eval.statistics import Statistic
from worldsim.eval.tales import Tale

PROTOCOL = "worldsim-probe-v1"
SPLITS = ("dev", "test")
ATTEMPTS = 400
"""Draws of a scene until one shows what its family is named for; more would mean that the family is ill made."""

Scene = tuple[Tale, ...]
"""Tales of equal length that are asked about together: one, or a pair that differs in one cause."""
Reader = Callable[[np.ndarray, np.ndarray], Places]
"""A read-out: takes frames (..., h, w, 3) and true states (..., s), and returns the places read off the frames."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a report: a function of the means over scenes of some columns of `Scores`."""

    name: str
    columns: tuple[str, ...]
    statistic: Statistic
    """Takes the means (..., columns) of the columns named, and returns the number (...)."""
    unit: str = ""
    perfect: float | None = None
    """What the truth would score, for readers; None where that depends on the scenes."""
    meaning: str = ""
    gated: bool = False
    """Whether it is only reported for predictors that pass the family's gate (`Family.gate`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """What one row scores: per-scene columns by name, and the cost of every frame for curves and strips."""

    columns: Mapping[str, Float64[np.ndarray, " n"]]
    """Finite numbers, one a scene; what could not be measured is counted, never left out."""
    frame_cost: Float64[np.ndarray, "n t"]
    """Mean cost of each frame, for pictures: in the unit of the family's error, or squared error where that has none."""
    floor: float | None = None
    """The read-out's own median error, in the unit of the family's error; None where nothing is read out."""

    def first(self, count: int) -> Scores:
        """Return the scores of the first scenes only."""
        columns = {name: column[:count] for name, column in self.columns.items()}
        return Scores(columns=columns, frame_cost=self.frame_cost[:count], floor=self.floor)


class Family(abc.ABC):
    """One kind of scene, with its scores."""

    code: str
    title: str
    """What happens, as the end of "a scene in which ..."."""
    claim: ClassVar[str]
    """What all families of its kind measure: "object permanence", "3D consistency", "cause and effect", ..."""
    error: ClassVar[Measure]
    """The error that skill is reckoned from: lower is better."""
    measures: ClassVar[tuple[Measure, ...]]
    """What else is reported."""
    references: tuple[str, ...] = ()
    """Trivial rows that are right by construction here, and so no baseline."""
    headline: str | None = None
    """Measure that says what a family is for which has no skill by design: the truth and trivial rows agree there."""
    gate: ClassVar[tuple[str, float, float] | None] = None
    """Measure (by name) and its bounds within which the gated measures mean anything."""
    most_scenes: int | None = None
    """Cap on the number of scenes, where they are long."""
    samples: int = 1
    """Futures that a model is asked for in every scene beyond the smoke tier; scores are their mean."""

    @abc.abstractmethod
    def scene(self, env: gym.Env[Any, Any], split: str, index: int) -> Scene:
        """Return scene ``index`` of a split as it happened, audited (see `first_that`)."""

    @abc.abstractmethod
    def score(self, scenes: Sequence[Scene], frames: UInt8[np.ndarray, "n m t h w 3"], reader: Reader) -> Scores:
        """Score a row: its frames of the m tales of n scenes."""

    def apart(
        self, scenes: Sequence[Scene], one: np.ndarray, other: np.ndarray, reader: Reader
    ) -> Float64[np.ndarray, " n"] | None:
        """Return how far two futures (n m t h w 3) of a predictor are from each other, summed like the error; None if untold."""
        del scenes, one, other, reader
        return None

    @abc.abstractmethod
    def describe(self, scene: Scene) -> str:
        """Return what is to be seen in a scene, for the title of its film strip."""

    def hidden(self, scene: Scene) -> tuple[int, int]:
        """Return the frames (first, end; 0 is the first after the context) that strips shade; equal where none."""
        del scene
        return (0, 0)

    def trivial(self, scenes: Sequence[Scene], painter: Painter) -> Mapping[str, UInt8[np.ndarray, "n m t h w 3"]]:
        """Return the frames of the trivial predictors of this family, by name; copying is always one of them."""
        return each_tale(scenes, lambda tales: rows.trivial_rows(tales, painter))


def films(scenes: Sequence[Scene]) -> UInt8[np.ndarray, "n m t h w 3"]:
    """Return what happened in scenes: the oracle's frames."""
    return np.stack([[tale.frames for tale in scene] for scene in scenes])


def in_both(scenes: Sequence[Scene], member: int) -> UInt8[np.ndarray, "n 2 t h w 3"]:
    """Return what happened in one member of pairs, shown for both."""
    return np.stack([np.stack([scene[member].frames] * 2) for scene in scenes])


def in_view_rows(scenes: Sequence[Scene], painter: Painter) -> dict[str, UInt8[np.ndarray, "n m t h w 3"]]:
    """Return the trivial rows of scenes in which nothing is hidden: copying, and going on as the bodies move."""
    return each_tale(
        scenes,
        lambda tales: {"copy last": rows.copy_last(tales), "constant velocity": rows.constant_velocity(tales, painter)},
    )


def each_tale(
    scenes: Sequence[Scene], make: Callable[[Sequence[Tale]], Mapping[str, np.ndarray]]
) -> dict[str, UInt8[np.ndarray, "n m t h w 3"]]:
    """Call ``make`` on all tales of all scenes, and return its rows by scene and tale."""
    made = make([tale for scene in scenes for tale in scene])
    return {name: row.reshape(len(scenes), -1, *row.shape[1:]) for name, row in made.items()}


def scene_seed(family: str, split: str, index: int, attempt: int) -> int:
    """Return the seed of a scene by the registered rule; ``attempt`` counts those whose event did not happen."""
    digest = hashlib.sha256(f"{PROTOCOL}|{family}|{split}|{index}|{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") | 1 << 33  # far from every other seed


def first_that(code: str, split: str, index: int, attempt: Callable[[np.random.Generator, int], Scene | None]) -> Scene:
    """Return the first scene that ``attempt`` (generator, seed) makes and finds fit; it returns None for others.

    Raises RuntimeError if `ATTEMPTS` seeds give none: then the family's rule is at fault, not the seed.
    """
    for number in range(ATTEMPTS):
        seed = scene_seed(code, split, index, number)
        scene = attempt(np.random.default_rng(seed), seed)
        if scene is not None:
            return scene
    raise RuntimeError(f"{code}, scene {index} of {split}: no event in {ATTEMPTS} attempts")
