"""`worldsim presets`: what every preset costs, counted. Nets are compared fairly only where these numbers say so."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from worldsim import checkpoint as checkpoints
from worldsim.config import PRESETS, ModelConfig, preset
from worldsim.denoiser import Clip, Denoiser
from worldsim.draws import draw
from worldsim.losses import LossConfig
from worldsim.rollout import Rollout
from worldsim.spec import WorldSpec

WORLD = "arena-small"
"""Checkpoint whose world the presets are counted for: frame size, actions and readouts decide too."""
COUNTED = ",".join(name for name in PRESETS if name.startswith(("nano", "small")))
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What a network costs, whatever the machine."""

    architecture: str
    parameters: int
    training_mflop: float
    """Millions of floating-point operations (a multiplication and its sum are two) a target frame, forward and backward."""
    dream_mflop: float
    """Millions of operations for dreaming and committing one frame with one sampler step, its memory full."""


def presets(names: Sequence[str] | str = COUNTED) -> dict[str, dict[str, Any]]:
    """Count parameters and operations of presets, for the Arena.

    Args:
        names: presets, separated by commas; `base` and `large` take minutes and gigabytes.

    Returns one row per preset; UsageError for unknown names.

    """
    wanted = names.split(",") if isinstance(names, str) else names
    world = checkpoints.load(WORLD).world
    return {name: dataclasses.asdict(size(preset(name), world)) for name in wanted}


def size(model: ModelConfig, world: WorldSpec) -> Size:
    """Count a network of these sizes for a world."""
    denoiser = checkpoints.build(model, world)
    return Size(
        architecture=model.architecture,
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
        training_mflop=_training(denoiser, world) / 1e6,
        dream_mflop=_dreaming(denoiser, world) / 1e6,
    )


def counting() -> FlopCounterMode:
    """Return a context that counts floating-point operations of matrix products and convolutions.

    PyTorch counts no fused attention on CPUs. Here it counts as the plain products that it stands for, two forward and
    four backward: what is recomputed is no use to anybody.
    """

    def forward(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(_: Shape, query: Shape, key: Shape, value: Shape, *__: Any, **___: Any) -> int:
        return 2 * sdpa_flop_count(query, key, value)

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(display=False, custom_mapping={fused: forward, fused_backward: backward})


def _training(denoiser: Denoiser, world: WorldSpec) -> float:
    """Count the loss of one clip as long as the window, and its gradient; return the operations a target frame."""
    count = denoiser.network.config.window
    clip = Clip(
        frames=torch.zeros(1, count + 1, *world.frame_shape, dtype=torch.uint8),
        actions=torch.zeros(1, count, world.action_dim),
    )
    steps = denoiser.network.config.max_steps
    draws = draw((count, *world.frame_shape), [(0,)], LossConfig(), steps, 0.0)
    with counting() as counter:
        denoiser.loss(clip, draws, LossConfig())["loss"].backward()
    return counter.get_total_flops() / count


def _dreaming(denoiser: Denoiser, world: WorldSpec) -> int:
    """Count one step of a rollout."""
    rollout, rng = Rollout(denoiser.eval(), num_steps=1), np.random.default_rng(0)
    count = denoiser.network.config.window
    frames = rng.integers(0, 256, (1, count + 1, *world.frame_shape)).astype(np.uint8)
    actions = np.zeros((1, count, world.action_dim), np.float32)
    state = rollout.start(frames, actions, np.zeros(1, np.int64))
    with counting() as counter:
        rollout.step(state, actions[:, 0])
    return counter.get_total_flops()
