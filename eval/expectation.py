"""Violation of expectation (P8): is a model more surprised by what cannot happen than by what can? Knows no model.

Quadruplets after PLATO (Piloto et al. 2022): two possible clips, and two impossible ones made of the very same frames,
spliced while what differs is hidden. So sums over the possible and over the impossible clips cancel whatever is in the
frames themselves, and in every change from one to the next: only memory across the splice can tell them apart. For
violations of actions, two videos are given with their own actions and with each other's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from worldsim.envs.controls import CONTEXT_STEPS
from worldsim.envs.state import body_slots
from worldsim.errors import UsageError, suggestion
from worldsim.eval import expectation_draws as draws
from worldsim.eval.expectation_scores import Surprises, rate
from worldsim.eval.families import first_that
from worldsim.eval.pixels import changed, derangement
from worldsim.eval.tales import Tale, play

LEAST_PIXELS = 8
"""So many pixels must differ for two frames to be told apart."""
LEAST_FRAMES = 4
"""In so many frames that are scored the two possible clips must be told apart."""
MODEL, UNTRAINED, OTHERS = "model", "untrained", "others' contexts"
"""Rows of a table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quadruplet:
    """Four clips that are compared: 0 and 1 are possible, 2 and 3 are not (in a control all four are)."""

    concept: str
    frames: UInt8[np.ndarray, "4 t1 h w 3"]
    actions: Float32[np.ndarray, "4 t a"]
    """``actions[:, t]`` leads from frame t to frame t+1."""
    splice: int
    """What comes after this frame is exchanged: frame 2 goes on from clip 0 as clip 1 does, clip 3 the other way."""
    seed: int
    """Decides the noise of all four clips."""


@runtime_checkable
class SurpriseScorer(Protocol):
    """A predictor that can also say how unexpected real frames are. `worldsim.WorldModel` is one."""

    def surprise(
        self,
        frames: UInt8[np.ndarray, "b t1 h w 3"],
        actions: Float32[np.ndarray, "b t a"],
        seeds: Sequence[int],
    ) -> Float32[np.ndarray, "b t"]:
        """Return a number of 0 or more for frames 1 .. T, each given the frames and actions before it.

        ``seeds`` (one a clip) fix whatever is drawn; clips of one seed must get the same draws.
        """
        ...


class TemporalEnergy:
    """Nothing should change: the mean difference between neighbouring frames. What it tells apart proves nothing."""

    def surprise(
        self,
        frames: UInt8[np.ndarray, "b t1 h w 3"],
        actions: Float32[np.ndarray, "b t a"],
        seeds: Sequence[int],
    ) -> Float32[np.ndarray, "b t"]:
        """Return the mean absolute difference in grey levels of each frame from the one before."""
        del actions, seeds
        return np.abs(np.diff(frames.astype(np.float32), axis=1)).mean(axis=(2, 3, 4))


