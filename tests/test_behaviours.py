from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from worldsim.envs.behaviours import BEHAVIOURS, Behaviour, choose_behaviour
from worldsim.envs.camera import TILT_STOP
from worldsim.envs.controls import ACTION_NAMES, CURTAIN_STEP, ORBIT_STEP, TILT_STEP
from worldsim.envs.factors import FACTORS, HELD_OUT_WEDGE, Span, is_held_out_pair, motion_of
from worldsim.envs.options import parse_options
from worldsim.envs.pushes import folded, travelled
from worldsim.envs.sampling import draw_scene
from worldsim.envs.scene import COLOURS, ENTITY_NAMES, SceneSpec
from worldsim.envs.simulation import Simulation
from worldsim.envs.state import body_slots
from worldsim.envs.tracks import (
    Facts,
    Track,
    curtain_twitch,
    curtain_up_and_down,
    facts_of,
    fidget,
    orbit_constant,
    orbit_there_and_back,
    outside_wedge,
    tilt_fidget,
)

LEAD_IN, STEPS = 10, 54


def some_facts(rng: np.random.Generator) -> Facts:
    low, high = HELD_OUT_WEDGE
    return Facts(
        bodies=rng.uniform(-0.6, 0.6, (3, 2)),
        velocities=rng.uniform(-0.5, 0.5, (3, 2)),
        damping=float(rng.choice([0.0, 0.35, 1.5])),
        pusher=rng.uniform(-0.6, 0.6, 2),
        azimuth_deg=float((high + rng.uniform(0, 360 - (high - low))) % 360),
    )


