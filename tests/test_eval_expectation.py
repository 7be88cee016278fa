"""Expectation quadruplets: the same frames in another order, scored so that only memory across the splice can tell."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import pytest

from worldsim.envs.arena import arena_spec
from worldsim.envs.controls import CONTEXT_STEPS
from worldsim.errors import UsageError
from worldsim.eval.expectation import (
    CONCEPTS,
    CONTROLS,
    LEAST_FRAMES,
    Quadruplet,
    SurpriseScorer,
    TemporalEnergy,
    expectation_table,
    quadruplet,
    surprises,
    with_contexts_of_others,
)
from worldsim.eval.expectation_draws import STEPS
from worldsim.eval.expectation_scores import Surprises
from worldsim.eval.pixels import changed
from worldsim.world_model import untrained

QUADRUPLETS = 3
ACTIONS_ONLY = ("wrong push", "wrong orbit")
SPLICED = tuple(code for code in CONCEPTS if code not in ACTIONS_ONLY)
Quads = dict[str, list[Quadruplet]]


@pytest.fixture(scope="module")
def quads(env: gym.Env) -> Quads:
    """Return some quadruplets of every concept and control."""
    codes = (*CONCEPTS, *CONTROLS)
    return {code: [quadruplet(env, code, "dev", index) for index in range(QUADRUPLETS)] for code in codes}


class Oracle:
    """Knows how each possible clip goes on, by its first frames and its actions; surprised by anything else."""

    def __init__(self, quads: Sequence[Quadruplet]) -> None:
        self.truths = {self.key(q.frames[i], q.actions[i], q.splice): q.frames[i] for q in quads for i in (0, 1)}
        self.splices = {q.splice for q in quads}

    @staticmethod
    def key(frames: np.ndarray, actions: np.ndarray, splice: int) -> tuple[int, bytes, bytes]:
        """Return what tells apart how clips begin and what is done in them."""
        return splice, frames[: splice + 1].tobytes(), actions.tobytes()

    def surprise(self, frames: np.ndarray, actions: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """Return the mean absolute difference from what really follows; 1 everywhere after an unknown beginning."""
        rows = []
        for clip, done in zip(frames, actions, strict=True):
            keys = [self.key(clip, done, splice) for splice in self.splices]
            known = [self.truths[key] for key in keys if key in self.truths]
            away = [np.abs(clip[1:].astype(np.float32) - truth[1:]).mean(axis=(1, 2, 3)) for truth in known]
            rows.append(away[0] if away else np.ones(len(done), np.float32))
        return np.stack(rows)


@dataclasses.dataclass(frozen=True)
class Constant:
    """As surprised by everything."""

    value: float = 1.0

    def surprise(self, frames: np.ndarray, actions: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """Return one and the same number."""
        return np.full(actions.shape[:2], self.value, np.float32)


def sorted_frames(clips: np.ndarray) -> list[bytes]:
    return sorted(frame.tobytes() for clip in clips for frame in clip)


def sorted_changes(clips: np.ndarray) -> list[bytes]:
    return sorted(one.tobytes() + two.tobytes() for clip in clips for one, two in itertools.pairwise(clip))


def test_a_quadruplet_is_its_seed(env: gym.Env, quads: Quads) -> None:
    """The same split and index give the same clips and noise; others give others."""
    again = quadruplet(env, "inertia", "dev", 1)
    assert np.array_equal(again.frames, quads["inertia"][1].frames) and again.seed == quads["inertia"][1].seed
    seeds = [q.seed for row in quads.values() for q in row] + [quadruplet(env, "wrong push", "test", 0).seed]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(UsageError, match="inertia"):
        quadruplet(env, "inertai", "dev", 0)


@pytest.mark.parametrize("code", list(CONCEPTS))
def test_possible_and_impossible_clips_are_made_of_the_same(quads: Quads, code: str) -> None:
    """The same frames, the same changes from frame to frame and the same actions, as often, to the bit."""
    for quad in quads[code]:
        assert quad.frames.shape == (4, CONTEXT_STEPS + STEPS + 1, 64, 64, 3)
        assert quad.actions.shape == (4, CONTEXT_STEPS + STEPS, 5)
        assert sorted_frames(quad.frames[:2]) == sorted_frames(quad.frames[2:])
        assert sorted_changes(quad.frames[:2]) == sorted_changes(quad.frames[2:])
        assert sorted_frames(quad.actions[:2]) == sorted_frames(quad.actions[2:])
        clips = zip(quad.frames, quad.actions, strict=True)
        assert len({frames.tobytes() + actions.tobytes() for frames, actions in clips}) == 4


@pytest.mark.parametrize("code", SPLICED)
def test_splices_cannot_be_seen(quads: Quads, code: str) -> None:
    """All four clips are one and the same on both sides of the splice; they differ before it and, where scored, after."""
    for quad in quads[code]:
        meeting = quad.frames[:, quad.splice : quad.splice + 2]
        assert (meeting == meeting[0]).all()
        assert (quad.actions == quad.actions[0]).all()
        apart = changed(quad.frames[0], quad.frames[1]).sum(axis=(1, 2))
        assert apart[: quad.splice].max() >= 8
        assert (apart[max(quad.splice, CONTEXT_STEPS) + 1 :] >= 8).sum() >= LEAST_FRAMES
        assert np.array_equal(quad.frames[2, : quad.splice + 1], quad.frames[0, : quad.splice + 1])
        assert np.array_equal(quad.frames[2, quad.splice + 1 :], quad.frames[1, quad.splice + 1 :])


@pytest.mark.parametrize("code", ACTIONS_ONLY)
def test_wrong_actions_begin_where_frames_part(quads: Quads, code: str) -> None:
    """All four clips share a context; each video comes once with its own actions and once with the other's."""
    for quad in quads[code]:
        assert (quad.frames[:, : CONTEXT_STEPS + 1] == quad.frames[:1, : CONTEXT_STEPS + 1]).all()
        assert (quad.actions[:, :CONTEXT_STEPS] == 0).all()
        assert np.array_equal(quad.frames[:2], quad.frames[2:])
        assert np.array_equal(quad.actions[2:], quad.actions[[1, 0]])


