"""Cause-and-effect probes: pairs that differ in one cause, the truth scored as perfect, wrong effects seen for what they are."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from worldsim.envs.factors import FACTORS, is_held_out_pair, motion_of
from worldsim.envs.painter import Painter
from worldsim.envs.state import body_slots, element
from worldsim.eval.cause_corruptions import corrupted
from worldsim.eval.cause_draws import DELAYS, LEVELS, STEPS
from worldsim.eval.cause_scores import ERROR, MEASURES, WINDOW, parties
from worldsim.eval.causes import CAUSES, Cause, touches
from worldsim.eval.families import Scene, Scores, films
from worldsim.eval.places import read_places
from worldsim.eval.skill import measured, skill
from worldsim.eval.statistics import Estimate
from worldsim.eval.tales import Tale

FAMILIES = {family.code: family for family in CAUSES}
COUNTS = {"P3-I1": 4, "P3-I8": 3}
TRIVIAL = ("copy last", "constant velocity", "no effect")
BY_NAME = {measure.name: measure for measure in (ERROR, *MEASURES)}


@pytest.fixture(scope="module")
def scenes(env: gym.Env) -> dict[str, list[Scene]]:
    """Return some pairs of every family."""
    return {
        code: [family.scene(env, "dev", i) for i in range(COUNTS.get(code, 2))] for code, family in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def pushes(scenes: dict[str, list[Scene]]) -> dict[str, Scores]:
    """Return the scores of the truth, the trivial rows and the corrupted oracles where the pusher is driven or not."""
    painter, told, family = Painter(height=64, width=64, shadows=True), scenes["P3-I1"], FAMILIES["P3-I1"]
    rows = {"oracle": films(told), **family.trivial(told, painter), **corrupted(told, painter)}
    painter.close()
    return {name: family.score(told, frames, read_places) for name, frames in rows.items()}


def value(scores: Scores, name: str) -> float | None:
    """Return a measure of a row, None where it is undefined."""
    got = measured(scores, BY_NAME[name])
    return got.value if isinstance(got, Estimate) else None


def way(tale: Tale, entity: str) -> np.ndarray:
    """Return the places (t, 2) of an entity."""
    return np.stack([element(tale.states, f"{entity}/{axis}") for axis in "xy"], axis=-1).astype(np.float64)


def effect_of(scene: Scene) -> np.ndarray:
    """Return the true effect (t, 2)."""
    return way(scene[0], parties(scene)[0]) - way(scene[1], parties(scene)[0])


def test_a_pair_is_its_seed(env: gym.Env, scenes: dict[str, list[Scene]]):
    """The same split and index give the same pixels in both members; another split gives another pair."""
    family = FAMILIES["P3-I4"]
    again, other = family.scene(env, "dev", 0), family.scene(env, "test", 0)
    for tale, same, different in zip(scenes["P3-I4"][0], again, other, strict=True):
        assert np.array_equal(tale.frames, same.frames) and np.array_equal(tale.context_frames, same.context_frames)
        assert not np.array_equal(tale.frames, different.frames)


@pytest.mark.parametrize("code", list(FAMILIES))
def test_pairs_are_equal_but_for_the_cause(scenes: dict[str, list[Scene]], code: str):
    """Every other pair has an effect above 4 cm, the others none; nothing but the agents touches a target in view."""
    family = FAMILIES[code]
    for index, scene in enumerate(scenes[code]):
        effect, (target, agents) = family.effect(scene), parties(scene)
        assert effect is not None and effect.start >= 2 and effect.start + WINDOW < STEPS
        size = np.linalg.norm(effect_of(scene), axis=-1)
        assert size[: effect.start].max() <= 1e-4
        effective = index % 2 == 0 and code != "P3-I8"
        assert size[effect.window].max() > 0.04 if effective else size[effect.window].max() <= 1e-4
        assert effect.effective == effective
        before = [body_slots(tale.context_states, "x")[:, effect.slot] for tale in scene]
        assert np.ptp(before) == 0
        for tale in scene:
            assert body_slots(tale.states, "visible")[: effect.start + WINDOW + 1, effect.slot].min() >= 0.85
            assert set().union(*touches(tale, target)[: effect.start + WINDOW + 1]) <= set(agents)
            assert not tale.script.actions[:, 2:].any() and not element(tale.states, "curtain/height").any()


def test_no_look_is_held_out(scenes: dict[str, list[Scene]]):
    """Bodies are such as recordings show: speeds, and pairs of colour, shape and motion."""
    for scene in (scene for told in scenes.values() for scene in told):
        for body in (body for tale in scene for body in tale.scene.bodies):
            speed = float(np.hypot(body.vx, body.vy))
            assert any(span.holds(round(speed, 9)) for span in FACTORS["speed"].train)
            assert not is_held_out_pair(body.colour, body.shape, motion_of(round(speed, 9)))


def test_causes_are_what_they_are_named_for(env: gym.Env, scenes: dict[str, list[Scene]]):
    """No push, no striker, five rates, two directions, a delay, a barrier, two comers, and what does not matter."""
    for code in ("P3-I1", "P3-I3"):
        assert all(scene[0].script.actions.any() and not scene[1].script.actions.any() for scene in scenes[code])
    for cause, reference in scenes["P3-I2"]:
        assert cause.scene.bodies[:-1] == reference.scene.bodies and not cause.script.actions.any()
        assert cause.scene.bodies[-1].colour in cause.script.label
    for cause, reference in scenes["P3-I4"]:
        rates = [tale.script.actions[0, :2] for tale in (cause, reference)]
        assert (
            np.linalg.norm(rates[0]) == pytest.approx(np.linalg.norm(rates[1]))
            and np.abs(rates[0] - rates[1]).max() > 0.05
        )
    for number in (0, 2 * DELAYS - 2):
        cause, reference = FAMILIES["P3-I5"].scene(env, "dev", number)
        late = 1 + number // 2
        assert np.array_equal(cause.script.actions[late:], reference.script.actions[:-late])
        assert not cause.script.actions[:late].any()
    for code in ("P3-I6", "P3-I7"):
        assert all(len(cause.scene.posts) == 1 and not reference.scene.posts for cause, reference in scenes[code])
    for scene in scenes["P3-I7"]:
        hitters = [set().union(*touches(tale, parties(scene)[0])) for tale in scene]
        assert all(hitters)
    assert hitters_of(scenes["P3-I7"][0]) == [{"pusher"}, {parties(scenes["P3-I7"][0])[1][0]}]
    recoloured, relit, pushed = scenes["P3-I8"]
    assert recoloured[0].scene.bodies[1].colour != recoloured[1].scene.bodies[1].colour
    assert relit[0].scene.light_azimuth != relit[1].scene.light_azimuth
    assert np.ptp(way(pushed[0], pushed[0].scene.bodies[1].colour), axis=0).max() > 0.05


def hitters_of(scene: Scene) -> list[set[str]]:
    """Return what has touched the target first in each member."""
    return [next(others for others in touches(tale, parties(scene)[0]) if others) for tale in scene]


@pytest.mark.parametrize("code", list(FAMILIES))
def test_the_truth_is_perfect(scenes: dict[str, list[Scene]], code: str):
    """The true frames have the true effect, none where there is none, none before the cause, and every pair right."""
    scores = FAMILIES[code].score(scenes[code], films(scenes[code]), read_places)
    assert value(scores, "effect error") == pytest.approx(0.0, abs=1.0)
    assert value(scores, "effect of no cause") == pytest.approx(0.0, abs=0.5)
    assert value(scores, "anticipation") == pytest.approx(0.0, abs=0.8)
    assert value(scores, "pair accuracy, no effect") == 1.0 and scores.floor is not None and 0 < scores.floor < 0.8
    if code == "P3-I8":
        assert value(scores, "effect slope") is None and value(scores, "pair accuracy") is None
    else:
        assert value(scores, "effect slope") == pytest.approx(1.0, abs=0.05 if len(scenes[code]) > 2 else 0.12)
        assert value(scores, "effect r") == pytest.approx(1.0, abs=0.05)
        assert value(scores, "pair accuracy") == value(scores, "direction") == 1.0
        assert value(scores, "effect begins off by") == pytest.approx(0.0, abs=1.0)
    assert (value(scores, "dose-response") is None) or code == "P3-I3"


def test_no_effect_is_the_zero_of_skill(scenes: dict[str, list[Scene]], pushes: dict[str, Scores]):
    """A cause that changes nothing costs the whole effect and earns no slope; the truth has skill 1, copying about 0."""
    effects = [FAMILIES["P3-I1"].effect(scene) for scene in scenes["P3-I1"]]
    squared = [
        (effect_of(scene)[effect.window] ** 2).sum(axis=-1).mean()
        for scene, effect in zip(scenes["P3-I1"], effects, strict=True)
        if effect is not None
    ]
    row = pushes["no effect"]
    assert value(row, "effect error") == pytest.approx(100 * np.sqrt(np.mean(squared)), rel=1e-4)
    assert value(row, "effect slope") == value(row, "pair accuracy") == value(row, "direction") == 0.0
    assert value(row, "effect r") is None and value(row, "effect begins off by") == WINDOW + 1
    assert value(row, "effect of no cause") == 0.0 and value(row, "pair accuracy, no effect") == 1.0
    for code in ("P3-I4", "P3-I5", "P3-I7"):  # the target is hit in both members, and all is in the difference
        same = np.stack([np.stack([scene[1].frames] * 2) for scene in scenes[code]])
        assert value(FAMILIES[code].score(scenes[code], same, read_places), "pair accuracy") == 0.0
    values = {name: skill(pushes, name, ERROR, TRIVIAL).value for name in ("oracle", "copy last", "effect x 0.5")}
    assert {name: got and got.value for name, got in values.items()} == pytest.approx(
        {"oracle": 1.0, "copy last": 0.0, "effect x 0.5": 0.5}, abs=0.1
    )


def test_wrong_effects_are_seen(pushes: dict[str, Scores]):
    """Half and one and a half effects have their slope; mirrored, late, early and absent ones cost what they should."""
    error = {name: value(row, "effect error") or 0.0 for name, row in pushes.items()}
    slope = {name: value(row, "effect slope") or 0.0 for name, row in pushes.items()}
    assert slope["effect x 0.5"] == pytest.approx(0.5, abs=0.05)
    assert slope["effect x 1.5"] == pytest.approx(1.5, abs=0.08)
    assert error["mirrored effect"] > error["no effect"] and slope["mirrored effect"] < 0.5
    assert value(pushes["mirrored effect"], "pair accuracy") != 1.0
    assert error["contacts off"] == pytest.approx(error["no effect"], rel=0.15)
    assert value(pushes["contacts off"], "pair accuracy") == 0.0
    for name in ("effect x 0.5", "effect x 1.5", "effect 4 late", "effect 4 early"):
        assert 5 * error["oracle"] < error[name] < error["no effect"]
    begins = {name: value(row, "effect begins off by") or 0.0 for name, row in pushes.items()}
    assert begins["effect 4 late"] >= 2 and begins["effect 4 early"] >= 2 and begins["oracle"] <= 0.5
    early = {name: value(row, "anticipation") or 0.0 for name, row in pushes.items()}
    assert early["effect 4 early"] > 2.0 > 4 * early["oracle"]


def test_deleting_the_target_earns_nothing(scenes: dict[str, list[Scene]], pushes: dict[str, Scores]):
    """What cannot be read costs more than a cause without effect, has no slope, and is no proof of specificity."""
    told = scenes["P3-I1"]
    scores = FAMILIES["P3-I1"].score(told, np.zeros_like(films(told)), read_places)
    assert (value(scores, "effect error") or 0) > max(20.0, value(pushes["no effect"], "effect error") or 0)
    assert value(scores, "effect slope") == 0.0 and value(scores, "missed") == 1.0 and scores.floor is None
    assert value(scores, "effect of no cause") == pytest.approx(20.0)
    assert value(scores, "anticipation") == pytest.approx(20.0)
    assert value(scores, "pair accuracy") == value(scores, "pair accuracy, no effect") == 0.0


def test_a_stronger_push_does_more(env: gym.Env):
    """The five rates come in turn, and the effect grows with them."""
    family: Cause = FAMILIES["P3-I3"]
    told = [family.scene(env, "dev", index) for index in (0, 4, 8)]
    effects = [effect for effect in map(family.effect, told) if effect is not None]
    assert [effect.dose for effect in effects] == pytest.approx([LEVELS[0], LEVELS[2], LEVELS[4]], abs=1e-5)
    scores = family.score(told, films(told), read_places)
    assert (value(scores, "dose-response") or 0) > 0.8
