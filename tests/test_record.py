"""Recording: aligned episodes, resumed after a kill to the same bytes, of any world with RGB frames."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest

from worldsim.dataset import EpisodeDataset
from worldsim.envs.actions import FlatActions
from worldsim.envs.adapt import frame_of, make_environment
from worldsim.envs.arena import CONTEXT_STEPS, ArenaEnv, arena_spec
from worldsim.envs.collect import collect
from worldsim.envs.record import record, record_shards, recording_header
from worldsim.envs.scene import COLOURS, ENTITY_NAMES
from worldsim.envs.state import body_slots, element
from worldsim.envs.tasks import TASKS
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec

ARENA = "worldsim/Arena-v0"
STEPS, EPISODES = 13, 5


def record_small(folder: Path, episodes: int = EPISODES, workers: int = 1, seed: int = 0) -> dict[str, Any]:
    """Record a few short Arena episodes, two a shard."""
    header = recording_header(ARENA, {}, STEPS, seed)
    return record_shards(folder, header, episodes, workers=workers, episodes_per_shard=2)


class Lamp(gym.Env):
    """A world whose rendering is as bright as its last action; terminates when that is above 0.9."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, render_mode: str | None = None, height: int = 100, limit: float = 0.9) -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32))
        self._height, self._limit, self._light = height, limit, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Light the lamp at random."""
        super().reset(seed=seed, options=options)
        self._light = float(self.np_random.uniform(-0.5, 0.5))
        return np.array([self._light], np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        """Light it as the action says."""
        self._light = float(action[0])
        return np.array([self._light], np.float32), self._light, self._light > self._limit, False, {}

    def render(self) -> np.ndarray:
        """Return a picture as bright as the lamp."""
        return np.full((self._height, 2 * self._height, 3), round(100 + 100 * self._light), np.uint8)


def follow(observation: np.ndarray) -> np.ndarray:
    """Light the lamp half as bright again as it is."""
    return np.array([0.5 * observation[0], 1.0])


def wrong_shape(observation: np.ndarray) -> np.ndarray:
    """Return too many numbers."""
    del observation
    return np.zeros(3)


class Blind(Lamp):
    """The same without any picture."""

    metadata = {"render_modes": [], "render_fps": 5}  # noqa: RUF012


class Dimmer(Lamp):
    """The same with one choice among three: dark, middle, bright."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = gym.spaces.Discrete(3)

    def step(self, action: Any) -> Any:
        """Light it as was chosen."""
        assert self.action_space.contains(action)
        return super().step(np.array([{0: -1.0, 1: 0.0, 2: 0.5}[int(action)]]))


class Wordy(Lamp):
    """The same with actions that are words."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = gym.spaces.Text(5)


class Growing(Lamp):
    """The same with a picture that becomes wider from step to step, or from episode to episode."""

    def __init__(self, render_mode: str | None = None, *, within: bool = True) -> None:
        super().__init__(render_mode)
        self.within, self.width = within, 64

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin, wider than before if episodes differ."""
        self.width += 0 if self.within else 64
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """Step, and grow if steps differ."""
        self.width += 64 if self.within else 0
        return super().step(action)

    def render(self) -> np.ndarray:
        """Return a grey picture."""
        return np.full((64, self.width, 3), 100, np.uint8)


