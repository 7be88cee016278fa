"""What can be seen of the Arena: camera, colours, visibility, depth, shadows and the curtain."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from worldsim.envs.arena import ArenaEnv
from worldsim.envs.camera import ELEVATION_RANGE, field_of_view, project, ring_pose
from worldsim.envs.controls import ACTION_NAMES
from worldsim.envs.scene import COLOURS, ENTITY_NAMES, HALF_FLOOR, PALETTE, SceneSpec
from worldsim.envs.state import STATE_NAMES, element
from worldsim.errors import UsageError


def _action(**rates: float) -> np.ndarray:
    return np.array([rates.get(name, 0.0) for name in ACTION_NAMES], np.float32)


def _hold(env: ArenaEnv, action: np.ndarray, steps: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Repeat an action and return the last frame and info."""
    results = [env.step(action) for _ in range(steps)]
    return results[-1][0], results[-1][4]


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_the_whole_floor_is_in_view_from_everywhere(aspect: float) -> None:
    """Untilted, the camera holds all four corners of the floor in the frame, and fills most of one direction."""
    corners = HALF_FLOOR * np.array([[x, y, 0.0] for x in (-1, 1) for y in (-1, 1)])
    fovy = field_of_view(aspect, HALF_FLOOR)
    poses = [ring_pose(float(a), e, 0.0) for a in range(0, 360, 5) for e in np.linspace(*ELEVATION_RANGE, 5).tolist()]
    reach = np.array([np.abs(project(pose, corners, fovy, aspect)).max(axis=0) for pose in poses])
    assert (reach <= 1).all() and reach.max() > 0.95


def test_the_upper_stop_is_a_look_away() -> None:
    """Tilted to its stop the camera sees sky alone, at every elevation and with the curtain risen; then it comes back."""
    env = ArenaEnv(segmentation=True, height=32, width=32)
    for elevation in ELEVATION_RANGE:
        before, _ = env.reset(seed=3, options={"camera_elevation": elevation, "curtain_height": 1.0, "speed": 0.0})
        _, info = _hold(env, _action(tilt=1.0), 3)
        assert not info["segmentation"].any() and not info["visibility"].any()
        after, _ = _hold(env, _action(tilt=-1.0), 3)
        assert np.array_equal(before, after)
    env.close()


def test_only_bodies_have_colour_and_each_its_own() -> None:
    """Pixels away from bodies are grey; the pixels of a body point to its palette colour."""
    env = ArenaEnv(segmentation=True)
    first_body = ENTITY_NAMES.index(COLOURS[0])
    for seed in range(6):
        frame, info = env.reset(seed=seed, options={"count": 3})
        chroma = frame.astype(float) - frame.mean(axis=2, keepdims=True)
        is_body = info["segmentation"] >= first_body
        near = np.pad(is_body, 1)
        near = np.any([near[i : i + 64, j : j + 64] for i in range(3) for j in range(3)], axis=0)
        assert np.abs(chroma[~near]).max() <= 2
        for slot, colour in enumerate(COLOURS):
            pixels = chroma[info["segmentation"] == first_body + slot]
            if len(pixels) >= 5:
                tint = np.array(PALETTE[colour]) - np.mean(PALETTE[colour])
                mean = pixels.mean(axis=0)
                assert mean @ tint / np.linalg.norm(mean) / np.linalg.norm(tint) > 0.95
    env.close()


def test_visibility_is_the_visible_share_of_the_pixels() -> None:
    """The share agrees with counting a body's pixels with the risen curtain against those without it."""
    env = ArenaEnv(segmentation=True, height=160, width=160)
    scene = {"count": 3, "speed": 0.0, "posts": 0, "curtain_half_width": 0.3}
    partial = 0
    for seed in range(8):
        _, down = env.reset(seed=seed, options=scene)
        _, risen = env.reset(seed=seed, options={**scene, "curtain_height": 1.0})
        for slot, colour in enumerate(COLOURS):
            entity = ENTITY_NAMES.index(colour)
            count = (down["segmentation"] == entity).sum()
            if down["visibility"][slot] < 0.99:
                continue
            share = (risen["segmentation"] == entity).sum() / count
            assert risen["visibility"][slot] == pytest.approx(share, abs=0.06)
            partial += 0.05 < share < 0.95
    assert partial > 0
    env.close()


