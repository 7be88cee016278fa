"""What every test shares: one thread, fixed seeds, the Arena, and a tiny recording of a world that shows its last action."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when the libraries load
    os.environ.setdefault(_name, "1")

import random
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldsim.dataset import split_of
from worldsim.envs.painter import Painter
from worldsim.episode import Episode, Readout
from worldsim.spec import WorldSpec
from worldsim.storage import RecordingHeader, build_index, write_shard

STRIPE_SPEC = WorldSpec(
    env_id="worldsim/Stripe-v0",
    frame_shape=(32, 32, 3),
    action_names=("shade",),
    action_low=(-1.0,),
    action_high=(1.0,),
    frame_rate_hz=10.0,
    context_steps=2,
    readouts=(Readout(name="state", names=("shade",), units=("1",)),),
)


def stripe_episode(seed: int, steps: int = 12) -> Episode:
    """Return an episode whose upper half shows the last action as a shade of grey and whose lower half shows noise.

    Reward is the action; the state is the shade shown; the last step terminates.
    """
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
    shades = np.concatenate([np.zeros((1, 1), np.float32), actions])
    frames = rng.integers(0, 256, (steps + 1, *STRIPE_SPEC.frame_shape), np.uint8)
    frames[:, :16] = np.round((shades + 1) * 127.5).astype(np.uint8)[:, :, None, None]
    return Episode(
        frames=frames,
        actions=actions,
        rewards=actions[:, 0].copy(),
        terminated=np.arange(steps) == steps - 1,
        truncated=np.zeros(steps, bool),
        seed=seed,
        readouts={"state": shades},
        attributes={"split": split_of(0, seed), "behaviour": "uniform"},
    )


LONGEST = ("test_readme.py", "test_eval_agents.py")
"""Files of few, long tests: begun last, they would keep one process busy while the other waits."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Every test begins with the same global generators; the ones it uses should be its own."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that still use the global generator
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def env() -> Iterator[gym.Env]:
    """Return the Arena without wrappers."""
    made = gym.make("worldsim:worldsim/Arena-v0", disable_env_checker=True)
    yield made.unwrapped
    made.close()


@pytest.fixture(scope="module")
def painter() -> Iterator[Painter]:
    """Return what draws tales again."""
    made = Painter(height=64, width=64, shadows=True)
    yield made
    made.close()


@pytest.fixture(scope="session")
def stripe_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of 40 episodes of the stripe world, in two shards, with episodes in all three splits."""
    folder = tmp_path_factory.mktemp("stripes")
    header = RecordingHeader(spec=STRIPE_SPEC, seed=0)
    for shard in range(2):
        write_shard(folder, shard, header, {i: stripe_episode(i) for i in range(shard * 20, shard * 20 + 20)})
    build_index(folder)
    return folder
