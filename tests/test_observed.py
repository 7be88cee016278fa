"""What worlds tell beside their pictures is recorded row by row, and actions may be held for several of their steps."""

# MuJoCo's bindings carry no type stubs:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

import worldsim
from worldsim.agents.planner import PlanSettings
from worldsim.dataset import EpisodeDataset
from worldsim.envs.adapt import FrameWrapper, make_environment
from worldsim.envs.gl import mujoco
from worldsim.envs.record import record, recording_header
from worldsim.errors import UsageError
from worldsim.eval.planning import plan
from worldsim.train import TrainConfig, train

JOINTS = """<mujoco><worldbody>
<body><freejoint name="float"/><geom size=".1"/></body>
<body pos="1 0 0"><joint type="ball"/><geom size=".1"/></body>
<body pos="2 0 0"><joint name="rail" type="slide"/><geom size=".1"/>
<body pos="0 0 1"><joint name="elbow" type="hinge"/><geom size=".1"/></body></body>
</worldbody></mujoco>"""


class Climb(gym.Env):
    """Counts its steps, shows them as a shade, rewards each with the action, and ends after seven."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, render_mode: str | None = None, ending: int = 7) -> None:
        self.render_mode, self.ending, self.count = render_mode, ending, 0
        self.observation_space: gym.Space[Any] = Box(0, 100, (2,), np.float32)
        self.action_space = Box(-1, 1, (1,), np.float32)

    def seen(self) -> Any:
        """Return the count, and how far it is to the end."""
        return np.array([self.count, self.ending - self.count], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin at nothing."""
        super().reset(seed=seed)
        self.count = 0
        return self.seen(), {}

    def step(self, action: np.ndarray) -> Any:
        """Count."""
        self.count += 1
        return self.seen(), float(action[0]), self.count >= self.ending, False, {}

    def render(self) -> Any:
        """Return a picture that grows brighter."""
        return np.full((64, 64, 3), 10 * self.count, np.uint8)