@pytest.mark.parametrize("code", list(CONCEPTS))
def test_who_knows_what_follows_is_always_right(quads: Quads, code: str) -> None:
    """The truth is surprised by every impossible clip and by no possible one, so that d' is the headline."""
    table = expectation_table(Oracle(quads[code]), {code: quads[code]}, [Constant()] * 3)[code]
    row = table["rows"]["model"]
    assert row["accuracy"]["value"] == row["accuracy_of_maximum"]["value"] == row["auc"]["value"] == 1.0
    assert row["relative_surprise"]["value"] == 1.0 and row["d_prime"]["value"] > 2
    assert table["headline"] == "d_prime" and table["trained_share_of_auc"]["value"] == 1.0 and table["claimed"]
    json.dumps(table, allow_nan=False)


def test_who_remembers_nothing_is_at_chance(quads: Quads) -> None:
    """Sums of what is in frames or in their changes cancel exactly: .5 to the bit, and nothing is claimed."""
    for scorer in (Constant(), Constant(0.0), TemporalEnergy()):
        table = expectation_table(scorer, {code: quads[code] for code in CONCEPTS}, [Constant()])
        for code, entry in table.items():
            row = entry["rows"]["model"]
            assert row["accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": QUADRUPLETS}, code
            assert row["relative_surprise"]["value"] == pytest.approx(0, abs=1e-9)
            assert row["auc"]["value"] == pytest.approx(0.5, abs=0.13)
            assert not entry["claimed"] and entry["headline"] == "auc"


def test_what_is_there_without_training_is_not_claimed(quads: Quads) -> None:
    """A scorer no better than untrained networks has a trained share of 0, however often it is right."""
    oracle = Oracle(quads["launch"])
    entry = expectation_table(oracle, {"launch": quads["launch"]}, [oracle])["launch"]
    assert entry["rows"]["model"]["auc"]["value"] == 1.0
    assert entry["trained_share_of_accuracy"]["value"] == entry["trained_share_of_auc"]["value"] == 0.0
    assert entry["above_untrained"]["value"] == 0.0
    assert not entry["claimed"]
    half = expectation_table(oracle, {"launch": quads["launch"]}, [oracle, Constant()])["launch"]
    assert half["trained_share_of_accuracy"]["value"] == 0.5 and half["rows"]["untrained"]["accuracy"]["value"] == 0.75
    assert not expectation_table(oracle, {"launch": quads["launch"]}, [Constant()] * 2)["launch"]["claimed"], "too few"