Build = Callable[["Concept", Sequence[Tale]], Quadruplet | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Concept:
    """One thing that a model may know of the world."""

    code: str
    title: str
    """What happens in the impossible clips."""
    draw: draws.Draw
    build: Build
    """Makes the four clips of the tales played; None where they do not show what they should."""
    legal: bool = False
    """Whether all four clips are possible: a control, in which nothing should be told apart."""

    @property
    def of_actions(self) -> bool:
        """Whether the impossible clips differ from the possible ones in their actions alone."""
        return self.build is _exchanged_actions

    def audited(self, env: gym.Env[Any, Any], rng: np.random.Generator, seed: int) -> tuple[Tale, ...] | None:
        """Play one draw; None if it does not fit on the floor or does not show what it should."""
        scripts = self.draw(rng, seed)
        tales = tuple(play(env, script) for script in scripts or ())
        return tales if tales and self.build(self, tales) is not None else None


def quadruplet(env: gym.Env[Any, Any], concept: str, split: str, index: int) -> Quadruplet:
    """Return quadruplet ``index`` of a split, from tales of ``env`` (an Arena without wrappers) that passed the audit."""
    kind = concept_of(concept)
    tales = first_that(f"P8 {concept}", split, index, lambda rng, seed: kind.audited(env, rng, seed))
    made = kind.build(kind, tales)
    assert made is not None, f"{concept} {split} {index}: the audit that was passed now fails"
    return made


def _spliced(concept: Concept, tales: Sequence[Tale]) -> Quadruplet | None:
    """Exchange what comes after the middle of the longest time in which the two clips are one and the same.

    The frames on both sides of the splice are then equal to the bit, so that the splice itself cannot be seen; bodies that
    are not in the same state are out of sight in both.
    """
    frames, actions = _frames(tales), _actions(tales)
    same = (frames[0] == frames[1]).all(axis=(1, 2, 3)) & _out_of_sight(tales)
    first, last = _longest_run(same)
    splice = (first + last) // 2
    apart = _told_apart(frames[0], frames[1])
    shown = apart[: splice + 1].any() and apart[max(splice, CONTEXT_STEPS) + 1 :].sum() >= LEAST_FRAMES
    if last <= first or last < CONTEXT_STEPS or not shown or not np.array_equal(actions[0], actions[1]):
        return None
    halves = [np.concatenate([frames[i][: splice + 1], frames[1 - i][splice + 1 :]]) for i in (0, 1)]
    return Quadruplet(
        concept=concept.code,
        frames=np.stack([*frames, *halves]),
        actions=np.repeat(actions[:1], 4, axis=0),
        splice=splice,
        seed=tales[0].script.seed,
    )


def _exchanged_actions(concept: Concept, tales: Sequence[Tale]) -> Quadruplet | None:
    """Give two videos that begin alike their own actions, and each other's."""
    frames, actions = _frames(tales), _actions(tales)
    start = slice(CONTEXT_STEPS + 1)
    alike = np.array_equal(frames[0][start], frames[1][start]) and np.array_equal(
        actions[0][:CONTEXT_STEPS], actions[1][:CONTEXT_STEPS]
    )
    if not alike or _told_apart(frames[0], frames[1]).sum() < LEAST_FRAMES:
        return None
    return Quadruplet(
        concept=concept.code,
        frames=frames[[0, 1, 0, 1]],
        actions=actions[[0, 1, 1, 0]],
        splice=CONTEXT_STEPS,
        seed=tales[0].script.seed,
    )


def _all_legal(concept: Concept, tales: Sequence[Tale]) -> Quadruplet | None:
    """Set two clips beside the same two with another appearance throughout."""
    frames, actions = _frames(tales), _actions(tales)
    if not all(_told_apart(frames[i], frames[i + 2])[0] for i in (0, 1)):
        return None
    return Quadruplet(
        concept=concept.code, frames=frames, actions=actions, splice=CONTEXT_STEPS, seed=tales[0].script.seed
    )


def _frames(tales: Sequence[Tale]) -> UInt8[np.ndarray, "n t1 h w 3"]:
    return np.stack([np.concatenate([tale.context_frames, tale.frames]) for tale in tales])


def _actions(tales: Sequence[Tale]) -> Float32[np.ndarray, "n t a"]:
    return np.stack([np.concatenate([tale.context_actions, tale.script.actions]) for tale in tales])


def _out_of_sight(tales: Sequence[Tale]) -> Bool[np.ndarray, " t1"]:
    """Return in which frames every body that is not at the same place in both tales is out of sight in both."""
    states = np.stack([np.concatenate([tale.context_states, tale.states]) for tale in tales])
    visible = body_slots(states, "visible") > 0
    alike = np.all(
        [body_slots(states, name)[0] == body_slots(states, name)[1] for name in ("present", "x", "y")], axis=0
    )
    return (alike | ~visible.any(axis=0)).all(axis=-1)


def _told_apart(one: np.ndarray, other: np.ndarray) -> Bool[np.ndarray, " t1"]:
    return changed(one, other).sum(axis=(-1, -2)) >= LEAST_PIXELS


def _longest_run(flags: Bool[np.ndarray, " t"]) -> tuple[int, int]:
    """Return first and last index of the longest run of true flags; (0, -1) if there is none."""
    best, start = (0, -1), None
    for index, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = index
        elif not flag and start is not None:
            best = max(best, (start, index - 1), key=lambda run: run[1] - run[0])
            start = None
    return best


CONCEPTS: Mapping[str, Concept] = {
    concept.code: concept
    for concept in (
        Concept(code="persistence", title="a body is gone, or is there, behind the curtain", draw=draws.presence,
                build=_spliced),
        Concept(code="unchangeableness", title="a body changes its colour behind the curtain", draw=draws.colour,
                build=_spliced),
        Concept(code="continuity", title="a body comes out on another path than it went in", draw=draws.lane,
                build=_spliced),
        Concept(code="solidity", title="a body passes through a post, or bounces off nothing, behind the curtain",
                draw=draws.obstacle, build=_spliced),
        Concept(code="inertia", title="a body turns round behind the curtain", draw=draws.heading, build=_spliced),
        Concept(code="launch", title="a struck body stays at rest, or one comes out unstruck", draw=draws.strike,
                build=_spliced),
        Concept(code="view jump", title="the camera is elsewhere after it looked up", draw=draws.viewpoint,
                build=_spliced),
        Concept(code="wrong push", title="the pusher goes the other way than it is pushed", draw=draws.pushing,
                build=_exchanged_actions),
        Concept(code="wrong orbit", title="the camera goes the other way than it is sent", draw=draws.orbiting,
                build=_exchanged_actions),
    )
}  # fmt: skip
"""What is tested, by code."""

CONTROLS: Mapping[str, Concept] = {
    concept.code: concept
    for concept in (
        Concept(code="recoloured", title="nothing: another colour from the first frame on", draw=draws.recoloured,
                build=_all_legal, legal=True),
    )
}  # fmt: skip
"""Quadruplets of possible clips only, which nothing should tell apart."""


def concept_of(code: str) -> Concept:
    """Return a concept or a control by its code; UsageError with the closest one if there is none such."""
    known = {**CONCEPTS, **CONTROLS}
    if code not in known:
        fix = suggestion(code, tuple(known))
        raise UsageError("concept", got=repr(code), allowed=f"{len(known)} concepts", fix=fix)
    return known[code]


def with_contexts_of_others(quadruplets: Sequence[Quadruplet], seed: int = 0) -> list[Quadruplet]:
    """Return quadruplets whose clips begin as those of another one do, up to each one's splice.

    What happens after a splice no longer follows from what was seen, so a scorer that remembers has nothing to go by.
    """
    order = derangement(len(quadruplets), np.random.default_rng([seed, 8]))
    made = []
    for own, other in zip(quadruplets, (quadruplets[i] for i in order), strict=True):
        frames, actions = own.frames.copy(), own.actions.copy()
        frames[:, : own.splice + 1] = other.frames[:, : own.splice + 1]
        actions[:, : own.splice] = other.actions[:, : own.splice]
        made.append(dataclasses.replace(own, frames=frames, actions=actions))
    return made


def surprises(scorer: SurpriseScorer, quadruplets: Sequence[Quadruplet]) -> Float32[np.ndarray, "n 4 t"]:
    """Return the surprise of all frames after the context; UsageError if a scorer returns anything but finite numbers."""
    rows = []
    for one in quadruplets:
        try:
            answer = np.asarray(scorer.surprise(one.frames, one.actions, [one.seed] * 4))
        except UsageError:
            raise
        except Exception as error:
            got, fix = f"{type(error).__name__}: {error}", "call its surprise() by hand; --debug shows where it stopped"
            raise UsageError(f"predictor {type(scorer).__name__}", got=got, allowed="surprises", fix=fix) from error
        wanted = one.actions.shape[:2]
        if answer.shape != wanted or not np.isfinite(answer).all() or (answer < 0).any():
            raise UsageError(
                f"scorer {type(scorer).__name__}",
                got=f"{answer.dtype} {answer.shape}, from {answer.min(initial=0):g}",
                allowed=f"{wanted}: finite numbers of 0 or more, clips x frames 1 .. T",
                fix="return one number for each frame but the first",
            )
        rows.append(answer[:, CONTEXT_STEPS:].astype(np.float32))
    return np.stack(rows)


def expectation_table(
    scorer: SurpriseScorer,
    quadruplets_by_concept: Mapping[str, Sequence[Quadruplet]],
    untrained_scorers: Sequence[SurpriseScorer],
) -> dict[str, Any]:
    """Return, by concept, what the scorer tells apart beside the rows that must not, with 95 % intervals. JSON-able.

    Rows: ``model``, ``untrained`` (networks with random weights, averaged), ``others' contexts`` (the model's, see
    `with_contexts_of_others`; where the impossible clips differ in their actions alone, these still tell), and those of
    `concept_table`.
    """
    if not untrained_scorers or not all(len(row) > 1 for row in quadruplets_by_concept.values()):
        raise UsageError(
            "untrained_scorers and quadruplets_by_concept",
            got=f"{len(untrained_scorers)} scorers, {[len(row) for row in quadruplets_by_concept.values()]} quadruplets",
            allowed="one untrained scorer or more, two quadruplets or more a concept",
            fix="worldsim.world_model.untrained(spec, seed=k) makes one",
        )
    table = {}
    for code, quadruplets in quadruplets_by_concept.items():
        asked = {
            MODEL: [surprises(scorer, quadruplets)],
            UNTRAINED: [surprises(each, quadruplets) for each in untrained_scorers],
            OTHERS: [surprises(scorer, with_contexts_of_others(quadruplets))],
        }
        table[code] = concept_table(code, quadruplets, asked)
    return table


def concept_table(
    code: str, quadruplets: Sequence[Quadruplet], asked: Mapping[str, Sequence[Float32[np.ndarray, "n 4 t"]]]
) -> dict[str, Any]:
    """Return a concept's part of `expectation_table` from what networks were surprised by, row by row (`surprises`).

    ``model less energy`` is the model's surprise without what a straight line in the temporal energy of clips explains.
    """
    rows = {name: Surprises.of(networks) for name, networks in asked.items()}
    rows["temporal energy"] = Surprises.of([surprises(TemporalEnergy(), quadruplets)])
    rows["model less energy"] = rows[MODEL].less(rows["temporal energy"])
    concept = concept_of(code)
    return {"title": concept.title, "legal": concept.legal, **rate(rows)}