WORLDS = (Lamp, Blind, Dimmer, Wordy, Growing)


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    """Register the toy worlds for this module."""
    for world in WORLDS:
        gym.register(f"test/{world.__name__}-v0", entry_point=lambda world=world, **kwargs: world(**kwargs))
    yield
    for world in WORLDS:
        del gym.registry[f"test/{world.__name__}-v0"]


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five short Arena episodes, recorded in this process."""
    folder = tmp_path_factory.mktemp("recording")
    record_small(folder)
    return folder


def test_episode_is_what_the_arena_showed(recording: Path) -> None:
    """Replaying the recorded actions in the recorded scene gives the recorded frames, states and rewards, bit for bit."""
    dataset = EpisodeDataset.open(recording)
    assert dataset.spec == arena_spec(ArenaEnv())
    env = make_environment(ARENA, {})
    again = collect(env, seed=0, episode_id=3, steps=13)
    env.close()
    for i in dataset.episode_ids():
        episode = dataset.episode(i)
        states = episode.readouts["state"]
        assert episode.frames.shape == (14, 64, 64, 3)
        assert not episode.actions[:CONTEXT_STEPS].any(), "the lead-in is still"
        np.testing.assert_allclose(episode.rewards, TASKS["push"].reward(states[1:]), atol=1e-6)
        np.testing.assert_array_equal(episode.terminated, TASKS["push"].terminated(states[1:]))
        np.testing.assert_array_equal(episode.extras["is_success"], episode.terminated)
        np.testing.assert_array_equal(episode.readouts["visibility"], body_slots(states, "visible"))
        np.testing.assert_allclose(
            np.sin(episode.readouts["camera"][:, 3]), element(states, "camera/azimuth_sin"), atol=1e-5
        )
    episode = dataset.episode(3)
    np.testing.assert_array_equal(again.frames, episode.frames)
    np.testing.assert_array_equal(again.actions, episode.actions)
    np.testing.assert_array_equal(again.readouts["state"], episode.readouts["state"])
    assert episode.frames.std() > 10 and (np.diff(episode.frames.astype(int), axis=0) != 0).any()


def test_contacts_name_what_touched() -> None:
    """A recorded touch of pusher and body lies at a step at whose end or beginning they are close."""
    env = make_environment(ARENA, {})
    touches = 0
    for i in range(12):
        episode = collect(env, seed=3, episode_id=i, steps=30)
        state = episode.readouts["state"]
        for step, rows in enumerate(episode.extras["contacts"]):
            for _, first, second in rows[rows[:, 0] >= 0]:
                names = {ENTITY_NAMES[int(first)], ENTITY_NAMES[int(second)]}
                if "pusher" in names and names & set(COLOURS):
                    colour = (names & set(COLOURS)).pop()
                    gaps = [
                        np.hypot(*(element(state[t], f"{colour}/{a}") - element(state[t], f"pusher/{a}") for a in "xy"))
                        for t in (step, step + 1)
                    ]
                    assert min(gaps) < 0.3
                    touches += 1
    env.close()
    assert touches > 0


def test_resumed_recording_equals_an_unbroken_one(recording: Path, tmp_path: Path) -> None:
    """After a SIGKILL at work, running the same command again keeps whole shards and ends with the same bytes."""
    code = (
        "from pathlib import Path; from worldsim.envs.record import record_shards, recording_header;"
        f"record_shards(Path({str(tmp_path)!r}), recording_header({ARENA!r}, {{}}, {STEPS}, 0), {EPISODES},"
        "workers=1, episodes_per_shard=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    first = tmp_path / "shards" / "00000.hdf5"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stamp = first.stat().st_mtime_ns
    (tmp_path / "shards" / "00001.tmp").write_bytes(b"half a shard")
    results = record_small(tmp_path)
    assert first.stat().st_mtime_ns == stamp, "a whole shard is kept"
    assert results["episodes"] == 5 and 0 < results["frames_recorded_now"] <= 3 * 14
    assert shard_bytes(tmp_path) == shard_bytes(recording)
    for name in ("main_data.hdf5", "metadata.json"):
        assert (tmp_path / name).read_bytes() == (recording / name).read_bytes()


def test_parallel_recording_is_the_same_and_may_be_extended(recording: Path, tmp_path: Path) -> None:
    """Two processes give the bytes that one gives; asking for more episodes adds to what is there."""
    results = record_small(tmp_path, episodes=4, workers=2)
    assert results["workers"] == 2
    record_small(tmp_path)
    assert shard_bytes(tmp_path) == shard_bytes(recording)


def test_results_are_written_beside_the_data(recording: Path, tmp_path: Path) -> None:
    """The folder says how fast it was recorded and on what; running again with nothing to do leaves that alone."""
    before = (recording / "results.json").read_text()
    results = json.loads(before)
    assert results["frames"] == 5 * 14 and results["frames_per_second"] > 0 and results["machine"]["cores"] >= 1
    again = record_small(recording)
    assert again["frames_recorded_now"] == 0 and again["frames_per_second"] is None
    assert (recording / "results.json").read_text() == before


def test_depth_is_recorded_when_asked_for(tmp_path: Path) -> None:
    """With depth=True every scripted frame has a depth map in metres; the lead-in's, never drawn, is NaN."""
    record(ARENA, out=tmp_path, episodes=1, steps=STEPS, env_kwargs={"depth": True, "height": 32, "width": 48})
    episode = EpisodeDataset.open(tmp_path).episode(0)
    depth = episode.readouts["depth"]
    assert depth.shape == (14, 32, 48) and episode.frames.shape == (14, 32, 48, 3)
    assert np.isnan(depth[:CONTEXT_STEPS]).all()
    assert 1.0 < depth[CONTEXT_STEPS:].min() < 4.0