def test_a_legal_recolouring_is_a_control(quads: Quads) -> None:
    """All four clips are real, another colour from frame 0 on, and the table says that nothing should be told apart."""
    for quad in quads["recoloured"]:
        for i in (0, 1):
            apart = changed(quad.frames[i], quad.frames[i + 2]).sum(axis=(1, 2))
            assert apart[0] >= 8 and apart[-1] >= 8
        assert (quad.actions == quad.actions[0]).all()
    assert expectation_table(Constant(), {"recoloured": quads["recoloured"]}, [Constant()])["recoloured"]["legal"]


def test_contexts_of_others_leave_what_follows(quads: Quads) -> None:
    """Up to the splice all is another quadruplet's, after it all is one's own."""
    for own, mixed in zip(quads["solidity"], with_contexts_of_others(quads["solidity"]), strict=True):
        assert np.array_equal(mixed.frames[:, own.splice + 1 :], own.frames[:, own.splice + 1 :])
        assert not np.array_equal(mixed.frames[:, : own.splice], own.frames[:, : own.splice])
        starts = [other.frames[:, : own.splice + 1] for other in quads["solidity"]]
        assert any(np.array_equal(mixed.frames[:, : own.splice + 1], start) for start in starts)


def test_a_world_model_is_scored(env: gym.Env, quads: Quads) -> None:
    """`WorldModel` is a scorer; one told of no action is at chance to the bit where only actions are wrong."""
    model = untrained(arena_spec(env))
    assert isinstance(model, SurpriseScorer) and not isinstance(env, SurpriseScorer)
    (whole, *_), end = quads["wrong orbit"], CONTEXT_STEPS + 7
    one = [dataclasses.replace(whole, frames=whole.frames[:, : end + 1], actions=whole.actions[:, :end])]
    told, blind = surprises(model, one), surprises(model.unconditioned(), one)
    assert told.shape == (1, 4, 7) and np.isfinite(told).all()
    assert np.array_equal(blind[0, :2], blind[0, 2:]) and not np.array_equal(told[0, :2], told[0, 2:])


def test_what_energy_explains_can_be_taken_away(quads: Quads) -> None:
    """Less energy, energy itself tells nothing apart; what only memory tells stays; a flat row explains nothing."""
    rng = np.random.default_rng(0)
    energy, other = (Surprises.of(list(rng.uniform(1, 9, (1, 5, 4, 3)).astype(np.float32))) for _ in range(2))
    mixed = Surprises(total=3 * energy.total + 1, most=other.most - 2 * energy.most)
    assert mixed.less(energy).total == pytest.approx(mixed.total.mean())
    assert mixed.less(energy).most == pytest.approx(other.less(energy).most - 2 * energy.most.mean())
    flat = Surprises(total=np.ones((1, 5, 4)), most=np.zeros((1, 5, 4)))
    assert np.array_equal(mixed.less(flat).total, mixed.total)
    table = expectation_table(Oracle(quads["continuity"]), {"continuity": quads["continuity"]}, [Constant()])
    assert table["continuity"]["rows"]["model less energy"]["accuracy"]["value"] == 1.0


class Broken(Constant):
    """Says nothing about the last frame."""

    def surprise(self, frames: np.ndarray, actions: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """Return too few numbers."""
        return super().surprise(frames, actions, seeds)[:, 1:]


@pytest.mark.parametrize("scorer", [Broken(), Constant(np.nan), Constant(-1.0)])
def test_scorers_that_cannot_be_scored_are_named(quads: Quads, scorer: SurpriseScorer) -> None:
    """A number too few, NaN and negative surprise are errors of the scorer."""
    with pytest.raises(UsageError, match=type(scorer).__name__):
        surprises(scorer, quads["persistence"][:1])


def test_a_table_needs_its_controls(quads: Quads) -> None:
    """Without untrained networks, or with a quadruplet that has no other, there is no table."""
    with pytest.raises(UsageError, match="untrained"):
        expectation_table(Constant(), {"launch": quads["launch"]}, [])
    with pytest.raises(UsageError, match="quadruplets"):
        expectation_table(Constant(), {"launch": quads["launch"][:1]}, [Constant()])
