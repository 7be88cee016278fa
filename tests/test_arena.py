"""The Arena: Gymnasium's contract, exactness, what actions do, what physics does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from worldsim.envs.arena import ArenaEnv, arena_spec
from worldsim.envs.camera import TILT_STOP, field_of_view, project, ring_pose
from worldsim.envs.controls import ACTION_NAMES, CONTEXT_STEPS, CURTAIN_STEP, ORBIT_STEP, PUSH_SPEED
from worldsim.envs.scene import ENTITY_NAMES, HALF_FLOOR
from worldsim.envs.state import STATE_NAMES, STATE_SIZE, element
from worldsim.envs.tasks import TASKS
from worldsim.errors import UsageError

NULL = np.zeros(len(ACTION_NAMES), np.float32)
TWO = {"pusher_x": -0.6, "pusher_y": -0.6, "posts": 0, "damping": 0.0, "friction": 0.0}  # room for two bodies alone


@pytest.fixture
def arena() -> Iterator[ArenaEnv]:
    """Return a small Arena that draws quickly, closed afterwards."""
    env = ArenaEnv(height=32, width=32)
    yield env
    env.close()


def _action(**rates: float) -> np.ndarray:
    action = NULL.copy()
    for name, rate in rates.items():
        action[ACTION_NAMES.index(name)] = rate
    return action


def _actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, len(ACTION_NAMES))).astype(np.float32)


def _hold(env: ArenaEnv, action: np.ndarray, steps: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Repeat an action and return the last frame and info."""
    results = [env.step(action) for _ in range(steps)]
    return results[-1][0], results[-1][4]


def _velocity(state: np.ndarray, colour: str) -> np.ndarray:
    return np.array([element(state, f"{colour}/vx"), element(state, f"{colour}/vy")], float)


def _pair(x: float = 0.15, **second: Any) -> dict[str, Any]:
    """Return options for a red body that meets a blue one head-on within three steps of the lead-in's end."""
    red = {"colour": "red", "shape": "cylinder", "x": -0.62, "y": 0.0, "vx": 0.5, "radius": 0.09, "mass": 0.5}
    return {**TWO, "bodies": [red, {"colour": "blue", "shape": "sphere", "x": x, "y": 0.0, "speed": 0.0, **second}]}


# ---------------------------------------------------------------- Gymnasium's contract


@pytest.mark.parametrize("task", sorted(TASKS))
def test_passes_gymnasiums_checker(task: str) -> None:
    """Gymnasium's own checker finds nothing wrong, without a single warning."""
    env = gym.make("worldsim/Arena-v0", task=task, height=36, width=36, render_mode="rgb_array")
    check_gymnasium(env.unwrapped)
    env.close()


def test_passes_stable_baselines3s_checker() -> None:
    """Stable-Baselines3's checker finds nothing wrong, without a single warning."""
    env = ArenaEnv(height=36, width=36)
    check_sb3(env)
    env.close()


def test_info_has_the_same_keys_and_shapes_always(arena: ArenaEnv) -> None:
    """Reset and steps give the same info, but for the lead-in and the factors that reset adds."""
    _, first = arena.reset(seed=0)
    *_, second = arena.step(NULL)
    assert set(first) - set(second) == {"context", "factors"} and set(second) <= set(first)
    shapes = {"state": (STATE_SIZE,), "contacts": (16, 3), "camera": (7,), "visibility": (6,)}
    for name, shape in shapes.items():
        assert first[name].shape == second[name].shape == shape
        assert first[name].dtype == second[name].dtype == np.float32


def test_nothing_shares_memory_between_steps(arena: ArenaEnv) -> None:
    """What a step returned is not changed by later steps."""
    seen, info = arena.reset(seed=1)
    kept = seen.copy(), {name: info[name].copy() for name in ("state", "contacts", "camera", "visibility")}
    for action in _actions(3):
        arena.step(action)
    assert np.array_equal(seen, kept[0])
    assert all(np.array_equal(info[name], value) for name, value in kept[1].items())


