"""Composition scenes (P4): looks and motions that recordings never show together, beside ones that they do. No model.

A body slides over the free floor, and another one rests. Every scene is played twice, alike but for the colour of the
body that slides: once in a colour that recordings show with its shape and its motion, once in one that they keep from
them (`worldsim.envs.factors.HELD_OUT_PAIRS`), though they show it with others. What a predictor does worse the second time it
has not put together. The case-based answer stands beside it: what happens to the combination that was seen.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from jaxtyping import Float64, UInt8

from worldsim.envs.controls import ACTION_NAMES
from worldsim.envs.factors import FACTORS, HELD_OUT_PAIRS, motion_of
from worldsim.envs.painter import Painter
from worldsim.envs.scene import COLOURS, SHAPES
from worldsim.envs.state import body_slots
from worldsim.eval.causes import touches
from worldsim.eval.families import Family, Measure, Reader, Scene, Scores, first_that, in_both, in_view_rows
from worldsim.eval.permanence_scores import ERROR, nearest
from worldsim.eval.places import Places
from worldsim.eval.statistics import quotient
from worldsim.eval.tales import Tale, drawn, rehearse, truth_of
from worldsim.eval.tracking import VISIBLE, TruePlaces, tracking_error
from worldsim.eval.trials import Script

STEPS = 24
FIRST_TURN, LAST_TURN = 3, 18
"""The sliding body meets a wall between these frames: going straight on is not enough, and what comes of it is seen."""
IN_SIGHT = 0.95
"""Least share of the sliding body that is in view when the predictor is asked."""
SAME_M = 1e-3
"""Largest difference (m) between the places of the two bodies of a pair: their colours alone differ."""
_MOTIONS = ("slow", "fast")


@dataclasses.dataclass(frozen=True)
class Looks:
    """A body that moves: the three values that are held out in pairs."""

    colour: str
    shape: str
    motion: str

    @property
    def unseen(self) -> frozenset[tuple[str, str]]:
        """Kinds of pairs of values, (colour, shape) for one, that recordings never show as this body has them."""
        return frozenset(
            kind for kind, pairs in HELD_OUT_PAIRS.items() if (getattr(self, kind[0]), getattr(self, kind[1])) in pairs
        )


def pairs_of(kind: tuple[str, str]) -> tuple[tuple[Looks, Looks], ...]:
    """Return all (seen, unseen) that differ in colour alone, where the second holds an unseen pair of just this kind."""
    found = []
    for shape, motion in itertools.product(SHAPES, _MOTIONS):
        bodies = [Looks(colour, shape, motion) for colour in COLOURS]
        seen = [body for body in bodies if not body.unseen]
        found += [(one, other) for other in bodies if other.unseen == {kind} for one in seen]
    return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition(Family):
    """One kind of pairs of values that recordings keep apart."""

    code: str
    title: str
    kind: tuple[str, str]
    claim: ClassVar[str] = "composition"
    error = ERROR
    measures = (
        Measure(name="seen", columns=("cost_seen", "scored_seen"), statistic=lambda means: 100 * quotient(means), unit="cm",
                meaning="tracking error in combinations that recordings show"),
        Measure(name="never seen", columns=("cost_unseen", "scored_unseen"), statistic=lambda means: 100 * quotient(means), unit="cm",
                meaning="tracking error in combinations that they never show"),
        Measure(name="gap", columns=("cost_unseen", "scored_unseen", "cost_seen", "scored_seen"), unit="cm", perfect=0.0,
                statistic=lambda means: 100 * (quotient(means[..., :2]) - quotient(means[..., 2:])),
                meaning="how much worse it is where the combination was never seen"),
        Measure(name="takes another's colour", columns=("mistaken", "watched"), statistic=quotient, perfect=0.0,
                meaning="share of the frames of a combination never seen in which the nearest colour within 10 cm is another one"),
    )  # fmt: skip

    def scene(self, env: gym.Env[Any, Any], split: str, index: int) -> Scene:
        """Return pair ``index`` of a split, (seen, never seen), whose bodies move alike and meet nothing but walls."""
        pairs = pairs_of(self.kind)

        def attempt(rng: np.random.Generator, seed: int) -> Scene | None:
            pair = pairs[int(rng.integers(len(pairs)))]
            span = next(span for span in FACTORS["speed"].train if motion_of(span.low) == pair[0].motion)
            speed = float(rng.uniform(span.low, span.high))
            resting = str(rng.choice([colour for colour in COLOURS if colour not in (pair[0].colour, pair[1].colour)]))
            tales = tuple(rehearse(env, _script(seed, looks, speed, resting)) for looks in pair)
            return tuple(drawn(env, tale) for tale in tales) if _alike(tales) else None

        return first_that(self.code, split, index, attempt)

    def score(self, scenes: Sequence[Scene], frames: UInt8[np.ndarray, "n m t h w 3"], reader: Reader) -> Scores:
        """Score a row: the tracking error of all bodies, of both members and of each, and whose colour it takes."""
        tales = [tale for scene in scenes for tale in scene]
        read = reader(frames.reshape(-1, *frames.shape[2:]), np.stack([tale.states for tale in tales]))
        truth = truth_of(tales)
        error = tracking_error(read, truth)
        by_tale = error.by_scene().reshape(len(scenes), 2, 2)
        mistaken = np.array([_mistaken(read, truth, row, slot_of(tale)) for row, tale in enumerate(tales)])[1::2]
        columns = {
            "cost": by_tale[:, :, 0].sum(axis=1), "scored": by_tale[:, :, 1].sum(axis=1),
            "cost_seen": by_tale[:, 0, 0], "scored_seen": by_tale[:, 0, 1],
            "cost_unseen": by_tale[:, 1, 0], "scored_unseen": by_tale[:, 1, 1],
            "mistaken": mistaken[:, 0], "watched": mistaken[:, 1],
        }  # fmt: skip
        curve = error.frame_cost_cm.reshape(len(scenes), 2, -1).mean(axis=1)
        return Scores(columns=columns, frame_cost=curve, floor=error.floor_cm)

    def describe(self, scene: Scene) -> str:
        """Name the two bodies."""
        seen, unseen = (_named(tale) for tale in scene)
        return f"{self.title}: {unseen}, beside {seen}"

    def trivial(self, scenes: Sequence[Scene], painter: Painter) -> Mapping[str, UInt8[np.ndarray, "n m t h w 3"]]:
        """Return the rows that copy, go straight on, or show the combination that was seen in both."""
        return in_view_rows(scenes, painter) | {"nearest combination": in_both(scenes, 0)}


def _script(seed: int, looks: Looks, speed: float, resting: str) -> Script:
    """Return a body that slides and one that rests; the Arena draws the rest, alike for one seed."""
    slides = {"colour": looks.colour, "shape": looks.shape, "speed": speed}
    rests = {"colour": resting, "speed": 0.0}
    options = {"posts": 0, "damping": 0.0, "friction": 0.0, "bodies": [slides, rests]}
    actions = np.zeros((STEPS, len(ACTION_NAMES)), np.float32)
    return Script(seed=seed, options=options, actions=actions, label=looks.colour)


def slot_of(tale: Tale) -> int:
    """Return the palette slot of the body that slides."""
    return COLOURS.index(tale.script.label)


def _named(tale: Tale) -> str:
    """Return what slides, in words."""
    body = tale.script.options["bodies"][0]
    return f"a {motion_of(body['speed'])} {body['colour']} {body['shape']}"


def _alike(tales: Sequence[Tale]) -> bool:
    """Return whether both bodies make the same way in sight, meet a wall on it, and nothing else."""
    ways = []
    for tale in tales:
        seen, x, y = (body_slots(tale.states, name)[:, slot_of(tale)] for name in ("visible", "x", "y"))
        start = float(body_slots(tale.context_states[-1], "visible")[slot_of(tale)])
        met: set[str] = set().union(*touches(tale, COLOURS[slot_of(tale)]))
        if seen.min() < VISIBLE or start < IN_SIGHT or any(not name.startswith("wall") for name in met):
            return False
        ways.append(np.stack([x, y], axis=-1).astype(np.float64))
    return bool(np.linalg.norm(ways[0] - ways[1], axis=-1).max() < SAME_M) and _turns(ways[0])


def _turns(way: Float64[np.ndarray, "t 2"]) -> bool:
    """Return whether a body that slides freely meets a wall in time."""
    steps = np.diff(way, axis=0)
    turned = np.flatnonzero(np.linalg.norm(steps - steps[0], axis=-1) > 0.2 * np.linalg.norm(steps[0]))
    return bool(len(turned)) and FIRST_TURN <= int(turned[0]) <= LAST_TURN


def _mistaken(read: Places, truth: TruePlaces, row: int, slot: int) -> Float64[np.ndarray, " 2"]:
    """Return in how many frames of a tale the colour nearest to a body in view is another one, and how many there are."""
    watched = np.flatnonzero(truth.visibility[row, :, slot] >= VISIBLE)
    named = [nearest(read, truth.xy[row, frame, slot], row, int(frame)) for frame in watched]
    return np.array([sum(name not in (None, slot) for name in named), len(watched)], dtype=np.float64)


COMPOSITION: tuple[Composition, ...] = (
    Composition(code="P4-C1", title="a colour never seen on this shape", kind=("colour", "shape")),
    Composition(code="P4-C2", title="a colour never seen to move so", kind=("colour", "motion")),
)
