"""Cause-and-effect scenes (P3): pairs of tales that differ in one cause, and in whatever follows from it. No model.

Something, the *agent*, comes at a body at rest, the *target*: the pusher, driven by actions, or a coloured body that
slides. The members of a pair begin as one and the same scene but for one thing: a push, a body, a barrier, a colour,
the light. The first has the cause, the second is the reference. In half of the pairs the cause has no effect on the
target (the agent passes by, or the barrier stands beside its way), and everywhere that is audited in the true states:
the target is hit, or it is not; nothing but the agents touches it; it is in view until the effect has been scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from worldsim.envs.painter import Painter
from worldsim.envs.scene import COLOURS, ENTITY_NAMES
from worldsim.envs.state import body_slots, element
from worldsim.eval import cause_draws as draws
from worldsim.eval.cause_scores import ERROR, MEASURES, MOVED_M, WINDOW, Effect, parties, score, true_places
from worldsim.eval.families import Family, Reader, Scene, Scores, first_that, in_both, in_view_rows
from worldsim.eval.tales import Tale, drawn, rehearse

DRAWS = 20
"""Draws of a seed until one fits on the floor."""
SAME_M = 1e-4
"""Largest difference (m) of what is the same in both members."""
STILL_M, GONE_M = 0.5 * MOVED_M, 1.2 * MOVED_M
"""Most a target that is not hit may move (m), and least one that is hit: what lies between is hard to call."""
LEAST_VISIBLE = 0.85
"""Least share of the target that is in view until its effect is scored: half a body seems to be somewhere else."""
FIRST_START = 2
"""The cause reaches the target in this frame or later, so that there is something before it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause(Family):
    """One kind of intervention."""

    code: str
    title: str
    draw: Callable[[draws.Stage], draws.Pair | None]
    """Draws the two scripts of a pair, or None where they do not fit on the floor."""
    irrelevant: bool = False
    """Whether the cause has no effect in any pair; else it has one in every other."""
    least: float = MOVED_M
    """How far apart (m) an effect must bring the targets of the two members within the window."""
    graded: bool = False
    """Whether the strength of the cause is part of the question."""
    headline: str | None = None
    claim: ClassVar[str] = "cause and effect"
    error = ERROR
    measures = MEASURES

    def scene(self, env: gym.Env[Any, Any], split: str, index: int) -> Scene:
        """Return pair ``index`` of a split (the cause, the reference); those of even index have an effect."""
        effective = index % 2 == 0 and not self.irrelevant

        def attempt(rng: np.random.Generator, seed: int) -> Scene | None:
            pairs = (self.draw(draws.Stage.draw(rng, seed, index, effective)) for _ in range(DRAWS))
            pair = next((pair for pair in pairs if pair is not None), None)
            if pair is None:
                return None
            cause = rehearse(env, pair[0])
            if not _is_plain(cause, *parties((cause,)), FIRST_START + WINDOW):  # spares playing the reference
                return None
            scene = cause, rehearse(env, pair[1])
            effect = self.effect(scene)
            fits = effect is not None and effect.effective == effective
            return (drawn(env, cause), drawn(env, scene[1])) if fits else None

        return first_that(self.code, split, index, attempt)

    def effect(self, scene: Scene) -> Effect | None:
        """Return what the cause does to the target; None where the pair does not show that clearly."""
        target, agents = parties(scene)
        true = true_places(scene, target)
        size = np.linalg.norm(true.effect, axis=-1)
        start = _start(scene, size)
        end = start + WINDOW
        if not FIRST_START <= start <= len(size) - 1 - WINDOW or not _begin_alike(*scene):
            return None
        effective = float(size[: end + 1].max()) > SAME_M
        if effective and float(size[start : end + 1].max()) < self.least:
            return None
        way = np.linalg.norm(true.xy[:, end] - true.xy[:, start - 1], axis=-1)
        if ((way > STILL_M) & (way < GONE_M)).any():
            return None
        if self.irrelevant and _strength(scene[0]) > 0 and not any(touches(scene[0], "pusher")[: end + 1]):
            return None
        if not all(_is_plain(tale, target, agents, end) for tale in scene):
            return None
        heading, dose = _heading(scene[0], agents[0]), _strength(scene[0]) if self.graded else 0.0
        return Effect(slot=COLOURS.index(target), start=start, effective=effective, heading=heading, dose=dose)

    def score(self, scenes: Sequence[Scene], frames: UInt8[np.ndarray, "n m t h w 3"], reader: Reader) -> Scores:
        """Score a row: the error of the effect on the target, and what else is known of it."""
        return score(scenes, [self._effect(scene) for scene in scenes], frames, reader)

    def describe(self, scene: Scene) -> str:
        """Name the target, the agents and the frame of the cause."""
        effect, label = self._effect(scene), scene[0].script.label
        outcome = f"from frame {effect.start + 1}" if effect.effective else "which changes nothing"
        return f"{self.title}; {label}, {outcome}"

    def trivial(self, scenes: Sequence[Scene], painter: Painter) -> Mapping[str, UInt8[np.ndarray, "n m t h w 3"]]:
        """Return the rows that copy, go straight on, or know what happens in the reference and nothing of the cause."""
        return in_view_rows(scenes, painter) | {"no effect": in_both(scenes, 1)}

    def _effect(self, scene: Scene) -> Effect:
        effect = self.effect(scene)
        assert effect is not None  # every scene has been audited
        return effect