def test_depth_is_metric() -> None:
    """The floor's middle is as far as the camera's ring, and the sky farther than anything."""
    env = ArenaEnv(depth=True, segmentation=True, height=65, width=65)
    body = {"colour": "red", "x": 0.55, "y": 0.55, "speed": 0.0}
    _, info = env.reset(
        seed=0,
        options={"bodies": [body], "pusher_x": -0.6, "pusher_y": -0.6, "posts": 0, "curtain_x": -0.3, "curtain_y": 0.3},
    )
    assert info["depth"][32, 32] == pytest.approx(3.0, abs=0.06)
    assert info["depth"][info["segmentation"] == 0].min() > info["depth"][info["segmentation"] > 0].max()
    env.close()


def test_shadows_can_be_switched_off() -> None:
    """Without shadows the same scene has the same state and a brighter floor somewhere, never a darker one."""
    frames = []
    for shadows in (True, False):
        env = ArenaEnv(shadows=shadows, height=32, width=32)
        frame, info = env.reset(seed=1)
        frames.append((frame.astype(int), info["state"]))
        env.close()
    assert np.array_equal(frames[0][1], frames[1][1])
    gain = frames[1][0] - frames[0][0]
    assert gain.max() > 20 and gain.min() >= -3


def test_uncover_starts_hidden_and_can_be_solved_by_the_curtain() -> None:
    """The curtain rises in the lead-in, before which the target could be seen; lowering it again solves the task."""
    env = ArenaEnv(task="uncover", height=32, width=32)
    seen_before = 0
    for seed in range(4):
        _, info = env.reset(seed=seed)
        slot = int(np.argmax(info["visibility"] * 0 + [element(info["state"], f"{c}/present") for c in COLOURS]))
        assert info["visibility"][slot] <= 0.05 and not info["is_success"]
        assert info["context"]["actions"][-4:, ACTION_NAMES.index("curtain")].tolist() == [1, 1, 1, 1]
        seen_before += info["context"]["states"][0][STATE_NAMES.index(f"{COLOURS[slot]}/visible")] > 0.5
        solved = [env.step(_action(curtain=-1.0))[2] for _ in range(4)]
        assert solved[-1] or seen_before < seed + 1
    assert seen_before >= 3
    env.close()


def test_what_was_not_drawn_can_be_drawn_later() -> None:
    """Undrawn, an episode goes the same way in black; its moments then give the frames that it would have shown."""
    env = ArenaEnv(height=32, width=32)
    actions = np.random.default_rng(0).uniform(-1, 1, (12, len(ACTION_NAMES))).astype(np.float32)

    def played() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        frame, info = env.reset(seed=4)
        frames, states, moments = [*info["context"]["frames"]], [info["state"]], [*env.save_state()["history"]]
        assert np.array_equal(frames[-1], frame)
        for action in actions:
            frame, _, _, _, info = env.step(action)
            frames.append(frame)
            states.append(info["state"])
            moments.append(env.moment)
        return np.stack(frames), np.stack(states), np.stack(moments)

    with env.undrawn():
        black, states, moments = played()
    frames, again, _ = played()
    assert not black.any() and frames.any() and np.array_equal(states, again)
    before = env.moment
    assert np.array_equal(env.frames_of(SceneSpec.from_json(env.save_state()["scene"]), moments), frames)
    assert np.array_equal(env.moment, before)
    env.close()


def test_an_environment_is_of_the_thread_that_draws_with_it() -> None:
    """Another thread is told so while the first one draws with it; once it is closed there, it goes on in the other."""
    env = ArenaEnv(height=32, width=32)
    env.reset(seed=0)
    said: list[str] = []

    def draw() -> None:
        try:
            env.step(_action())
            env.close()
            said.append("drawn")
        except UsageError as error:
            said.append(str(error))

    for close in (False, True):
        if close:
            env.close()
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
    assert "thread" in said[0] and "close()" in said[0] and said[1] == "drawn"