def test_any_environment_with_pictures_can_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random actions within bounds, pictures aligned with them, episodes that end where the world ends; Minari reads it."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    folder = tmp_path / "worldsim" / "lamp-v0" / "data"
    record("test/Lamp-v0", out=folder, episodes=20, steps=30, workers=1)
    dataset = EpisodeDataset.open(folder)
    assert dataset.spec.frame_shape == (64, 128, 3) and dataset.spec.context_steps == 0
    assert dataset.spec.frame_rate_hz == 5 and dataset.spec.action_high == (1.0, 2.0)
    lengths, held = set(), []
    for i in dataset.episode_ids():
        episode = dataset.episode(i)
        light = episode.actions[:, 0]
        assert episode.actions.min() >= -1 and episode.actions[:, 1].min() >= 0
        np.testing.assert_array_equal(episode.frames[1:, 0, 0, 0], np.round(100 + 100 * light.astype(float)))
        np.testing.assert_array_equal(episode.rewards, light)
        np.testing.assert_array_equal(episode.terminated, light > 0.9)
        assert not episode.terminated[:-1].any()
        lengths.add(episode.num_steps)
        held.append(np.diff(light) == 0)
    assert max(lengths) == 30 and min(lengths) < 30
    assert 0.5 < np.mean(np.concatenate(held)) < 0.8, "piecewise constant, for a short time or a long one"
    loaded = minari.load_dataset("worldsim/lamp-v0")
    np.testing.assert_array_equal(loaded[7].observations, dataset.episode(7).frames)


def test_the_same_seed_shows_the_same_frames_whatever_was_drawn_before() -> None:
    """Gymnasium's MuJoCo worlds aim their camera at what they first draw, and draw where the last one did: not here."""
    worlds = [make_environment("InvertedPendulum-v5", {"width": 128, "height": 128}) for _ in range(2)]
    for seed, env in enumerate(worlds):
        frame_of(env, env.reset(seed=seed)[0])
    one, other = (frame_of(env, env.reset(seed=3)[0]) for env in worlds)
    assert one.any() and np.array_equal(one, other)
    for env in worlds:
        env.close()


def test_choices_are_recorded_as_rows(tmp_path: Path) -> None:
    """A discrete world is driven by random choices, and each is a row with a one where it was chosen."""
    record("test/Dimmer-v0", out=tmp_path, episodes=6, steps=20, workers=1)
    dataset = EpisodeDataset.open(tmp_path)
    assert dataset.spec.action_names == ("action_is_0", "action_is_1", "action_is_2")
    assert dataset.spec.action_choices == (3,)
    assert WorldSpec.from_json(json.loads(json.dumps(dataset.spec.to_json()))) == dataset.spec
    actions = np.concatenate([dataset.episode(i).actions for i in dataset.episode_ids()])
    assert set(map(tuple, actions.tolist())) == set(map(tuple, np.eye(3).tolist()))
    lights = np.concatenate([dataset.episode(i).frames[1:, 0, 0, 0] for i in dataset.episode_ids()])
    np.testing.assert_array_equal(lights, actions @ np.array([0, 100, 150]))


