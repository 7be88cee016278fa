"""What the system denies: folders that cannot be written to, memory, workers. One paragraph says so, and nothing half-written stays."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from worldsim import checkpoint as checkpoints

PREDICTOR = """
import numpy as np

class Still:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        return np.tile(context_frames[:, None, None, -1], (1, num_samples, actions.shape[1], 1, 1, 1))
"""
TRAINING = ("train", "data", "--preset", "nano", "--config.clip_frames", "[4]", "--config.clip_shares", "[1]")
COMMANDS = {
    "record": ("record", "worldsim/Arena-v0", "--episodes", "2", "--workers", "1"),
    "train": (*TRAINING, "--steps", "1", "--config.frames_per_step", "8"),
    "quality": ("quality", "arena-small", "--scenes", "2"),
    "probe": ("probe", "still:Still", "--family", "P6-right", "--scenes", "2", "--workers", "1"),
    "plan": ("plan", "arena-small", "--starts", "1"),
    "import": ("import", "one.npz"),
}
DAC_OVERRIDE, DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


def obey_permissions() -> None:
    """Take from root what others do not have: to write where the permissions of a folder forbid it."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def run(folder: Path, arguments: tuple[str, ...], before: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with ``before`` called in its process."""
    command = [sys.executable, "-m", "worldsim", *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=folder, preexec_fn=before, env=environment, capture_output=True, text=True, check=False
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one paragraph in which a command ended."""
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert "Likely fix: " in done.stderr
    return next(line for line in done.stderr.splitlines() if line.startswith("worldsim: "))


@pytest.fixture
def workplace(stripe_recording: Path, valid: Path, tmp_path: Path) -> Path:
    """Return a folder with what the commands read, and a folder below it that nobody may write to."""
    (tmp_path / "data").symlink_to(stripe_recording)
    (tmp_path / "one.npz").symlink_to(valid / "one.npz")
    (tmp_path / "still.py").write_text(PREDICTOR)
    (tmp_path / "shut").mkdir(mode=0o555)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="root obeys permissions by a call of Linux")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written_to(name: str, workplace: Path) -> None:
    """Every command names the folder, at once, and leaves no file behind."""
    done = run(workplace, (*COMMANDS[name], "--out", "shut/out"), obey_permissions)
    assert "shut/out" in refusal(done)
    assert "%|" not in done.stderr, "no bar had begun"
    assert not list((workplace / "shut").iterdir())


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_memory_that_runs_out_while_training(workplace: Path) -> None:
    """Training says what needs less, and the checkpoint from before can be read and gone on from."""
    assert run(workplace, (*COMMANDS["train"], "--out", "run"), lambda: None).returncode == 0
    more = (*TRAINING, "--steps", "1", "--config.frames_per_step", "20000", "--out", "more")

    def little() -> None:  # of what is written to: torch with its GPU libraries alone maps more than that
        resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))

    assert "gradient_accumulation" in refusal(run(workplace, more, little))
    assert not list((workplace / "more").rglob("*.safetensors")) and not list((workplace / "more").rglob("*.tmp"))
    assert checkpoints.load(workplace / "run").weights


def test_a_world_drawn_by_sdl_lets_itself_be_ended():
    """SDL, with which CartPole draws, takes TERM for a closed window and goes on; schedulers and `docker stop` send it."""
    code = """
import time
from worldsim.envs.adapt import frame_of, make_environment

env = make_environment("CartPole-v1", {})
assert frame_of(env, env.reset(seed=0)[0]).shape == (64, 96, 3)
print("drawn", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "drawn\n" in process.stdout
        process.terminate()
        assert process.wait(timeout=20) == -signal.SIGTERM