def play(behaviour: Behaviour, key: int, see: bool) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Play one episode of pure physics: its states if asked to ``see``, and the pairs that touched after the lead-in."""
    rng = np.random.default_rng(key)
    scene = draw_scene(key, parse_options(behaviour.scene(rng)))
    simulation = Simulation(scene, height=64, width=64)
    for _ in range(LEAD_IN):
        simulation.advance(np.zeros(5))
    states, touched = [simulation.state()], []
    for action in behaviour.plan(rng, facts_of(states[-1], scene.damping), STEPS):
        rows = simulation.advance(action)
        touched += [(ENTITY_NAMES[int(a)], ENTITY_NAMES[int(b)]) for _, a, b in rows[rows[:, 0] >= 0]]
        if see:
            states.append(simulation.state())
    return np.stack(states), touched


def test_table_is_a_mixture() -> None:
    """Names differ, weights are positive and sum to one, and the draw follows them."""
    assert len({behaviour.name for behaviour in BEHAVIOURS}) == len(BEHAVIOURS)
    assert sum(behaviour.weight for behaviour in BEHAVIOURS) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    drawn = Counter(choose_behaviour(rng).name for _ in range(4000))
    for behaviour in BEHAVIOURS:
        assert drawn[behaviour.name] / 4000 == pytest.approx(behaviour.weight, abs=0.03)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_plans_are_pure_and_legal(behaviour: Behaviour) -> None:
    """A plan is decided by its generator and the initial facts alone, has the asked length and keeps to [-1, 1]."""
    for key in range(8):
        facts = some_facts(np.random.default_rng(key))
        plans = [behaviour.plan(np.random.default_rng(key), facts, STEPS) for _ in range(2)]
        np.testing.assert_array_equal(plans[0], plans[1])
        assert plans[0].shape == (STEPS, len(ACTION_NAMES)) and plans[0].dtype == np.float32
        assert np.abs(plans[0]).max() <= 1.0
        assert behaviour.plan(np.random.default_rng(key), facts, 7).shape == (7, 5)


def test_every_action_dimension_is_exercised_continuously() -> None:
    """Over the mixture each control moves in a good share of the steps, both ways, at rates of all sizes."""
    rng = np.random.default_rng(1)
    actions = np.stack([choose_behaviour(rng).plan(rng, some_facts(rng), STEPS) for _ in range(400)])
    for name, values in zip(ACTION_NAMES, np.moveaxis(actions, 2, 0), strict=True):
        active = values[values != 0]
        assert len(active) / values.size > 0.08, name
        assert 0.3 < np.mean(active > 0) < 0.7, name
        histogram = np.histogram(np.abs(active), bins=4, range=(0, 1))[0] / len(active)
        assert histogram.min() > 0.02, (name, histogram)
        assert np.mean(np.abs(active) > 0.999) < 0.1, name


def test_frames_before_do_not_tell_the_action() -> None:
    """Over the mixture, actions at work are often new ones: a model that goes on as before is wrong in a good share of steps."""
    rng = np.random.default_rng(3)
    actions = np.stack([choose_behaviour(rng).plan(rng, some_facts(rng), STEPS) for _ in range(400)])
    for name, values in zip(ACTION_NAMES, np.moveaxis(actions, 2, 0), strict=True):
        before, now = values[:, :-1], values[:, 1:]
        changed = np.abs(now - before) > 0.1
        assert np.mean(changed[np.abs(now) > 0.1]) > 0.2, name


@pytest.mark.parametrize("track", [orbit_constant, orbit_there_and_back, fidget])
def test_orbits_never_enter_the_held_out_wedge(track: Track) -> None:
    """From every start outside the wedge, no planned azimuth lies inside; an orbit that stays clear is left alone."""
    low, high = HELD_OUT_WEDGE
    for key in range(200):
        rng = np.random.default_rng(key)
        start = some_facts(rng).azimuth_deg
        rates = track(rng, STEPS)
        azimuths = (start + ORBIT_STEP * np.cumsum(outside_wedge(rates, start))) % 360
        assert not np.any((azimuths > low) & (azimuths < high)), (key, start)
    opposite = (low + high) / 2 + 180
    gentle = np.full(STEPS, 0.15)
    np.testing.assert_array_equal(outside_wedge(gentle, opposite), gentle)


def test_fidgeting_tilts_stay_within_reach() -> None:
    """A camera that fidgets keeps between level and half of its way up, so that most of the floor is seen."""
    for key in range(50):
        heights = np.cumsum(tilt_fidget(np.random.default_rng(key), 200)) * TILT_STEP
        assert heights.min() > -1e-6 and heights.max() <= 0.5 * TILT_STOP + 1e-6


def test_a_twitching_curtain_begins_to_rise_again_and_again() -> None:
    """It lies on the floor before every third of its rises or more, and often."""
    starts = rises = 0
    for key in range(50):
        lies, height = True, 0.0
        for rate in curtain_twitch(np.random.default_rng(key), 54):
            rises += rate > 0
            starts += rate > 0 and lies
            height = max(0.0, height + rate * CURTAIN_STEP)
            lies = height == 0
    assert starts > rises / 3 and starts / (50 * 54) > 0.08


def test_controls_are_also_pressed_against_their_stops() -> None:
    """Curtains are driven on when they are all the way up, or down: nothing moves then, and recordings must show it."""
    heights = np.concatenate([np.cumsum(curtain_up_and_down(np.random.default_rng(key), 54)) for key in range(50)])
    assert np.mean(heights * CURTAIN_STEP > 1 + 1e-6) > 0.05


def test_every_control_is_also_driven_against_every_stop() -> None:
    """A good share of steps asks a camera that is level to look down, or a curtain on the floor to fall, and the other way round.

    Who samples actions does nothing else, and a model that has never seen it does not know that nothing happens.
    """
    rng = np.random.default_rng(4)
    plans = np.stack([choose_behaviour(rng).plan(rng, some_facts(rng), STEPS) for _ in range(400)])
    for name, step in (("tilt", TILT_STEP / TILT_STOP), ("curtain", CURTAIN_STEP)):
        rates = plans[..., ACTION_NAMES.index(name)]
        place, down, up = np.zeros(len(rates)), 0, 0
        for rate in rates.T:
            down += np.sum((place == 0) & (rate < -0.1))
            up += np.sum((place == 1) & (rate > 0.1))
            place = np.clip(place + step * rate, 0, 1)
        assert down > 0.04 * rates.size and up > 0.004 * rates.size, name


def test_there_and_back_returns() -> None:
    """Every excursion of the there-and-back orbit is undone, so that the same view is seen again."""
    for key in range(50):
        azimuths = np.cumsum(orbit_there_and_back(np.random.default_rng(key), 500))
        assert np.sum(np.abs(azimuths) < 1e-9) > 50


def test_scenes_show_nothing_held_out() -> None:
    """No behaviour's options ever lead to a held-out value or a held-out pair of colour, shape and motion."""
    rng = np.random.default_rng(2)
    for key in range(250):
        for name, value in scene_values(draw_scene(key, parse_options(choose_behaviour(rng).scene(rng)))):
            spans = [span for span in FACTORS[name].train if isinstance(span, Span)]
            assert any(span.low - 1e-9 <= value <= span.high + 1e-9 for span in spans), (key, name, value)


