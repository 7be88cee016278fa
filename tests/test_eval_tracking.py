"""Places read off frames, and the tracking error: floors on true frames, and that nothing goes unpunished."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from worldsim.envs.camera import project, ring_pose, unproject
from worldsim.envs.scene import COLOURS
from worldsim.envs.state import body_slots
from worldsim.eval.places import Places, read_places
from worldsim.eval.tracking import CUT_OFF_M, TruePlaces, distance_apart, tracking_error


@pytest.fixture(scope="module")
def arena_frames() -> tuple[np.ndarray, np.ndarray]:
    """Return the first frames (n, h, w, 3) and states (n, s) of 180 scenes."""
    env = gym.make("worldsim:worldsim/Arena-v0", disable_env_checker=True)
    resets = [env.reset(seed=seed) for seed in range(9_100_000, 9_100_180)]
    env.close()
    return np.stack([frame for frame, _ in resets]), np.stack([info["state"] for _, info in resets])


def distances(frames: np.ndarray, states: np.ndarray, visible: float) -> tuple[np.ndarray, float]:
    """Return the distances (m) of the read bodies of which so much is visible, and the share that is read."""
    seen = body_slots(states, "visible") >= visible
    places = read_places(frames, states)
    true = np.stack([body_slots(states, "x"), body_slots(states, "y")], axis=-1)
    away = np.linalg.norm(places.xy - true, axis=-1)
    return away[seen & places.found], float(places.found[seen].mean())


def test_unproject_undoes_project():
    """Points of any height are found again from their picture, and a line of sight upwards meets no floor."""
    rng = np.random.default_rng(0)
    points = rng.uniform((-0.7, -0.7, 0.0), (0.7, 0.7, 0.2), (50, 3))
    pose = ring_pose(77.0, 33.0, 4.0)
    image = project(pose, points, 0.7, 1.5)
    np.testing.assert_allclose(unproject(pose, image, points[:, 2], 0.7, 1.5), points[:, :2], atol=1e-9)
    assert np.isnan(unproject(ring_pose(0.0, 30.0, 45.0), np.zeros((1, 2)), np.zeros(1), 0.7, 1.0)).all()


def test_floor_of_the_read_out(arena_frames: tuple[np.ndarray, np.ndarray]):
    """On true frames the places are right to half a centimetre, nothing visible is missed, and noise costs little."""
    frames, states = arena_frames
    away, recall = distances(frames, states, 0.5)
    assert recall == 1.0 and np.median(away) <= 0.005
    away, _ = distances(frames, states, 0.99)  # what is hidden in part seems to stand a little aside
    assert np.quantile(away, 0.95) <= 0.012
    noisy = frames + np.random.default_rng(0).normal(0, 0.08 * 255, frames.shape)
    away, _ = distances(noisy.clip(0, 255).astype(np.uint8), states, 0.5)
    assert np.median(away) <= 0.008


def test_a_frame_is_read_by_itself(arena_frames: tuple[np.ndarray, np.ndarray]):
    """Many frames at once are read as each one alone, to the last bit, noise and an empty frame among them."""
    frames, states = np.tile(arena_frames[0][:60], (2, 1, 1, 1)), np.tile(arena_frames[1][:60], (2, 1))
    frames[3], frames[70] = 128, np.random.default_rng(0).integers(0, 256, frames[0].shape)
    together = read_places(frames, states)
    for row in range(0, 120, 7):
        alone = read_places(frames[row], states[row])
        assert (alone.found == together.found[row]).all()
        np.testing.assert_array_equal(alone.xy, together.xy[row])
    assert not together.found[3].any()


def case(found: bool, off: float, visibility: float, present: bool = True) -> float:
    """Return the cost of one body, read ``off`` m from its place."""
    slots = len(COLOURS)
    read = Places(found=np.zeros(slots, bool), xy=np.full((slots, 2), np.nan))
    read.found[0] = found
    read.xy[0] = (off, 0.0) if found else np.nan
    truth = TruePlaces(
        present=np.array([present] + [False] * (slots - 1)),
        xy=np.zeros((slots, 2)),
        visibility=np.array([visibility] + [0.0] * (slots - 1)),
    )
    error = tracking_error(read, truth)
    assert error.scored.sum() == (present and not 0.05 < visibility < 0.5)
    return float(error.cost.sum())


def test_every_way_to_be_wrong_costs():
    """Distance, miss, a hidden body shown, a ghost: each has its price; what is half hidden has none."""
    assert case(True, 0.03, 1.0) == pytest.approx(0.03)
    assert case(True, 0.90, 1.0) == CUT_OFF_M
    assert case(False, 0.0, 1.0) == CUT_OFF_M
    assert case(True, 0.0, 0.0) == CUT_OFF_M
    assert case(False, 0.0, 0.0) == 0.0
    assert case(True, 0.0, 0.3) == 0.0
    assert case(True, 0.0, 0.0, present=False) == CUT_OFF_M / 2


def test_scenes_are_summed_apart():
    """Costs and cases of each scene are their own, so that a bootstrap can draw scenes."""
    slots = len(COLOURS)
    read = Places(found=np.zeros((2, 3, slots), bool), xy=np.full((2, 3, slots, 2), np.nan))
    present = np.zeros((2, 3, slots), bool)
    present[0, :, :2] = True
    truth = TruePlaces(present=present, xy=np.zeros((2, 3, slots, 2)), visibility=present.astype(float))
    np.testing.assert_allclose(tracking_error(read, truth).by_scene(), [[6 * CUT_OFF_M, 6], [0, 0]])


def test_how_far_two_readings_are_apart():
    """Bodies both show are apart by their distance up to the cut-off; one that a single reading shows by all of it."""
    truth = TruePlaces(
        present=np.ones((1, 1, 4), bool), xy=np.zeros((1, 1, 4, 2)), visibility=np.array([[[1, 1, 1, 0.3]]])
    )
    one = Places(found=np.array([[[True, True, False, True]]]), xy=np.zeros((1, 1, 4, 2)))
    other = Places(found=np.array([[[True, False, False, True]]]), xy=np.full((1, 1, 4, 2), 0.03))
    np.testing.assert_allclose(distance_apart(one, other, truth), [0.03 * 2**0.5 + CUT_OFF_M])
    np.testing.assert_allclose(distance_apart(one, one, truth), [0])