def _start(scene: Scene, size: Float64[np.ndarray, " t"]) -> int:
    """Return the frame of the cause: where the targets first differ, or are touched in both, or are come nearest to."""
    if size.max() > SAME_M:
        return int((size > SAME_M).argmax())
    target, agents = parties(scene)
    touched = np.flatnonzero([bool(others) for others in touches(scene[0], target)])
    if len(touched):
        return int(touched[0])
    states = scene[0].states
    distance = np.linalg.norm(_places(states, agents[0]) - _places(states, target), axis=-1)
    return max(int(distance[:-WINDOW].argmin()), FIRST_START)


def touches(tale: Tale, entity: str) -> list[set[str]]:
    """Return what an entity begins to touch in each frame, by name."""
    own, found = ENTITY_NAMES.index(entity), []
    for frame in tale.contacts:
        pairs = [{int(first), int(second)} for time, first, second in frame if time >= 0]
        found.append({ENTITY_NAMES[other] for pair in pairs if own in pair for other in pair - {own}})
    return found


def _places(states: np.ndarray, entity: str) -> Float64[np.ndarray, "t xy=2"]:
    """Return the places of the pusher or a colour."""
    return np.stack([element(states, f"{entity}/{axis}") for axis in "xy"], axis=-1).astype(np.float64)


def _begin_alike(cause: Tale, reference: Tale) -> bool:
    """Return whether everything that both contexts show is in the same place all through them."""
    both: Bool[np.ndarray, " colours"] = np.logical_and(
        *(body_slots(tale.context_states[-1], "present") > 0.5 for tale in (cause, reference))
    )
    names = ["pusher", *(colour for colour, shared in zip(COLOURS, both, strict=True) if shared)]
    gaps = [_places(cause.context_states, name) - _places(reference.context_states, name) for name in names]
    return float(np.abs(gaps).max()) <= SAME_M


def _is_plain(tale: Tale, target: str, agents: Sequence[str], end: int) -> bool:
    """Return whether the target is at rest and then in view to the end, and nothing but the agents touches it."""
    seen = body_slots(tale.states[: end + 1], "visible")[:, COLOURS.index(target)]
    moved = np.ptp(_places(tale.context_states, target), axis=0).max()
    met = set().union(*touches(tale, target)[: end + 1])
    return bool(moved <= SAME_M and seen.min() >= LEAST_VISIBLE) and met <= set(agents)


def _heading(tale: Tale, agent: str) -> Float64[np.ndarray, " xy=2"]:
    """Return the direction in which the agent sets out."""
    states = np.concatenate([tale.context_states[-1:], tale.states])
    velocity = np.stack([element(states, f"{agent}/v{axis}") for axis in "xy"], axis=-1).astype(np.float64)
    speed = np.linalg.norm(velocity, axis=-1)
    first = int((speed > 0.5 * speed.max()).argmax())
    return velocity[first] / max(float(speed[first]), 1e-9)


def _strength(tale: Tale) -> float:
    """Return the largest rate of a push."""
    return float(np.linalg.norm(tale.script.actions[:, :2], axis=-1).max())


CAUSES: tuple[Cause, ...] = (
    Cause(code="P3-I1", title="the pusher is driven, or is left alone", draw=draws.push),
    Cause(code="P3-I2", title="a body slides, or is not there", draw=draws.striker),
    Cause(code="P3-I3", title="the pusher is driven at one of five rates, or is left alone", draw=draws.dose, graded=True),
    Cause(code="P3-I4", title="the pusher is driven a little to one side, or to the other", draw=draws.deflection),
    Cause(code="P3-I5", title="the pusher is driven later, or at once", draw=draws.delay, least=0.8 * MOVED_M),
    Cause(code="P3-I6", title="a barrier stands in the way, or does not", draw=draws.block),
    Cause(code="P3-I7", title="one of two comers is blocked, or is not", draw=draws.pre_emption),
    Cause(
        code="P3-I8", title="something else is changed, or is not", draw=draws.irrelevant, irrelevant=True,
        headline="effect of no cause",
    ),
)  # fmt: skip