def test_starts_are_randomised_and_no_element_is_constant(arena: ArenaEnv) -> None:
    """Over some starts and steps, every pixel and every state element takes more than one value."""
    frames, states = [], []
    for seed in range(20):
        options = {"posts": seed % 3, "count": 4, "held_out": ["pairs"] * (seed % 2)}
        _, info = arena.reset(seed=seed, options=options)
        for action in [*_actions(2, seed)] if seed % 4 else [_action(tilt=1), _action(tilt=1), _action(curtain=1)]:
            frame, *_, info = arena.step(action)
            frames.append(frame)
            states.append(info["state"])
    assert (np.ptp(np.stack(frames), axis=0) > 0).all()
    constant = np.ptp(np.stack(states), axis=0) == 0
    assert not constant.any(), [name for name, is_constant in zip(STATE_NAMES, constant, strict=True) if is_constant]


def test_wrong_arguments_name_the_way_out(arena: ArenaEnv) -> None:
    """Unknown tasks, sizes, render modes and options are refused; so is a step before a reset."""
    with pytest.raises(UsageError, match="did you mean 'uncover'"):
        ArenaEnv(task="uncovr")
    with pytest.raises(UsageError, match="pixels"):
        ArenaEnv(height=4)
    with pytest.raises(UsageError, match="rgb_array"):
        ArenaEnv(render_mode="human")
    with pytest.raises(UsageError, match="did you mean 'count'"):
        arena.reset(options={"conut": 2})
    with pytest.raises(gym.error.ResetNeeded):
        ArenaEnv().step(NULL)


@pytest.mark.parametrize("action", [np.zeros(4, np.float32), np.array([0, 0, np.nan, 0, 0], np.float32)])
def test_wrong_actions_are_refused(arena: ArenaEnv, action: np.ndarray) -> None:
    """An action of the wrong shape or with NaN is refused with the names of the right ones."""
    arena.reset(seed=0)
    with pytest.raises(UsageError, match="push_right, push_forward"):
        arena.step(action)


def test_close_may_be_called_twice(arena: ArenaEnv) -> None:
    """Closing twice is fine, also before anything was drawn."""
    ArenaEnv().close()
    arena.reset(seed=0)
    arena.close()
    arena.close()


def test_spec_describes_the_arena(arena: ArenaEnv) -> None:
    """The world spec rebuilds the same world and names every action and state element."""
    spec = arena_spec(arena)
    assert spec.action_names == ACTION_NAMES and spec.frame_shape == (32, 32, 3)
    assert spec.readout("state").names == STATE_NAMES and spec.context_steps == CONTEXT_STEPS
    twin = gym.make(spec.env_id, **spec.env_kwargs)
    assert twin.observation_space == arena.observation_space
    twin.close()


# ---------------------------------------------------------------- exactness


_HASH = """
import hashlib, numpy as np
from worldsim.envs.arena import ArenaEnv
env = ArenaEnv(height=32, width=32)
digest = hashlib.sha256(env.reset(seed=5)[1]["context"]["frames"].tobytes())
for action in np.random.default_rng(0).uniform(-1, 1, (15, 5)).astype(np.float32):
    frame, _, _, _, info = env.step(action)
    digest.update(frame.tobytes() + info["state"].tobytes() + info["contacts"].tobytes())
print(digest.hexdigest())
"""


def test_same_seed_same_bits_also_in_another_process(arena: ArenaEnv) -> None:
    """A seed decides every pixel, state and contact of an episode, bit for bit, in any process."""
    digest = hashlib.sha256(arena.reset(seed=5)[1]["context"]["frames"].tobytes())
    for action in _actions(15):
        frame, *_, info = arena.step(action)
        digest.update(frame.tobytes() + info["state"].tobytes() + info["contacts"].tobytes())
    other = subprocess.run([sys.executable, "-c", _HASH], capture_output=True, text=True, check=True, timeout=120)
    assert other.stdout.strip() == digest.hexdigest()


