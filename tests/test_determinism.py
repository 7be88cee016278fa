"""One seed, one machine, one result to the byte: here, and in another process in another order; thread counts only round.

What is drawn, recorded, dreamt and planned is tested here; training, and probes that were stopped, are where they are tested anyway.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim import checkpoint as checkpoints
from worldsim.agents.gradient import GradientPlanner
from worldsim.agents.objectives import GoalImage
from worldsim.agents.planner import Planner, PlanSettings
from worldsim.agents.search import CEMPlanner, ICEMPlanner, MPPIPlanner, RandomShooting
from worldsim.config import ARCHITECTURES, ModelConfig
from worldsim.envs.arena import ArenaEnv
from worldsim.envs.dream import DreamEnv, DreamVectorEnv
from worldsim.envs.record import record_shards, recording_header
from worldsim.episode import Readout
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel

GREY_LEVELS, READ_OUT = 2, 2e-2
"""How far dreams in one and in two threads may be apart after `STEPS` steps: pixels of 255, and readouts, in float32."""
STEPS, SIZE = 4, 32
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BACK_ENDS = [(device, kind) for device in DEVICES for kind in ("float32", "bfloat16")]
PLANNERS: tuple[type[Planner], ...] = (RandomShooting, CEMPlanner, ICEMPlanner, MPPIPlanner, GradientPlanner)
WORLD = WorldSpec(
    env_id="none/None-v0",
    frame_shape=(SIZE, SIZE, 3),
    action_names=("right", "up"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    frame_rate_hz=10.0,
    context_steps=2,
    readouts=(Readout(name="state", names=("x", "y"), units=("m", "m")),),
)


def lively(architecture: str = "dit", kind: str = "float32", device: str = "cpu") -> WorldModel:
    """Return a tiny untrained model in which every input shows."""
    config = ModelConfig(
        architecture=architecture, width=32, depth=2, heads=2, patch=8, fine_patch=2, stem_channels=8, head_blocks=1,
        cond_width=16, window=4, max_steps=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = checkpoints.build(config, WORLD)
    for name, parameter in denoiser.named_parameters():
        if any(part in name for part in ("modulation", "out.weight", "action", "gain")):
            parameter.data.mul_(3 if "gain" in name else 8)
    made = checkpoints.Checkpoint(model=config, world=WORLD, weights=denoiser.state_dict(), sampler_steps=2)
    return WorldModel(made, device=device, dtype=getattr(torch, kind))


def lead_in() -> dict[str, np.ndarray]:
    """Return a context to dream on from."""
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    return {"frames": frames, "actions": rng.uniform(-1, 1, (2, 2)).astype(np.float32)}


def dreamt(model: WorldModel, rows: int = 2) -> list[np.ndarray]:
    """Return all that a batch of dreams shows and tells."""
    env = DreamVectorEnv(rows, model, autoreset_mode="Disabled")
    frames, infos = env.reset(seed=7, options=lead_in())
    told, rng = [frames, infos["state"]], np.random.default_rng(2)
    for _ in range(STEPS):
        frames, rewards, _, _, infos = env.step(rng.uniform(-1, 1, (rows, 2)).astype(np.float32))
        told += [frames, rewards, infos["state"]]
    return told


def planned(planner: type[Planner]) -> list[np.ndarray]:
    """Return the plans of a planner in a dream, and what it gives for them."""
    goal = GoalImage(np.full((SIZE, SIZE, 3), 200, np.uint8), last=2)
    asked = PlanSettings(horizon=2, candidates=3, iterations=2, hold=1, replan=1)
    made = planner(DreamEnv(lively(), num_steps=1), goal, asked)
    made.reset(3, lead_in())
    played = [made.act(frame) for frame in lead_in()["frames"][1:]]
    return [*played, *(plan.actions for plan in made.plans), np.array([plan.score for plan in made.plans])]


def planned_in_the_truth() -> list[np.ndarray]:
    """Return the plan of a planner that knows the true world."""
    env = ArenaEnv("push", height=16, width=16)
    with env.undrawn():
        env.reset(seed=4)
    planner = CEMPlanner(env, settings=PlanSettings(horizon=3, candidates=4, iterations=2, replan=1), live=True)
    planner.reset(3)
    plan = planner.plan()
    env.close()
    return [plan.actions, np.array([plan.score])]


def shown_by_the_truth() -> list[np.ndarray]:
    """Return all that the Arena shows and tells."""
    env = ArenaEnv(height=SIZE, width=SIZE, segmentation=True, depth=True)
    _, info = env.reset(seed=5)
    told, rng = [info["context"]["frames"], info["context"]["states"]], np.random.default_rng(0)
    for _ in range(3):
        frame, reward, _, _, info = env.step(rng.uniform(-1, 1, 5).astype(np.float32))
        told += [frame, np.array([reward]), *(info[name] for name in ("state", "contacts", "segmentation", "depth"))]
    env.close()
    return told


def recorded() -> list[np.ndarray]:
    """Return the bytes of all files of a recording."""
    with tempfile.TemporaryDirectory() as folder:
        header = recording_header("worldsim/Arena-v0", {"height": 16, "width": 16}, 12, 3)
        record_shards(Path(folder), header, 2, workers=1, episodes_per_shard=1)
        paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".hdf5", ".h5"))
        assert paths
        return [np.frombuffer(path.read_bytes(), np.uint8) for path in paths]


MADE: dict[str, Callable[[], list[np.ndarray]]] = {
    "truth": shown_by_the_truth,
    "recording": recorded,
    **{f"dream, {a}": (lambda a=a: dreamt(lively(a))) for a in ARCHITECTURES if a != "dit"},
    **{f"dream, {d}, {k}": (lambda d=d, k=k: dreamt(lively("dit", k, d))) for d, k in BACK_ENDS},
    **{f"plans of {planner.__name__}": (lambda planner=planner: planned(planner)) for planner in PLANNERS},
    "plans in the truth": planned_in_the_truth,
}
"""What is made from a seed, by name."""


def digests() -> dict[str, str]:
    """Make everything once, the last first, and return a hash of each."""
    return {name: digest(MADE[name]()) for name in reversed(MADE)}


def digest(parts: list[np.ndarray]) -> str:
    """Return a hash of arrays with their types and shapes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


