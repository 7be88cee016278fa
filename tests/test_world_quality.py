"""The quality of dreams of any world: moments are come to again, a perfect dreamer scores 1 and a deaf one 0, whatever the actions."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from PIL import Image

from worldsim.envs.adapt import make_environment
from worldsim.envs.collect import recorded_spec
from worldsim.errors import UsageError
from worldsim.eval.moments import LEAD, Moment, action_parts, draw_part, find_moments, show
from worldsim.eval.parts import Parts
from worldsim.eval.quality import quality
from worldsim.eval.world_quality import FRAMES, Job, measure_world
from worldsim.spec import WorldSpec
from worldsim.world_model import untrained

PLACES = 28
"""Of the dot, two pixels apart."""


class Walk(gym.Env):
    """A dot that is moved to the left and right, and a switch that does nothing; an episode ends at the right wall."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, render_mode: str | None = None, *, choices: bool = False, forgetful: bool = False) -> None:
        self.render_mode, self.choices, self.forgetful = render_mode, choices, forgetful
        self.observation_space = Box(0, PLACES, (1,), np.float32)
        self.action_space: gym.Space[Any] = Discrete(3) if choices else Box(-1, 1, (2,), np.float32)
        self.rng = np.random.default_rng()

    def seen(self) -> np.ndarray:
        """Return the place."""
        return np.array([self.place], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin somewhere in the left half."""
        super().reset(seed=seed)
        self.place = int((self.rng if self.forgetful else self.np_random).integers(PLACES // 2))
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        """Move."""
        way = int(action) - 1 if self.choices else round(float(action[0]) * 2)
        self.place = int(np.clip(self.place + way, 0, PLACES - 1))
        return self.seen(), float(self.place), self.place == PLACES - 1, False, {}

    def render(self) -> Any:
        """Return a bright dot on a dark ground."""
        picture = np.full((64, 64, 3), 40, np.uint8)
        picture[26:38, 2 * self.place : 2 * self.place + 8] = 230
        return picture


def to_the_right(observation: np.ndarray) -> Any:
    """Go to the wall at once, where episodes end."""
    return np.array([1.0, 0.0], np.float32)


if "Walk-v0" not in gym.registry:  # where a test has made a module of this file
    gym.register("Walk-v0", entry_point=cast("Any", Walk))


def spec_of(**kwargs: Any) -> WorldSpec:
    env = make_environment("Walk-v0", kwargs)
    try:
        return recorded_spec(env, "Walk-v0", kwargs)
    finally:
        env.close()


@dataclasses.dataclass(frozen=True)
class Step:
    """One streamed frame per row, and what is read off it."""

    frames: np.ndarray
    rewards: np.ndarray
    readouts: dict[str, np.ndarray]
    state: list[gym.Env[Any, Any]]


class TrueDreamer:
    """Streams the true world itself from the place that it sees in the last frame. ``deaf_to`` are elements it does not hear."""

    def __init__(self, spec: WorldSpec, deaf_to: slice = slice(0, 0)) -> None:
        self.spec, self.deaf_to = spec, deaf_to

    def start(self, frames: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> Any:
        """Bring one true world per row to the moment."""
        assert frames.shape[1] == actions.shape[1] + 1 == LEAD + 1
        worlds = [make_environment(self.spec.env_id, self.spec.env_kwargs) for _ in frames]
        for world, clip in zip(worlds, frames, strict=True):
            world.reset(seed=0)
            world.unwrapped.place = int(np.argmax(clip[-1][30, :, 0] > 100)) // 2  # type: ignore[attr-defined]
        return worlds

    def step(self, state: Any, actions: np.ndarray) -> Step:
        """Step every world."""
        heard = actions.copy()
        heard[:, self.deaf_to] = self.spec.action_low[self.deaf_to]
        told = [world.step(action)[:2] for world, action in zip(state, heard, strict=True)]
        return Step(
            frames=np.stack([world.render() for world in state]),
            rewards=np.array([reward for _, reward in told], np.float32),
            readouts={"observation": np.stack([seen for seen, _ in told])},
            state=state,
        )


def measured(spec: WorldSpec, folder: Path, deaf_to: slice = slice(0, 0)) -> dict[str, Any]:
    job = Job(
        model=untrained(spec),
        rollout=TrueDreamer(spec, deaf_to),
        out=folder,
        scenes=6,
        workers=1,
        parts=Parts(folder, {}),
    )
    result = measure_world(job, "random", 5)
    job.parts.clear()
    return result


@pytest.mark.parametrize("kwargs", [{}, {"choices": True}], ids=["amounts", "choices"])
def test_a_perfect_dream_is_perfect_and_a_deaf_one_deaf(kwargs: dict[str, Any], tmp_path: Path) -> None:
    """The world itself has no error and gap 1, deaf to what moves the dot gap 0; what changes nothing has no gap at all."""
    spec = spec_of(**kwargs)
    name, part = next(iter(action_parts(spec).items()))
    perfect, deaf = measured(spec, tmp_path), measured(spec, tmp_path, part)
    assert perfect["moving_pixel_error"]["16"]["model"]["value"] == 0
    assert perfect["moving_pixel_error"]["16"]["copy_last"]["value"] > 0.1
    assert [row["name"] for row in perfect["numbers"]] == ["observation observation_0", "reward"]
    for row in perfect["numbers"]:
        assert row["dream"]["16"]["value"] == 0
        assert row["held"]["16"]["value"] > 0.5
    assert perfect["action_gap"][name]["ratio"]["value"] == 1
    assert deaf["action_gap"][name]["ratio"]["value"] == 0
    assert deaf["moving_pixel_error"]["16"]["model"]["value"] > 0.1
    others = [gap["ratio"] for other, gap in perfect["action_gap"].items() if other != name]
    assert others == [None] * (len(spec.action_names) > 1 and not kwargs)


def test_a_moment_is_come_to_again_and_frames_after_the_end_do_not_count() -> None:
    """Frames, numbers and actions are those of the episode; one that has ended stands still and is not alive."""
    spec = spec_of()
    moments = find_moments(spec, 5, FRAMES, seed=1, policy=f"{__name__}:to_the_right")
    shown = show(spec, moments)
    assert np.array_equal(shown.last, np.stack([moment.frame for moment in moments]))
    assert np.array_equal(shown.context_actions, np.stack([moment.before[-LEAD:] for moment in moments]))
    assert np.array_equal(shown.actions[:, 0], np.tile(np.array([1, 0], np.float32), (5, 1)))
    ended = ~shown.alive[:, -1]
    assert ended.all()
    for row in range(5):
        last = int(shown.alive[row].sum())
        places = shown.told["observation"][row, :, 0]
        assert places[last] == PLACES - 1 > places[last - 1]
        assert (shown.frames[row, last - 1 :] == shown.frames[row, last - 1]).all()
        assert shown.told["reward"][row, 1, 0] == places[1]


def test_two_processes_show_what_one_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of processes changes nothing, and they find the world where it is found here."""
    shutil.copy(__file__, tmp_path / "walking.py")
    monkeypatch.syspath_prepend(tmp_path)
    spec = dataclasses.replace(spec_of(), env_id="walking:Walk-v0")
    moments = find_moments(spec, 3, 4, seed=1)
    one, two = show(spec, moments), show(spec, moments, workers=2)
    assert np.array_equal(one.frames, two.frames)
    assert all(np.array_equal(one.told[name], two.told[name]) for name in one.told)


def test_parts_of_actions_are_drawn_from_all_they_can_be() -> None:
    """Of a choice exactly one is taken, amounts come from all over their range, and all is held for three steps or more."""
    rng = np.random.default_rng(0)
    choices = spec_of(choices=True)
    assert action_parts(choices) == {"action_is_0 .. action_is_2": slice(0, 3)}
    rows = draw_part(choices, slice(0, 3), rng, 60)
    assert (rows.sum(axis=1) == 1).all()
    assert (rows.sum(axis=0) > 0).all()
    amounts = draw_part(spec_of(), slice(1, 2), rng, 300)
    assert amounts.min() < -0.8
    assert amounts.max() > 0.8
    changes = np.flatnonzero(np.diff(amounts[:, 0]))
    assert np.diff(changes).min() >= 3


def test_the_report_says_what_was_measured(tmp_path: Path) -> None:
    """An untrained model of any world gets a whole report from the one function that the command calls."""
    spec = spec_of()
    results = quality(untrained(spec), tmp_path, 3, workers=1, num_steps=1)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert {"world", "policy"} <= results.keys() | results["settings"].keys()
    report = (tmp_path / "report.md").read_text()
    assert "a dream of Walk-v0" in report
    assert "observation observation_0" in report
    assert "does NOT hold" in report
    for name in results["strips"].values():
        with Image.open(tmp_path / name) as strip:
            assert strip.width > 6 * 64
    assert not list(tmp_path.glob(".parts-*"))


def test_worlds_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    """A world that does not come to the same moment again, and a policy under which no episode is long enough, are named."""
    with pytest.raises(UsageError, match="same frames again"):
        quality(untrained(spec_of(forgetful=True)), tmp_path, 2, workers=1)
    with pytest.raises(UsageError, match="no_such_policy"):
        quality(untrained(spec_of()), tmp_path, 2, policy="no_such_policy:at_all")
    spec, moment = spec_of(), find_moments(spec_of(), 1, 2, seed=0)[0]
    too_late = dataclasses.replace(moment, before=np.tile(np.array([1, 0], np.float32), (40, 1)))
    assert isinstance(too_late, Moment)
    with pytest.raises(UsageError, match="same frames again"):
        show(spec, [too_late])