def test_two_arenas_do_not_disturb_each_other(arena: ArenaEnv) -> None:
    """Stepped in turn, two Arenas of different sizes show what each shows alone."""
    alone = [arena.reset(seed=2)[0], *(arena.step(action)[0] for action in _actions(4))]
    other = ArenaEnv(height=48, width=64)
    mixed = [arena.reset(seed=2)[0]]
    other.reset(seed=9)
    for action in _actions(4):
        other.step(NULL)
        mixed.append(arena.step(action)[0])
    other.close()
    assert np.array_equal(alone, mixed)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_saved_state_has_the_same_past_and_future(arena: ArenaEnv, as_json: bool) -> None:
    """A state restored elsewhere, also from JSON, shows the same context and goes on bit for bit, contacts included."""
    arena.reset(seed=4, options={"count": 3, "friction": 0.02})
    past = [arena.step(action)[0] for action in _actions(12)]
    saved = arena.save_state()
    if as_json:
        saved = json.loads(json.dumps(saved, default=np.ndarray.tolist))
    future = [arena.step(action) for action in _actions(15, seed=1)]
    twin = ArenaEnv(height=32, width=32)
    seen, info = twin.reset(options={"state": saved})
    assert np.array_equal(seen, past[-1])
    assert np.array_equal(info["context"]["frames"][1:], past[-CONTEXT_STEPS:])
    assert np.array_equal(info["context"]["actions"], _actions(12)[-CONTEXT_STEPS:])
    for step, action in zip(future, _actions(15, seed=1), strict=True):
        again = twin.step(action)
        assert np.array_equal(again[0], step[0]) and again[1:4] == step[1:4]
        assert all(np.array_equal(again[4][name], step[4][name]) for name in ("state", "contacts", "camera"))
    twin.close()


def test_a_foreign_state_is_refused(arena: ArenaEnv) -> None:
    """A state that is cut short, or given with other options, is refused and names what it must hold."""
    arena.reset(seed=0)
    saved = arena.save_state()
    with pytest.raises(UsageError, match="history"):
        arena.reset(options={"state": {"scene": saved["scene"]}})
    with pytest.raises(UsageError, match="no other option"):
        arena.reset(options={"state": saved, "count": 1})
    with pytest.raises(UsageError, match="allowed is history"):
        arena.reset(options={"state": {**saved, "history": saved["history"][:, :-4]}})
    with pytest.raises(UsageError, match="scene of a saved state"):
        arena.reset(options={"state": {**saved, "scene": {"bodies": []}}})


# ---------------------------------------------------------------- lead-in and actions


def test_reset_plays_a_lead_in_and_returns_its_last_frame(arena: ArenaEnv) -> None:
    """The context holds ten null actions and eleven frames of moving bodies, the last one being the observation."""
    body = {"colour": "red", "shape": "box", "x": -0.5, "y": 0.3, "vx": 0.5, "vy": 0.0}
    seen, info = arena.reset(seed=0, options={**TWO, "bodies": [body]})
    context = info["context"]
    assert context["frames"].shape == (CONTEXT_STEPS + 1, 32, 32, 3) and context["frames"].dtype == np.uint8
    assert context["states"].shape == (CONTEXT_STEPS + 1, STATE_SIZE)
    assert not context["actions"].any() and not element(context["states"], "curtain/height").any()
    assert np.array_equal(context["frames"][-1], seen) and np.array_equal(context["states"][-1], info["state"])
    np.testing.assert_allclose(element(context["states"], "red/x"), -0.5 + 0.05 * np.arange(11), atol=2e-3)


def test_a_lead_in_can_be_given(arena: ArenaEnv) -> None:
    """The lead-in's actions are an option: here the curtain rises in it."""
    actions = np.stack([_action(curtain=1.0)] * 4 + [NULL] * 6)
    _, info = arena.reset(seed=0, options={"lead_in": actions})
    assert np.array_equal(info["context"]["actions"], actions)
    assert element(info["state"], "curtain/height") == 1


