"""Back ends: what they dream is what eager mode dreams, and a graph is made once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim import checkpoint as checkpoints
from worldsim.backends import KEPT_GRAPHS, Graphs, split_device
from worldsim.config import ModelConfig
from worldsim.errors import UsageError
from worldsim.rollout import Rollout
from worldsim.spec import WorldSpec
from worldsim.state import WorldState
from worldsim.world_model import WorldModel

SIZE = 16
CONFIG = ModelConfig(
    width=32, depth=1, heads=2, patch=8, stem_channels=8, head_blocks=1, cond_width=16, window=3, max_steps=4
)
Make = Callable[[ModelConfig, WorldSpec], checkpoints.Checkpoint]
KINDS: dict[str, dict[str, Any]] = {
    "camera": {"camera": True},
    "taking turns": {"time_every": 1},
    "unet": {"architecture": "unet", "fine_patch": 2},
    "unet-stacked": {"architecture": "unet-stacked", "fine_patch": 2},
}
OTHERS = [kind for kind in KINDS if kind != "taking turns"]


def model_of(kind: str, lively: Make, device: str = "cpu") -> WorldModel:
    """Return a tiny model of the Arena in small pictures, with random weights."""
    world = dataclasses.replace(checkpoints.load("arena-small").world, frame_shape=(SIZE, SIZE, 3))
    return WorldModel(lively(dataclasses.replace(CONFIG, **KINDS[kind]), world), device=device, dtype=torch.float32)


def begun(rollout: Rollout, rows: int, context_steps: int) -> WorldState:
    """Return worlds that begin with noise."""
    rng, dims = np.random.default_rng(0), rollout.network.condition.action_dim
    frames = rng.integers(0, 256, (rows, context_steps + 1, SIZE, SIZE, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (rows, context_steps, dims)).astype(np.float32)
    return rollout.start(frames, actions, np.arange(rows))


def same_dreams(plain: Rollout, other: Rollout, rows: int, steps: int) -> None:
    """Assert that two rollouts agree frame by frame, each step from the same state, and that there is something to see."""
    state, dims = begun(plain, rows, context_steps=0), plain.network.condition.action_dim
    for action in np.random.default_rng(1).uniform(-1, 1, (steps, rows, dims)).astype(np.float32):
        before = state.frames
        theirs = other.step(state.fork(), action)
        out = plain.step(state, action)
        assert np.abs(out.frames.astype(int) - theirs.frames).max() <= 1
        np.testing.assert_allclose(out.rewards, theirs.rewards, atol=1e-3)
        state, kept = out.state, theirs.state.cache.tensors()
        # where the next frame will lie, eager mode leaves its noisy form
        shown = [slot for slot in range(CONFIG.window) if slot != int(state.times[0] - 1) % CONFIG.window]
        for name, tensor in state.cache.tensors().items():
            rings = name.startswith(("keys", "values"))
            pair = (ring[:, :, shown] if rings else ring for ring in (tensor, kept[name]))
            torch.testing.assert_close(*pair, atol=1e-3, rtol=1e-3)
        assert np.abs(out.frames.astype(int) - before).mean() > 1


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("taking turns", marks=pytest.mark.heavy),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS),
    ],
)
def test_openvino_dreams_what_eager_mode_dreams(
    kind: str, lively: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Frame by frame up to rounding, also before the window is full and after; what was made once is found again."""
    pytest.importorskip("openvino")
    model = model_of(kind, lively)
    graphs = Graphs(model.denoiser.network, "openvino", tmp_path)
    same_dreams(model.rollout(2), Rollout(model.denoiser, 2, graphs=graphs), rows=2, steps=CONFIG.window + 3)
    made = {path.name for path in tmp_path.iterdir()}
    assert len(made) == (1 if kind == "unet-stacked" else 2), "one that commits, one that does not"
    caplog.clear()
    again = Rollout(model.denoiser, 1, graphs=Graphs(model.denoiser.network, "openvino", tmp_path))
    same_dreams(model.rollout(1), again, rows=2, steps=1)
    assert {path.name for path in tmp_path.iterdir()} == made and not caplog.records


@pytest.mark.slow
def test_compiled_graphs_dream_what_eager_mode_dreams(lively: Make, tmp_path: Path) -> None:
    """As those of OpenVINO; with a camera, whose surroundings and views are most of what can differ."""
    model = model_of("camera", lively)
    graphs = Graphs(model.denoiser.network, "compile", tmp_path)
    same_dreams(model.rollout(2), Rollout(model.denoiser, 2, graphs=graphs), rows=2, steps=CONFIG.window + 3)


@pytest.mark.slow
def test_other_weights_have_other_graphs_and_the_oldest_go(lively: Make, tmp_path: Path) -> None:
    """A graph made for other weights is never taken; no more than so many are kept, and nothing half made."""
    pytest.importorskip("openvino")
    model = model_of("unet-stacked", lively)
    for number in range(KEPT_GRAPHS + 2):
        (tmp_path / f"{number}").mkdir()
    first = Rollout(model.denoiser, 1, graphs=Graphs(model.denoiser.network, "openvino", tmp_path))
    first.step(begun(first, 1, 1), np.zeros((1, model.spec.action_dim), np.float32))
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == KEPT_GRAPHS and not any(name.startswith(".") for name in left)
    with torch.no_grad():
        model.denoiser.network.head.out.bias.add_(0.5)
    same_dreams(
        model.rollout(1), Rollout(model.denoiser, 1, graphs=Graphs(model.denoiser.network, "openvino", tmp_path)), 1, 1
    )


def test_devices_name_their_back_end(lively: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind the plus is the back end; unknown ones, and those that cannot be had, are refused with advice."""
    assert split_device("cpu") == ("cpu", "eager") and split_device("cuda:1") == ("cuda:1", "eager")
    for device, advice in [
        ("cpu+openvin", "cpu\\+openvino"),
        ("cqu", "cpu is everywhere"),
        ("cuda+openvino", "compile"),
    ]:
        with pytest.raises(UsageError, match=rf"device: got .*{advice}"):
            split_device(device)
    monkeypatch.setenv("CXX", sys.executable)  # anything that is there
    model = model_of("camera", lively, "cpu+compile")
    assert model.device == "cpu+compile" and model.rollout().device.type == "cpu"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"a C\+\+ compiler"):
        split_device("cpu+compile")