ELSEWHERE = "import json, runpy, sys; print(json.dumps(runpy.run_path(sys.argv[1])['digests']()))"


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, str]:
    """Return what another process makes, in which OpenGL draws with threads of its own."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, __file__], capture_output=True, text=True, timeout=280,
        env={**os.environ, **threads, "LP_NUM_THREADS": "2"}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_the_same_seed_makes_the_same_bytes(name: str, elsewhere: dict[str, str]) -> None:
    """Made here and in another process, after other things, it is the same to the byte."""
    assert digest(MADE[name]()) == elsewhere[name]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Return what sets the number of threads of torch, until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_threads_change_a_dream_by_rounding_only(architecture: str, threads: Callable[[int], None]) -> None:
    """One thread or two: pixels and readouts agree within the stated tolerance, and each count gives its own bytes again."""
    runs = []
    for count in (1, 2, 2):
        threads(count)
        runs.append(dreamt(lively(architecture), rows=3))
    assert digest(runs[1]) == digest(runs[2])
    for one, two in zip(*runs[:2], strict=True):
        tolerance = GREY_LEVELS if one.dtype == np.uint8 else READ_OUT
        assert np.abs(one.astype(float) - two).max() <= tolerance


def test_threads_change_the_worth_of_plans_by_rounding_only(threads: Callable[[int], None]) -> None:
    """The same plans imagined in one thread and in two get the same scores within a thousandth of the goal's scale."""
    scores = []
    for count in (1, 2):
        threads(count)
        env = DreamEnv(lively(), num_steps=1)
        env.reset(seed=1, options=lead_in())
        goal = GoalImage(np.full((SIZE, SIZE, 3), 200, np.uint8), last=2)
        planner = CEMPlanner(env, goal, PlanSettings(horizon=3, candidates=4, iterations=1, hold=1, replan=1))
        scores.append(planner.evaluate(np.random.default_rng(0).uniform(-1, 1, (4, 3, 2))))
    np.testing.assert_allclose(*scores, atol=1e-3)