class Robot(Climb):
    """The same with its picture and two rows of numbers in a Dict."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        parts = {"camera": Box(0, 255, (32, 32, 3), np.uint8), "arm": Box(-9, 9, (2,)), "touch": Box(0, 1, (1,))}
        self.observation_space = Dict(parts)

    def seen(self) -> Any:
        """Return everything, or a touch that is no number."""
        touch = np.nan if self.broken and self.count else self.count / 10
        shown = {"arm": np.array([self.count, -1], np.float32), "touch": np.array([touch], np.float32)}
        return {"camera": np.full((32, 32, 3), self.count, np.uint8), **shown}


class Joints(Climb):
    """A MuJoCo world of all kinds of joints, which moves by itself."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.model = mujoco.MjModel.from_xml_string(JOINTS)
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Fall from a place that the seed decides."""
        begun = super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qvel[:] = self.np_random.uniform(-1, 1, self.model.nv)
        return begun

    def step(self, action: np.ndarray) -> Any:
        """Let MuJoCo go on."""
        mujoco.mj_step(self.model, self.data)
        return super().step(action)


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    """Register the worlds of this file."""
    kinds: tuple[Any, ...] = (Climb, Robot, Joints)
    for kind in kinds:
        gym.register(f"test/{kind.__name__}-v0", entry_point=kind, max_episode_steps=50)


def test_an_action_may_be_held_for_several_steps(tmp_path: Path) -> None:
    """Frame skip works where the world knows nothing of it: rewards add up, and an ending in between ends the episode."""
    kwargs = {"frame_skip": 3}
    spec = recording_header("test/Climb-v0", kwargs, 20, 0).spec
    assert spec.frame_rate_hz == 4 and spec.env_kwargs == kwargs
    record("test/Climb-v0", out=tmp_path, episodes=1, steps=20, workers=1, env_kwargs=kwargs)
    episode = EpisodeDataset.open(tmp_path).episode(0)
    assert episode.readouts["observation"][:, 0].tolist() == [0, 3, 6, 7]  # what is seen is the last of the three
    assert episode.frames[:, 0, 0, 0].tolist() == [0, 30, 60, 70]
    np.testing.assert_allclose(episode.rewards, episode.actions[:, 0] * [3, 3, 1], rtol=1e-6)
    assert episode.terminated.tolist() == [False, False, True]


@pytest.mark.parametrize("skip", [0, 2.5, "3"])
def test_a_frame_skip_that_is_none_is_named(skip: Any) -> None:
    """Nothing but a whole number of steps can be skipped."""
    with pytest.raises(UsageError, match="frame_skip"):
        make_environment("test/Climb-v0", {"frame_skip": skip})
    with pytest.raises(UsageError, match="frame_jump"):  # other unknown arguments are still refused
        make_environment("test/Climb-v0", {"frame_jump": 2})


def test_pictures_and_numbers_of_a_dict_are_told_apart(tmp_path: Path) -> None:
    """The image of a Dict is the frame, its vectors are one named column, which a model learns and a dream tells."""
    record("test/Robot-v0", out=tmp_path / "data", episodes=20, steps=6, workers=1)
    dataset = EpisodeDataset.open(tmp_path / "data")
    (told,) = dataset.spec.readouts
    assert told.name == "observation" and told.names == ("arm_0", "arm_1", "touch_0")
    episode = dataset.episode(0)
    assert episode.frames[:, 0, 0, 0].tolist() == list(range(7))
    np.testing.assert_allclose(episode.readouts["observation"][3], [3, -1, 0.3], rtol=1e-6)
    config = TrainConfig(frames_per_step=4, clip_frames=(2,), clip_shares=(1.0,))
    train(tmp_path / "data", tmp_path / "run", preset="nano", steps=1, config=config, progress=False)
    dream = gym.make("worldsim/Dream-v0", checkpoint=str(tmp_path / "run"))
    dream.reset(seed=0)
    assert dream.step(dream.action_space.sample())[4]["observation"].shape == (3,)
    assert worldsim.load(tmp_path / "run").spec == dataset.spec
    settings = PlanSettings(horizon=2, hold=1, replan=1, candidates=3, iterations=1)
    results = plan(tmp_path / "run", tmp_path / "plan", starts=2, settings=settings, planner="cem", workers=1)
    assert list(results["agents"]) == ["random", "still", "dream"] and results["world"] == "test/Robot-v0"
    assert -7 <= results["agents"]["dream"]["return"]["value"] <= 7
    still, dream = (results["agents"][name] for name in ("still", "dream"))
    assert still["returns"] == [0, 0] and dream["over_still"]["value"] == pytest.approx(dream["return"]["value"])
    assert results["agents"]["dream"]["steps_when_reached"] == 7  # the true world ends after seven steps, whoever acts
    text = (tmp_path / "plan" / "report.md").read_text()
    assert (
        "| random | " in text
        and "more than doing nothing |" in text
        and "Return is the sum" in text
        and (tmp_path / "plan" / "dream_0.webp").is_file()
    )
    with pytest.raises(UsageError, match=r"task.*reward"):
        plan(tmp_path / "run", tmp_path / "plan", task="push")
    with pytest.raises(UsageError, match=r"agents.*truth"):
        plan(tmp_path / "run", tmp_path / "plan", agents="truth")


def test_an_agent_sees_a_world_as_it_sees_its_dreams() -> None:
    """Frames are the observation, the named numbers are in info, and the lead-in is the first frame alone."""
    env = FrameWrapper(make_environment("test/Climb-v0", {"ending": 2}))
    frame, info = env.reset(seed=1)
    assert env.observation_space.contains(frame) and frame.max() == 0
    np.testing.assert_array_equal(info["context"]["frames"], frame[None])
    assert info["context"]["actions"].shape == (0, 1) and info["observation"].tolist() == [0, 2]
    frame, reward, terminated, _, info = env.step(np.array([0.5], np.float32))
    assert (frame.max(), reward, terminated, info["observation"].tolist()) == (10, 0.5, False, [1, 1])


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    """A model cannot learn to tell what is no number: recording says which column holds it."""
    with pytest.raises(UsageError, match=r"observation.*finite"):
        record("test/Robot-v0", out=tmp_path, episodes=1, steps=3, workers=1, env_kwargs={"broken": True})


def test_true_states_of_mujoco_worlds_are_recorded(tmp_path: Path) -> None:
    """Positions and speeds are MuJoCo's own, named joint by joint, with units."""
    record("test/Joints-v0", out=tmp_path, episodes=1, steps=5, workers=1)
    dataset = EpisodeDataset.open(tmp_path)
    places, speeds = dataset.spec.readouts
    assert (places.name, speeds.name) == ("qpos", "qvel")
    assert places.names[5:] == ("float_5", "float_6", "joint1_0", "joint1_1", "joint1_2", "joint1_3", "rail", "elbow")
    assert (places.units[0], places.units[-2:], speeds.units[-2:]) == ("m", ("m", "rad"), ("m/s", "rad/s"))
    episode = dataset.episode(0)
    env = make_environment("test/Joints-v0", {})
    env.reset(seed=episode.seed)
    data = env.unwrapped.data  # type: ignore[attr-defined]
    for t, action in enumerate(episode.actions):
        np.testing.assert_array_equal(episode.readouts["qpos"][t], data.qpos.astype(np.float32))
        np.testing.assert_array_equal(episode.readouts["qvel"][t], data.qvel.astype(np.float32))
        env.step(action)
