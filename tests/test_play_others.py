"""Any recorded world can be played: keys from its action space, its truth where it is installed, its dream alone elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from worldsim import checkpoint as checkpoints
from worldsim.envs.controls import ACTION_NAMES
from worldsim.envs.dream_context import bundle_contexts
from worldsim.errors import UsageError
from worldsim.play.controls import action_of, bindings, levels_of
from worldsim.play.desk import hello
from worldsim.play.limits import Limits
from worldsim.play.session import Session
from worldsim.play.shelf import Shelf
from worldsim.spec import WorldSpec
from worldsim.world_model import untrained

LIMITS = Limits(history_steps=8, keyframe_steps=4)


class Dot(gym.Env[np.ndarray, np.ndarray]):
    """A grey square that gets as bright as the actions add up to; it ends after nine steps."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = Box(0, 255, (32, 32, 3), np.uint8)
    action_space = Box(np.array([0, -2], np.float32), np.array([1, 2], np.float32))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin with the brightness of the seed."""
        super().reset(seed=seed)
        self.sum, self.steps = float(self.np_random.integers(50)), 0
        return self._frame(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Get brighter."""
        self.sum, self.steps = self.sum + 10 * float(action.sum()), self.steps + 1
        return self._frame(), float(action.sum()), self.steps == 9, False, {}

    def _frame(self) -> np.ndarray:
        return np.full((32, 32, 3), np.clip(self.sum, 0, 255), np.uint8)


gym.register("PlayTest/Dot-v0", entry_point=cast("Any", Dot))
DOT = WorldSpec(
    env_id="PlayTest/Dot-v0",
    frame_shape=(32, 32, 3),
    action_names=("up", "both"),
    action_low=(0.0, -2.0),
    action_high=(1.0, 2.0),
    frame_rate_hz=20.0,
    context_steps=0,
)


def saved(folder: Path, spec: WorldSpec) -> str:
    """Save an untrained model of a world and return its folder."""
    model = untrained(spec)
    return str(checkpoints.save(model.checkpoint, folder, card="untrained", dtype=torch.float32))


def shown(session: Session) -> dict[str, np.ndarray]:
    """Return copies of what is shown."""
    return {name: clip.copy() for name, clip in session.panes().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Return whether two looks at a session are the same to the bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_another_world_plays_too(tmp_path: Path) -> None:
    """Any recorded environment's checkpoint has keys from its action space, a truth, exact ways back, and an end."""
    session = Session(Shelf([saved(tmp_path / "dot", DOT)]), LIMITS)
    greeting = hello(session)
    assert greeting["truth"] and greeting["tasks"] == greeting["factors"] == [] and greeting["rate"] == 20
    assert [binding["low"] for binding in greeting["bindings"]] == ["ArrowLeft", "ArrowDown"]
    looks = [shown(session)]
    for _ in range(12):  # three beyond the end
        session.tick([1.0, 0.5])
        looks.append(shown(session))
    assert looks[1]["truth"].mean() == looks[0]["truth"].mean() + 20
    assert np.array_equal(looks[9]["truth"], looks[12]["truth"])
    session.rewind(6)
    assert same(shown(session), looks[6])
    session.tick([1.0, 0.5])
    assert same(shown(session), looks[7])
    for refused in (lambda: session.use_view("depth"), session.ask, lambda: session.steer_by("truth")):
        with pytest.raises(UsageError):
            refused()
    session.steer_by("dream")
    session.tick([0.0, 0.0])
    session.close()


def test_without_the_true_world_a_dream_begins_from_bundled_frames(tmp_path: Path) -> None:
    """Where the environment is not installed the dream plays alone, if lead-ins lie beside it; else it is said why not."""
    spec = dataclasses.replace(DOT, env_id="PlayTest/NotInstalled-v0")
    folder = saved(tmp_path / "alone", spec)
    with pytest.raises(UsageError, match="no true world"):
        Session(Shelf([folder]), LIMITS)
    bundle_contexts(Path(folder), DOT, count=2)
    session = Session(Shelf([folder]), LIMITS)
    session.tick([1.0, 1.0])
    assert list(session.panes()) == ["dream"] and "NotInstalled" in hello(session)["missing"]
    session.close()


def test_levels_are_actions() -> None:
    """Level 0 is the idle action, 1 and -1 the bounds; actions come back as the levels they were made of."""
    assert action_of(DOT, (0, 0)).tolist() == [0, 0]
    assert action_of(DOT, (127, -127)).tolist() == [1, -2] and action_of(DOT, (-127, 127)).tolist() == [0, 2]
    for levels in ((13, -77), (127, 127), (0, 1)):
        assert levels_of(DOT, action_of(DOT, levels)) == levels
    arena = dataclasses.replace(DOT, action_names=ACTION_NAMES, action_low=(-1.0,) * 5, action_high=(1.0,) * 5)
    assert [binding.toggle for binding in bindings(arena)] == ["", "", "", "", "Space"]
    many = dataclasses.replace(arena, action_names=tuple("abcdefghij"), action_low=(0.0,) * 10, action_high=(1.0,) * 10)
    keys = [key for binding in bindings(many) for key in (binding.low, binding.high) if key]
    assert len(set(keys)) == len(keys) == 16
