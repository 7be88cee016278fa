"""Training in several processes learns what one learns; shards are saved whole; a killed worker goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import worldsim
from worldsim.errors import UsageError
from worldsim.train import TrainConfig, train

STEPS = 8
SETTINGS = [
    "--preset", "nano", "--steps", str(STEPS), "--config.frames_per_step", "32", "--config.clip_frames", "[4,8]",
    "--config.clip_shares", "[.5,.5]", "--config.save_minutes", "0", "--config.self_context_start", ".5",
]  # fmt: skip
TOLERANCE = 2e-3
"""Relative: sums of several processes are rounded differently, and eight steps carry that on."""


def command(data: Path, out: Path, *more: str) -> list[str]:
    """Return the arguments of a training run."""
    return ["train", str(data), "--out", str(out), *SETTINGS, *more]


def start(words: list[str], *launch: str, **variables: str) -> subprocess.Popen[str]:
    """Start worldsim in processes of one thread, by torchrun where it is told how."""
    run = ["-m", "torch.distributed.run", *launch, "-m", "worldsim"] if launch else ["-m", "worldsim"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, *run, *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(*started: subprocess.Popen[str]) -> str:
    """Wait for processes that must end well and return what they said."""
    said = ""
    for process in started:
        words, _ = process.communicate(timeout=300)
        assert process.returncode == 0, words
        said += words
    return said


def curve(out: Path) -> np.ndarray:
    """Return the loss of every step, as TensorBoard was told."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = EventAccumulator(str(next((out / "logs").rglob("events*")).parent))
    logs.Reload()
    return np.array([event.value for event in logs.Scalars("train/loss")])


@pytest.fixture(scope="module")
def alone(stripe_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(start(command(stripe_recording, out)))
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "more"),
    [
        (("--standalone", "--nproc-per-node", "2"), ()),
        (("--standalone", "--nproc-per-node", "2"), ("--config.shard", "true")),
        (("--standalone", "--nproc-per-node", "2"), ("--config.shard", "true", "--config.gradient_accumulation", "2")),
    ],
    ids=["ddp", "fsdp2", "fsdp2 in parts"],
)
def test_two_processes_learn_what_one_learns(
    stripe_recording: Path, tmp_path: Path, alone: Path, launch: tuple[str, ...], more: tuple[str, ...]
) -> None:
    """Two processes share the clips of each step: the loss curve is that of one, and one alone loads what they save."""
    said = finish(start(command(stripe_recording, tmp_path / "run", *more), *launch))
    assert said.count("Step it:") == 1  # one of them speaks
    losses, wanted = curve(tmp_path / "run"), curve(alone)
    assert len(losses) == len(wanted) == STEPS
    np.testing.assert_allclose(losses, wanted, rtol=TOLERANCE)
    weights, expected = (worldsim.load(out).checkpoint.weights for out in (tmp_path / "run", alone))
    assert {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in expected.items()}
    difference = sum(float((weights[n] - expected[n]).square().sum()) for n in weights)
    assert difference < TOLERANCE * sum(float(expected[n].square().sum()) for n in weights)


@pytest.mark.slow
def test_two_agents_on_two_nodes(stripe_recording: Path, tmp_path: Path, alone: Path) -> None:
    """Two torchrun agents that meet at an address train as one process does."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meet = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "test")
    words = command(stripe_recording, tmp_path / "run")
    finish(*(start(words, "--nnodes", "2", "--nproc-per-node", "1", *meet) for _ in range(2)))
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone), rtol=TOLERANCE)


@pytest.mark.slow
def test_a_killed_worker_goes_on(stripe_recording: Path, tmp_path: Path) -> None:
    """A worker that dies takes the others with it; torchrun starts all again, and the weights are as if nothing was."""
    launch = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" in finish(start(command(stripe_recording, tmp_path / "whole"), *launch))
    agent = start(command(stripe_recording, tmp_path / "broken"), *launch, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    deadline = time.monotonic() + 120
    while not (tmp_path / "broken" / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    children = subprocess.run(
        ["pgrep", "-P", str(agent.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in finish(agent)
    whole, broken = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "broken"))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, broken[name], err_msg=name)


def test_parts_of_a_step_are_the_step(stripe_recording: Path, tmp_path: Path) -> None:
    """Gradient accumulation changes memory, and nothing of what is learnt but rounding."""
    small = TrainConfig(frames_per_step=16, clip_frames=(4,), clip_shares=(1.0,), validate_minutes=60.0)
    parts = TrainConfig(
        frames_per_step=16, clip_frames=(4,), clip_shares=(1.0,), validate_minutes=60.0, gradient_accumulation=3
    )
    for name, config in {"whole": small, "parts": parts}.items():
        train(stripe_recording, tmp_path / name, preset="nano", steps=3, config=config, progress=False)
    np.testing.assert_allclose(curve(tmp_path / "parts"), curve(tmp_path / "whole"), rtol=1e-4)


def test_every_part_reads_something(stripe_recording: Path, tmp_path: Path) -> None:
    """Asked for fewer frames than a step has parts, each part reads one: a mean over none is no number."""
    few = TrainConfig(frames_per_step=16, clip_frames=(4,), clip_shares=(1.0,), validate_minutes=60.0, reads_per_step=2)
    fewer = dataclasses.replace(few, reads_per_step=1, gradient_accumulation=2)
    for name, config in {"few": few, "fewer": fewer}.items():
        train(stripe_recording, tmp_path / name, preset="nano", steps=2, config=config, progress=False)
    assert np.isfinite(curve(tmp_path / "few")).all()
    np.testing.assert_allclose(curve(tmp_path / "fewer"), curve(tmp_path / "few"), rtol=1e-4)


def test_a_single_process_has_nothing_to_share(stripe_recording: Path, tmp_path: Path) -> None:
    """Shards need several processes: who asks for them without torchrun is told how."""
    with pytest.raises(UsageError, match="torchrun"):
        train(
            stripe_recording, tmp_path / "run", preset="nano", steps=1, config=TrainConfig(shard=True), progress=False
        )
    assert not (tmp_path / "run" / "state.safetensors").exists()