def scene_values(scene: SceneSpec) -> list[tuple[str, float]]:
    """Return every number of the scene beside its factor's name; fails on a held-out pair."""
    skipped = ("posts", "pusher_x", "pusher_y")
    values = [(name, getattr(scene, name)) for name in FACTORS if hasattr(scene, name) and name not in skipped]
    for body in scene.bodies:
        speed = round(float(np.hypot(body.vx, body.vy)), 9)
        assert not is_held_out_pair(body.colour, body.shape, motion_of(speed))
        values += [("speed", speed), ("radius", body.radius), ("mass", body.mass), ("x", body.x), ("y", body.y)]
    for post in scene.posts:
        values += [("post_x", post.x), ("post_y", post.y), ("post_half_x", post.half_x)]
    return [*values, ("count", len(scene.bodies)), ("posts", len(scene.posts))]


def share(name: str, happened: Callable[[np.ndarray, list[tuple[str, str]]], bool], *, see: bool = False) -> float:
    """Return the share of ten episodes of a behaviour in which something happened."""
    behaviour = next(behaviour for behaviour in BEHAVIOURS if behaviour.name == name)
    return float(np.mean([happened(*play(behaviour, key, see)) for key in range(10)]))


def test_aimed_pushes_hit() -> None:
    """Aimed pushes touch a body in most episodes; where nobody pushes, pusher and bodies seldom meet."""

    def hit(states: np.ndarray, touched: list[tuple[str, str]]) -> bool:
        del states
        return any("pusher" in pair and set(pair) & set(COLOURS) for pair in touched)

    assert share("push_aimed", hit) > 0.6
    assert share("hide", hit) < 0.5


def test_curtain_hides_bodies_and_reveals_them() -> None:
    """When a curtain is played, a body is often hidden for 4 to 16 frames and seen again; likewise when looking away."""

    def hidden_and_back(states: np.ndarray, touched: list[tuple[str, str]]) -> bool:
        del touched
        hidden = (body_slots(states, "visible") < 0.05) & (body_slots(states, "present") > 0.5)
        edges = np.diff(hidden.astype(int), axis=0, prepend=0, append=0)
        for slot in np.flatnonzero(hidden.any(axis=0)):
            begins, ends = np.flatnonzero(edges[:, slot] == 1), np.flatnonzero(edges[:, slot] == -1)
            if np.any((ends - begins >= 4) & (ends - begins <= 16) & (begins > 0) & (ends < len(states))):
                return True
        return False

    assert share("hide", hidden_and_back, see=True) > 0.3
    assert share("look_away", hidden_and_back, see=True) > 0.6


def test_bodies_on_a_collision_course_meet() -> None:
    """Nobody acts in "still", and yet bodies often collide after the lead-in."""

    def collided(states: np.ndarray, touched: list[tuple[str, str]]) -> bool:
        del states
        return any(set(pair) <= set(COLOURS) for pair in touched)

    assert share("still", collided) > 0.25


def test_folded_paths_bounce() -> None:
    """A path that is folded at the walls is the path of a body that bounces there, and damping shortens it."""
    places = np.linspace(-3, 3, 240)
    inside, sign = folded(np.stack([places, np.zeros(240)], axis=1), 0.5)
    assert np.abs(inside).max() <= 0.5
    within = sign[1:, 0] == sign[:-1, 0]  # steps without a bounce
    assert (~within).sum() == 6
    np.testing.assert_allclose((np.diff(inside[:, 0]) / np.diff(places))[within], sign[1:, 0][within], atol=1e-6)
    assert travelled(2.0, 0.0) == 2.0
    assert travelled(2.0, 1.5) == pytest.approx((1 - np.exp(-3)) / 1.5)
