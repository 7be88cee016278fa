"""Composition probes: pairs that differ in a colour alone, one of them never recorded, and who is caught by them."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from worldsim.envs.factors import FACTORS, HELD_OUT_PAIRS, is_held_out_pair, motion_of
from worldsim.envs.painter import Painter
from worldsim.envs.state import body_slots
from worldsim.eval.composition import COMPOSITION, Composition, pairs_of, slot_of
from worldsim.eval.families import Scene, Scores, films
from worldsim.eval.places import read_places
from worldsim.eval.skill import measured
from worldsim.eval.statistics import Estimate

FAMILIES = {family.code: family for family in COMPOSITION}


@pytest.fixture(scope="module")
def scenes(env: gym.Env) -> dict[str, list[Scene]]:
    """Return some pairs of every family."""
    return {code: [family.scene(env, "dev", i) for i in range(4)] for code, family in FAMILIES.items()}


def value(family: Composition, scores: Scores, name: str) -> float:
    """Return a measure of a row."""
    measure = next(one for one in (family.error, *family.measures) if one.name == name)
    got = measured(scores, measure)
    assert isinstance(got, Estimate)
    return got.value


@pytest.mark.parametrize("kind", [("colour", "shape"), ("colour", "motion")])
def test_pairs_differ_in_colour_and_in_what_is_recorded(kind: tuple[str, str]):
    """The first breaks no rule of recordings, the second just the one of its kind, and every such combination that can be is asked."""
    pairs = pairs_of(kind)
    for seen, unseen in pairs:
        assert not is_held_out_pair(seen.colour, seen.shape, seen.motion) and unseen.unseen == {kind}
        assert dataclasses.replace(seen, colour=unseen.colour) == unseen and seen != unseen
    asked = {(getattr(unseen, kind[0]), getattr(unseen, kind[1])) for _, unseen in pairs}
    # these break a second rule whenever they move: slow boxes and fast cyan bodies, fast cylinders and slow blue ones are kept back too
    assert asked == set(HELD_OUT_PAIRS[kind]) - {("cyan", "box"), ("blue", "cylinder")}


@pytest.mark.parametrize("code", list(FAMILIES))
def test_the_same_happens_to_what_was_seen_and_to_what_was_not(code: str, scenes: dict[str, list[Scene]]):
    """Both members move alike, bounce, stay in sight, and one of them alone could be in a recording."""
    for scene in scenes[code]:
        states, held = [tale.states for tale in scene], []
        for tale in scene:
            (sliding,) = (body for body in tale.scene.bodies if body.colour == tale.script.label)
            speed = float(np.hypot(sliding.vx, sliding.vy))
            assert any(span.holds(speed) for span in FACTORS["speed"].train)
            held.append(is_held_out_pair(sliding.colour, sliding.shape, motion_of(speed)))
        assert held == [False, True]
        ways = [
            np.stack([body_slots(state, axis)[:, slot_of(tale)] for axis in "xy"], axis=-1)
            for state, tale in zip(states, scene, strict=True)
        ]
        np.testing.assert_allclose(ways[0], ways[1], atol=1e-3)
        steps = np.diff(ways[0], axis=0)
        turned = (steps[0] @ steps[-1]) / (np.linalg.norm(steps[0]) * np.linalg.norm(steps[-1]))
        assert turned < 0.9  # it has met a wall: going straight on is not enough


@pytest.mark.parametrize("code", list(FAMILIES))
def test_the_truth_has_no_gap_and_the_case_based_answer_has_one(
    code: str, scenes: dict[str, list[Scene]], painter: Painter
):
    """Whoever shows what was recorded is right of the seen member, wrong of the other, and takes another's colour throughout."""
    family, told = FAMILIES[code], scenes[code]
    rows = {"oracle": films(told), **family.trivial(told, painter)}
    scored = {name: family.score(told, frames, read_places) for name, frames in rows.items()}
    assert (
        abs(value(family, scored["oracle"], "gap")) < 0.3
        and value(family, scored["oracle"], "takes another's colour") == 0
    )
    cased = scored["nearest combination"]
    assert value(family, cased, "seen") < 1 and value(family, cased, "gap") > 5
    assert value(family, cased, "takes another's colour") > 0.8
    assert value(family, scored["copy last"], "tracking error") > 3


def test_the_gap_is_of_the_member_never_seen(scenes: dict[str, list[Scene]], painter: Painter):
    """Copying only where the combination is new makes a gap; copying only where it is known makes one below nothing."""
    family, told = FAMILIES["P4-C1"], scenes["P4-C1"]
    true, copied = films(told), family.trivial(told, painter)["copy last"]
    new, known = true.copy(), true.copy()
    new[:, 1], known[:, 0] = copied[:, 1], copied[:, 0]
    gaps = [value(family, family.score(told, frames, read_places), "gap") for frames in (new, known)]
    assert gaps[0] > 3 and gaps[1] < -3


def test_a_pair_is_its_seed(env: gym.Env, scenes: dict[str, list[Scene]]):
    """The same split and index give the same pixels; another split gives another pair."""
    family = FAMILIES["P4-C2"]
    again, other = family.scene(env, "dev", 0), family.scene(env, "test", 0)
    for tale, same, different in zip(scenes["P4-C2"][0], again, other, strict=True):
        assert np.array_equal(tale.frames, same.frames) and not np.array_equal(tale.frames, different.frames)
    assert "beside" in family.describe(again)
