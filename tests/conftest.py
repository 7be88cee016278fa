"""What every test shares: one thread, fixed seeds, the Arena, a tiny recording, and small files of every kind."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when the libraries load
    os.environ.setdefault(_name, "1")

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from worldsim import checkpoint as checkpoints
from worldsim.config import ModelConfig
from worldsim.dataset import split_of
from worldsim.envs.dream_context import CONTEXTS
from worldsim.envs.painter import Painter
from worldsim.episode import Episode, Readout
from worldsim.rollout import empty_state
from worldsim.run_state import save_state
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


CAMERA_STD = 0.015
"""Of what says how a camera moves, which begins at nothing: some steps then leave the view as it was, and some do not."""


@pytest.fixture(scope="session")
def lively() -> Callable[[ModelConfig, WorldSpec], checkpoints.Checkpoint]:
    """Return what makes random weights, livelier than at birth so that every input shows in the output."""

    def make(config: ModelConfig, world: WorldSpec) -> checkpoints.Checkpoint:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            denoiser = checkpoints.build(config, world)
            for name, parameter in denoiser.named_parameters():
                if any(part in name for part in ("modulation", "out.weight", "action", "gain")):
                    parameter.data.mul_(3 if "gain" in name else 8)
                if name.endswith(("camera.out.weight", "camera.out.bias")):
                    parameter.data[8 : 8 + 8 * world.action_dim].normal_(std=CAMERA_STD)  # as actions move it
        return checkpoints.Checkpoint(model=config, world=world, weights=denoiser.state_dict(), sampler_steps=2)

    return make


@pytest.fixture(scope="session")
def stripe_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of 40 episodes of the stripe world, in two shards, with episodes in all three splits."""
    folder = tmp_path_factory.mktemp("stripes")
    header = RecordingHeader(spec=STRIPE_SPEC, seed=0)
    for shard in range(2):
        write_shard(folder, shard, header, {i: stripe_episode(i) for i in range(shard * 20, shard * 20 + 20)})
    build_index(folder)
    return folder


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one small valid file of every kind that is read, all of one world; take copies to spoil."""
    root = tmp_path_factory.mktemp("valid")
    config = ModelConfig(
        width=16, depth=1, heads=1, patch=16, stem_channels=4, head_blocks=1, cond_width=8, readout_width=8, window=2
    )
    spec = WorldSpec(
        env_id="worldsim/Toy-v0", frame_shape=(16, 16, 3), action_names=("left", "up"), action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0), frame_rate_hz=10.0, context_steps=1,
    )  # fmt: skip
    denoiser = checkpoints.build(config, spec)
    made = checkpoints.Checkpoint(model=config, world=spec, weights=denoiser.state_dict(), sampler_steps=2)
    checkpoints.save(made, root / "checkpoint", card="", dtype=torch.bfloat16)
    empty_state(denoiser, (16, 16), [0]).save(root / "state")
    lead_ins = {"frames": torch.zeros(2, 2, 16, 16, 3, dtype=torch.uint8), "actions": torch.zeros(2, 1, 2)}
    checkpoints.save_file(lead_ins, root / "checkpoint" / CONTEXTS)
    record = {"identity": {}, "step": 1, "seconds": 1, "scores": {}}
    save_state(root / "run", {"model/weight": torch.zeros(2, 2)}, record)
    rng, nothing = np.random.default_rng(3), np.zeros(3, bool)
    frames, actions = rng.integers(0, 256, (4, 16, 16, 3), np.uint8), rng.uniform(-1, 1, (3, 2)).astype(np.float32)
    rows = {"rewards": np.zeros(3, np.float32), "terminated": nothing, "truncated": nothing}
    episode = Episode(frames=frames, actions=actions, **rows, seed=0, attributes={"split": "train"})
    write_shard(root / "recording", 0, RecordingHeader(spec=spec, seed=0), {0: episode})
    build_index(root / "recording")
    np.savez_compressed(root / "one.npz", frames=frames, actions=actions)
    np.save(root / "one.npy", actions)
    with h5py.File(root / "one.hdf5", "w") as file:
        for name, values in (("frames", frames), ("actions", actions)):
            file.create_dataset(f"e0/{name}", data=values, compression="gzip")
    (root / "clips").mkdir()
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(root / "clips" / "a.gif", save_all=True, append_images=pictures[1:])
    (root / "clips" / "a.csv").write_text("left,up\n0,1\n0.5,-1\n1,0\n")
    return root
