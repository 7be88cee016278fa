"""Killed at random moments (SIGKILL, workers too): every file is absent or whole, and going on ends as if nothing had happened.

Two hundred kills in all; they take about half an hour: `make test-kills`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import joblib
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytestmark = [pytest.mark.kills, pytest.mark.timeout(3600)]

RECORDING = """
from worldsim.envs.record import record_shards, recording_header
record_shards(Path("out"), recording_header("worldsim/Arena-v0", {}, 13, 0), 12, workers=2, episodes_per_shard=2)
"""
TRAINING = """
from worldsim.train import TrainConfig, train
config = TrainConfig(
    frames_per_step=16, clip_frames=(4, 8), clip_shares=(0.5, 0.5), save_minutes=0.0, sampler_steps=2, validate_minutes=0.02
)
train("data", "out", preset="nano", steps=12, config=config, progress=False)
"""
PROBING = """
from worldsim.eval.probe import probe
probe("copies:Copies", out="out", family="P1d,P6-right", truth="out/truth", workers=1, scenes=2)
"""
COMPARING = """
import json
from worldsim.eval import registry
from worldsim.eval.comparison import compare
registry.SCENES["smoke"] = 2
train = {"frames_per_step": 8, "clip_frames": [4], "clip_shares": [1.0]}
plan = {"seeds": 1, "steps": 2, "episodes": 20, "tier": "smoke", "families": ["P6-right"], "train": train}
Path("plan.json").write_text(json.dumps(plan))
compare("plan.json", "out")
"""
COPIES = """
import numpy as np

class Copies:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        return np.tile(context_frames[:, None, None, -1], (1, num_samples, actions.shape[1], 1, 1, 1))
"""
CHANGES = {"seconds", "time_utc", "earlier_test_evaluations"}
"""What two runs of the same thing may differ in."""


def start(code: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a program of its own group in a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", f"from pathlib import Path\n{code}"], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end, which must be a good one."""
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()[-3000:]


def wait_for_work(process: subprocess.Popen[bytes], out: Path, seen: int) -> bool:
    """Wait until a program begins to write, or ends; return whether it still runs."""
    while process.poll() is None:
        if out.exists() and (seen == 0 or any(path.stat().st_mtime_ns > seen for path in out.rglob("*"))):
            return True
        time.sleep(0.01)
    return False


def check_files(folder: Path) -> None:
    """Every file that bears its final name can be read from its beginning to its end."""
    readers: dict[str, Callable[[Path], object]] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        ".joblib": joblib.load,
        ".safetensors": load_file,
        ".hdf5": read_hdf5,
        ".png": lambda path: Image.open(path).load(),
    }
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in readers:
            readers[path.suffix](path)


def read_hdf5(path: Path) -> None:
    """Read every number of a file."""
    with h5py.File(path) as file:
        file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)


def killed(code: str, folder: Path, kills: int, same: Callable[[Path, Path], None]) -> None:
    """Kill a program ``kills`` times at random moments of its work; what it comes to in the end is what it comes to unkilled."""
    (folder / "copies.py").write_text(COPIES)
    out, whole, chance = folder / "out", folder / "whole", random.Random(0)
    process = start(code, folder)
    wait_for_work(process, out, 0)
    began = time.monotonic()
    finish(process)
    lasts = time.monotonic() - began
    out.rename(whole)
    done = 0
    while done < kills:
        seen = max((path.stat().st_mtime_ns for path in out.rglob("*")), default=0) if out.exists() else 0
        process = start(code, folder)
        if wait_for_work(process, out, seen):
            try:
                process.wait(chance.uniform(0, lasts))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                done += 1
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said.decode()[-3000:]
        check_files(out)
        if process.returncode == 0:
            same(whole, out)
            shutil.rmtree(out)
    finish(start(code, folder))
    same(whole, out)
    print(f"{done} kills over {lasts:.1f} s of work: every file whole, every end the same")


def test_recording(tmp_path: Path) -> None:
    """Shards and index come to the same bytes."""

    def same(one: Path, other: Path) -> None:
        names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
        assert names == {
            path.relative_to(other) for path in other.rglob("*") if path.is_file() and path.suffix != ".tmp"
        }
        for name in names:
            if name.suffix == ".hdf5":
                assert (one / name).read_bytes() == (other / name).read_bytes(), name

    killed(RECORDING, tmp_path, 60, same)


def test_training(stripe_recording: Path, tmp_path: Path) -> None:
    """Weights and all of the state come to the same bits, and so does the checkpoint."""
    shutil.copytree(stripe_recording, tmp_path / "data")

    def same(one: Path, other: Path) -> None:
        for name in ("state.safetensors", "checkpoint/model.safetensors"):
            first, second = load_file(one / name), load_file(other / name)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first), name

    killed(TRAINING, tmp_path, 60, same)


def test_probing(tmp_path: Path) -> None:
    """All numbers and pictures of the report come to the same bytes."""

    def same(one: Path, other: Path) -> None:
        for path in one.glob("*.png"):
            assert path.read_bytes() == (other / path.name).read_bytes(), path.name
        texts = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
        first, second = ({k: v for k, v in text.items() if k not in CHANGES} for text in texts)
        assert first == second

    killed(PROBING, tmp_path, 40, same)


def test_comparing(tmp_path: Path) -> None:
    """All answers come to the same."""

    def same(one: Path, other: Path) -> None:
        texts = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
        assert texts[0]["answers"] == texts[1]["answers"]

    killed(COMPARING, tmp_path, 40, same)