def test_zero_action_changes_nothing_but_physics(arena: ArenaEnv) -> None:
    """Without action and with bodies at rest every frame is the same, to the bit."""
    first, _ = arena.reset(seed=6, options={"speed": 0.0, "count": 3})
    assert all(np.array_equal(arena.step(NULL)[0], first) for _ in range(5))


@pytest.mark.parametrize("azimuth", [0.0, 110.0, 270.0])
def test_push_is_relative_to_the_camera(azimuth: float) -> None:
    """Wherever the camera stands, push_right moves the pusher to the right of the frame and push_forward upwards."""
    env = ArenaEnv(height=32, width=32)
    options = {**TWO, "pusher_x": 0.0, "pusher_y": 0.0, "bodies": [{"x": 0.6, "y": 0.6}], "camera_azimuth": azimuth}
    pose, fovy = ring_pose(azimuth, 40.0, 0.0), field_of_view(1.0, HALF_FLOOR)
    for name, axis in (("push_right", 0), ("push_forward", 1)):
        env.reset(seed=0, options={**options, "camera_elevation": 40.0})
        _, info = _hold(env, _action(**{name: 1.0}), 4)
        place = np.array([[element(info["state"], "pusher/x"), element(info["state"], "pusher/y"), 0.0]], float)
        moved = project(pose, place, fovy, 1.0)[0]
        assert moved[axis] > 0.1 and abs(moved[1 - axis]) < 0.02
        assert 0.85 * PUSH_SPEED * 0.4 < np.linalg.norm(place) < PUSH_SPEED * 0.4
    env.close()


def test_camera_and_curtain_are_rates_with_stops(arena: ArenaEnv) -> None:
    """Orbit, tilt and curtain move by their step and stop at their ends."""
    arena.reset(seed=0, options={"camera_azimuth": 350.0})
    *_, info = arena.step(_action(orbit=1.0, tilt=-1.0, curtain=-1.0))
    assert np.degrees(info["camera"][3]) == pytest.approx(350 + ORBIT_STEP - 360, abs=1e-3)
    assert info["camera"][5] == 0 and element(info["state"], "curtain/height") == 0
    *_, info = arena.step(_action(curtain=1.0))
    assert element(info["state"], "curtain/height") == pytest.approx(CURTAIN_STEP)
    _, info = _hold(arena, _action(tilt=1.0, curtain=1.0), 5)
    assert np.degrees(info["camera"][5]) == pytest.approx(TILT_STOP)
    assert element(info["state"], "curtain/height") == 1


# ---------------------------------------------------------------- physics


@pytest.mark.parametrize("shape", ["sphere", "box", "cylinder"])
def test_collisions_are_nearly_elastic_and_keep_momentum(arena: ArenaEnv, shape: str) -> None:
    """Equal bodies swap their speeds in a central hit, losing under 5 % of their energy and no momentum."""
    _, info = arena.reset(seed=0, options=_pair(shape=shape, radius=0.09, mass=0.5))
    before = _velocity(info["context"]["states"][0], "red")
    _, info = _hold(arena, NULL, 3)
    red, blue = _velocity(info["state"], "red"), _velocity(info["state"], "blue")
    np.testing.assert_allclose(red + blue, before, atol=1e-4)
    assert red @ red + blue @ blue > 0.95 * before @ before
    assert blue[0] > 0.45


def test_contacts_are_timed_at_the_physics_step(arena: ArenaEnv) -> None:
    """The first touch is reported for the right pair at the time that geometry predicts, to two physics steps."""
    _, info = arena.reset(seed=0, options=_pair(radius=0.09))
    red_x = float(element(info["state"], "red/x"))
    wait = (0.15 - 0.18 - red_x) / 0.5
    contacts = np.stack([arena.step(NULL)[4]["contacts"] for _ in range(4)])
    step = int(np.argmax(contacts[:, 0, 0] >= 0))
    rows = contacts[step][contacts[step, :, 0] >= 0]
    assert [ENTITY_NAMES[int(index)] for index in rows[0, 1:]] == ["red", "blue"]
    assert step * 0.1 + rows[0, 0] == pytest.approx(wait, abs=0.0041)
    assert (contacts[step, len(rows) :] == -1).all()


