"""Back ends: what they dream is what eager mode dreams, and a graph is made once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.backends import KEPT_GRAPHS, Graphs, split_device
from worldsim.checkpoint import Checkpoint, build
from worldsim.config import ModelConfig
from worldsim.errors import UsageError
from worldsim.rollout import Rollout
from worldsim.spec import WorldSpec
from worldsim.state import WorldState
from worldsim.world_model import WorldModel

SIZE, ACTIONS = 16, 2
CONFIG = ModelConfig(
    width=32, depth=1, heads=2, patch=8, stem_channels=8, head_blocks=1, cond_width=16, window=3, max_steps=4
)
WORLD = WorldSpec(
    env_id="none/None-v0",
    frame_shape=(SIZE, SIZE, 3),
    action_names=("right", "up"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    frame_rate_hz=10.0,
    context_steps=1,
    readouts=(),
)
KINDS: dict[str, dict[str, Any]] = {
    "camera": {"camera": True},
    "taking turns": {"time_every": 1},
    "unet": {"architecture": "unet", "fine_patch": 2},
    "unet-stacked": {"architecture": "unet-stacked", "fine_patch": 2},
}
OTHERS = [kind for kind in KINDS if kind != "taking turns"]


def model_of(kind: str, device: str = "cpu") -> WorldModel:
    """Return a tiny world with random weights, made livelier than at birth."""
    config = dataclasses.replace(CONFIG, **KINDS[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = build(config, WORLD)
        for name, parameter in denoiser.named_parameters():
            if any(part in name for part in ("modulation", "out.weight", "action")):
                parameter.data.mul_(8)
            if "camera.out" in name:
                parameter.data.normal_(std=0.02)
    made = Checkpoint(model=config, world=WORLD, weights=denoiser.state_dict(), sampler_steps=2)
    return WorldModel(made, device=device, dtype=torch.float32)


def begun(rollout: Rollout, rows: int, context_steps: int) -> WorldState:
    """Return worlds that begin with noise."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (rows, context_steps + 1, SIZE, SIZE, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (rows, context_steps, ACTIONS)).astype(np.float32)
    return rollout.start(frames, actions, np.arange(rows))


def same_dreams(plain: Rollout, other: Rollout, rows: int, steps: int) -> None:
    """Assert that two rollouts agree frame by frame, each step from the same state, and that there is something to see."""
    state = begun(plain, rows, context_steps=0)
    for action in np.random.default_rng(1).uniform(-1, 1, (steps, rows, ACTIONS)).astype(np.float32):
        before = state.frames
        theirs = other.step(state.fork(), action)
        out = plain.step(state, action)
        assert np.abs(out.frames.astype(int) - theirs.frames).max() <= 1
        np.testing.assert_allclose(out.rewards, theirs.rewards, atol=1e-3)
        state, kept = out.state, theirs.state.cache.tensors()
        shown = [slot for slot in range(CONFIG.window) if slot != int(state.times[0] - 1) % CONFIG.window]
        for name, tensor in state.cache.tensors().items():
            rings = name.startswith(
                ("keys", "values")
            )  # where the next frame will lie, eager mode leaves its noisy form
            pair = (ring[:, :, shown] if rings else ring for ring in (tensor, kept[name]))
            torch.testing.assert_close(*pair, atol=1e-3, rtol=1e-3)
        assert np.abs(out.frames.astype(int) - before).mean() > 1


@pytest.mark.parametrize("kind", ["taking turns", *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)])
def test_openvino_dreams_what_eager_mode_dreams(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Frame by frame up to rounding, also before the window is full and after; what was made once is found again."""
    pytest.importorskip("openvino")
    model = model_of(kind)
    graphs = Graphs(model.denoiser.network, "openvino", tmp_path)
    same_dreams(model.rollout(2), Rollout(model.denoiser, 2, graphs=graphs), rows=2, steps=CONFIG.window + 3)
    made = {path.name for path in tmp_path.iterdir()}
    assert len(made) == (1 if kind == "unet-stacked" else 2), "one that commits, one that does not"
    caplog.clear()
    again = Rollout(model.denoiser, 1, graphs=Graphs(model.denoiser.network, "openvino", tmp_path))
    same_dreams(model.rollout(1), again, rows=2, steps=1)
    assert {path.name for path in tmp_path.iterdir()} == made and not caplog.records


@pytest.mark.slow
def test_compiled_graphs_dream_what_eager_mode_dreams(tmp_path: Path) -> None:
    """As those of OpenVINO; with a camera, whose surroundings and views are most of what can differ."""
    model = model_of("camera")
    graphs = Graphs(model.denoiser.network, "compile", tmp_path)
    same_dreams(model.rollout(2), Rollout(model.denoiser, 2, graphs=graphs), rows=2, steps=CONFIG.window + 3)


@pytest.mark.slow
def test_other_weights_have_other_graphs_and_the_oldest_go(tmp_path: Path) -> None:
    """A graph made for other weights is never taken; no more than so many are kept, and nothing half made."""
    pytest.importorskip("openvino")
    model = model_of("unet-stacked")
    for number in range(KEPT_GRAPHS + 2):
        (tmp_path / f"{number}").mkdir()
    first = Rollout(model.denoiser, 1, graphs=Graphs(model.denoiser.network, "openvino", tmp_path))
    first.step(begun(first, 1, 1), np.zeros((1, ACTIONS), np.float32))
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == KEPT_GRAPHS and not any(name.startswith(".") for name in left)
    with torch.no_grad():
        model.denoiser.network.head.out.bias.add_(0.5)
    same_dreams(
        model.rollout(1), Rollout(model.denoiser, 1, graphs=Graphs(model.denoiser.network, "openvino", tmp_path)), 1, 1
    )


def test_devices_name_their_back_end() -> None:
    """What stands behind the plus is the back end; unknown ones, and those that cannot be had, are refused with advice."""
    assert split_device("cpu") == ("cpu", "eager") and split_device("cuda:1") == ("cuda:1", "eager")
    for device, advice in [
        ("cpu+openvin", "cpu\\+openvino"),
        ("cqu", "cpu is everywhere"),
        ("cuda+openvino", "compile"),
    ]:
        with pytest.raises(UsageError, match=rf"device: got .*{advice}"):
            split_device(device)
    if split_device("cpu+compile"):
        model = model_of("camera", "cpu+compile")
        assert model.device == "cpu+compile" and model.rollout().device.type == "cpu"