def test_a_function_may_drive(tmp_path: Path) -> None:
    """A function of the user's own is asked at every step with what the world shows, and played as it is."""
    record("test/Lamp-v0", out=tmp_path, episodes=2, steps=6, workers=1, policy=f"{__name__}:follow")
    episode = EpisodeDataset.open(tmp_path).episode(1)
    assert episode.attributes["behaviour"] == "policy"
    np.testing.assert_allclose(episode.actions[1:, 0], 0.5 * episode.actions[:-1, 0], rtol=1e-6)
    assert np.all(episode.actions[:, 1] == 1.0) and episode.actions[0, 0] != 0
    with pytest.raises(UsageError, match="other settings"):
        record("test/Lamp-v0", out=tmp_path, episodes=2, steps=6, workers=1)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "SAC", "TD3"])
def test_a_learnt_policy_may_drive(tmp_path: Path, algorithm: str) -> None:
    """A file of Stable-Baselines3 is told by what is in it; mostly its policy acts, and now and then chance."""
    import stable_baselines3

    world = "test/Dimmer-v0" if algorithm == "DQN" else "test/Lamp-v0"
    env = gym.make(world, disable_env_checker=True)
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=0, device="cpu")
    model.save(tmp_path / "policy.zip")
    record(world, out=tmp_path / "out", episodes=4, steps=40, workers=1, policy=f"sb3:{tmp_path / 'policy.zip'}")
    dataset = EpisodeDataset.open(tmp_path / "out")
    rule = FlatActions.of_space(env.action_space)
    own = total = 0
    for i in dataset.episode_ids():
        episode = dataset.episode(i)
        lights = (episode.frames[:-1, 0, 0, 0].astype(np.float32) - 100) / 100
        for light, row in zip(lights[1:], episode.actions[1:], strict=True):
            action = model.predict(np.array([light], np.float32), deterministic=True)[0]
            own += bool(np.allclose(rule.rows(np.asarray(action)[None], "")[0], row, atol=0.02))
            total += 1
    assert 0.2 < own / total < 1, (own, total)


def test_image_observations_are_taken_as_they_are() -> None:
    """Where the observation is an image, it is the frame."""
    env = gym.make(ARENA, disable_env_checker=True)
    observation, _ = env.reset(seed=4)
    np.testing.assert_array_equal(frame_of(env, observation), observation)
    env.close()


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("test/Blind-v0", {}, "without RGB"),
        ("test/Growing-v0", {}, "64 x 128 after 1 steps.*64 x 64, as it showed first"),
        ("test/Growing-v0", {"episodes": 2, "env_kwargs": {"within": False}}, "192 in episode 1.*64 x 128"),
        ("test/Wordy-v0", {}, "action space.*MultiDiscrete"),
        ("test/Nothing-v0", {}, "Gymnasium id"),
        ("no_such_module:World-v0", {}, "no_such_module"),
        ("test/Lamp-v0", {"env_kwargs": {"brightness": 1}}, "brightness"),
        (ARENA, {"steps": CONTEXT_STEPS}, "lead-in"),
        (ARENA, {"episodes": 0}, "at least 1"),
        (ARENA, {"env_kwargs": {"task": "pusj"}}, "push"),
        (ARENA, {"policy": "os:getcwd"}, "behaviours of its own"),
        ("test/Lamp-v0", {"policy": "os:nothing"}, r"MODULE:FUNCTION.*nothing"),
        ("test/Lamp-v0", {"policy": "Random"}, r"policy.*MODULE:FUNCTION"),
        ("test/Lamp-v0", {"policy": "os:name"}, "name a function"),
        ("test/Lamp-v0", {"policy": "sb3:no.zip"}, "no.zip.*Stable-Baselines3"),
        ("test/Lamp-v0", {"policy": f"{__name__}:wrong_shape"}, r"policy.*shape \(3,\)"),
    ],
)
def test_user_mistakes_are_explained(tmp_path: Path, env_id: str, kwargs: dict[str, Any], words: str) -> None:
    """What cannot be recorded is refused in one paragraph, and nothing is left on the disk."""
    with pytest.raises(UsageError, match=words):
        record(env_id, out=tmp_path / "out", **{"episodes": 1, "workers": 1, **kwargs})
    assert not (tmp_path / "out").exists()


def test_folder_of_another_recording_is_refused(recording: Path) -> None:
    """Recording with other settings into a folder that holds a recording changes nothing and says why."""
    before = shard_bytes(recording)
    with pytest.raises(UsageError, match="other settings"):
        record_small(recording, seed=1)
    assert shard_bytes(recording) == before