@pytest.mark.parametrize(("options", "share"), [({"damping": 1.5}, np.exp(-1.5)), ({"damping": 0.35}, np.exp(-0.35))])
def test_damping_is_a_rate_whatever_the_mass(arena: ArenaEnv, options: dict[str, Any], share: float) -> None:
    """After one second the speed is exp(-damping) of what it was, for light and heavy bodies."""
    bodies = [
        {"colour": "red", "x": -0.5, "y": 0.3, "vx": 0.4, "vy": 0.0, "mass": 0.3},
        {"colour": "green", "x": -0.5, "y": -0.2, "vx": 0.4, "vy": 0.0, "mass": 0.9},
    ]
    _, info = arena.reset(seed=0, options={**TWO, "bodies": bodies, **options})
    for colour in ("red", "green"):
        assert _velocity(info["state"], colour)[0] == pytest.approx(0.4 * share, rel=0.01)


def test_friction_stops_a_body_along_its_way(arena: ArenaEnv) -> None:
    """Coulomb friction takes mu g from the speed each second, without bending the path."""
    body = {"colour": "red", "shape": "sphere", "x": -0.4, "y": -0.3, "vx": 0.4, "vy": 0.3}
    _, info = arena.reset(seed=0, options={**TWO, "bodies": [body], "friction": 0.03})
    velocity = _velocity(info["state"], "red")
    assert np.linalg.norm(velocity) == pytest.approx(0.5 - 0.03 * 9.81, abs=0.005)
    assert velocity[1] / velocity[0] == pytest.approx(0.75, abs=1e-3)


def test_pusher_pushes_and_the_push_dies_within_two_seconds(arena: ArenaEnv) -> None:
    """A body is carried along by the pusher and comes to rest within two seconds of being let go."""
    body = {"colour": "red", "shape": "cylinder", "x": -0.2, "y": 0.0, "speed": 0.0, "radius": 0.09}
    options = {**TWO, "bodies": [body], "pusher_x": -0.5, "pusher_y": 0.0, "damping": 1.5, "camera_azimuth": 270.0}
    arena.reset(seed=0, options=options)
    _, info = _hold(arena, _action(push_right=1.0), 6)
    assert _velocity(info["state"], "red")[0] > 0.5
    _, info = _hold(arena, NULL, 20)
    assert element(info["state"], "red/x") > 0.1
    assert np.linalg.norm(_velocity(info["state"], "red")) < 0.06


def test_the_curtain_touches_nothing(arena: ArenaEnv) -> None:
    """A body slides through the risen curtain as if it were not there."""
    body = {"colour": "red", "shape": "box", "x": -0.55, "y": 0.0, "vx": 0.5, "vy": 0.0}
    curtain = {"curtain_x": 0.0, "curtain_y": 0.0, "curtain_angle": 90.0 - 1e-9, "curtain_half_width": 0.3}
    _, info = arena.reset(seed=0, options={**TWO, **curtain, "bodies": [body], "curtain_height": 1.0})
    _, info = _hold(arena, NULL, 8)
    assert _velocity(info["state"], "red") == pytest.approx([0.5, 0.0], abs=1e-6)


# ---------------------------------------------------------------- without OpenGL


@pytest.mark.parametrize("backend", ["", "egl"])
def test_without_opengl_the_error_names_the_packages(backend: str) -> None:
    """Where no OpenGL can be had, an Arena can be made but its first frame names the packages to install."""
    code = "from worldsim.envs.arena import ArenaEnv; env = ArenaEnv(); print('made'); env.reset(seed=0)"
    hidden = {"MUJOCO_GL": backend, "MUJOCO_EGL_DEVICE_ID": "99", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | hidden, timeout=120, check=False
    )
    assert run.returncode == 1 and "UsageError" in run.stderr and "libegl1 libgl1" in run.stderr
    assert "made" in run.stdout
