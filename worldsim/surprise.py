"""Surprise: how far each frame of a real clip is from what the denoiser makes of it after the real frames before it.

No dream is made and nothing is learnt: the training loss, frame by frame, on the levels of the finest sampler. Knows no
world and no probe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from worldsim.denoiser import Context, Denoiser, Draws, LossConfig, add_noise, to_unit
from worldsim.errors import UsageError
from worldsim.rollout import check_context
from worldsim.sampler import uniform_levels

LEVELS = 4
DRAWS = 2
"""Noise levels and draws of noise a frame; draws are shared by all levels and by all clips of one seed."""


@torch.inference_mode()
def surprise(
    denoiser: Denoiser,
    frames: UInt8[np.ndarray, "b t1 h w 3"],
    actions: Float32[np.ndarray, "b t a"],
    seeds: Sequence[int],
    *,
    levels: int = LEVELS,
    draws: int = DRAWS,
    conditioned: bool = True,
) -> Float32[np.ndarray, "b t"]:
    """Return the weighted denoising error of frames 1 .. T of each clip, each given the real frames before it.

    The mean over ``levels`` noise levels (0, 1/n, ...) and ``draws`` draws of noise of w(level) |x^(z) - x|^2: the mean
    square over a frame (range -1 .. 1), w the training loss's ramp. The context carries the noise with which frames are
    committed in a rollout; the actions are hidden from a model that is not ``conditioned``. Frame t has the same noise
    in all clips of one seed (one seed a clip), so that clips that agree up to a frame are alike up to it, bit for bit;
    bits never depend on the batch.
    """
    config = denoiser.network.config
    check_context(frames, actions, config.patch)
    if levels < 1 or config.max_steps % levels:
        allowed = ", ".join(str(n) for n in range(1, config.max_steps + 1) if config.max_steps % n == 0)
        raise UsageError("levels", got=levels, allowed=allowed, fix="these lie on the grid that training used")
    if draws < 1 or len(seeds) != len(frames):
        raise UsageError(
            "draws and seeds",
            got=f"{draws} draws, {len(seeds)} seeds for {len(frames)} clips",
            allowed="one draw or more, and one seed a clip",
            fix="give clips that are compared the same seed",
        )
    rows = []
    for clip, into, seed in zip(frames, actions, seeds, strict=True):
        errors = [
            _weighted_error(denoiser, (clip, into), noise, level, conditioned)
            for noise in shared_noise(int(seed), draws, (len(into), *clip.shape[1:]))
            for level in uniform_levels(levels)[:-1]
        ]
        rows.append(torch.stack(errors).mean(0).cpu().numpy())
    return np.stack(rows)


def shared_noise(seed: int, draws: int, shape: Sequence[int]) -> Tensor:
    """Return the noise of context and targets (draws, 2, T, H, W, 3) that a seed decides, frame by frame.

    ``shape`` is (T, H, W, 3); the noise of a frame does not depend on how many follow it.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn((draws, 2, *shape[1:]), generator=generator) for _ in range(shape[0])], dim=2)


def _weighted_error(
    denoiser: Denoiser, clip: tuple[np.ndarray, np.ndarray], noise: Tensor, level: float, conditioned: bool
) -> Tensor:
    """Return w(level) times the mean squared error (T,) of one two-stream pass over a clip's frames and actions."""
    device, config = next(denoiser.parameters()).device, denoiser.network.config
    frames, actions = to_unit(torch.from_numpy(clip[0])).to(device)[None], torch.from_numpy(clip[1]).to(device)[None]
    levels = torch.full(actions.shape[:2], level, device=device)
    drawn = Draws(
        context_noise=noise[None, 0].to(device),
        noise=noise[None, 1].to(device),
        context_level=torch.full_like(levels, 1 - config.context_noise),
        level=levels,
        known=torch.tensor([conditioned], device=device),
        num_steps=torch.tensor([config.max_steps], device=device),
    )
    target = frames[:, 1:]
    noisy = add_noise(target, drawn.noise, levels)
    estimate, _ = denoiser.estimate(
        Context.of(frames[:, :-1], drawn), noisy, denoiser.conditions(actions, drawn.known, drawn)
    )
    error = Denoiser.level_weight(levels, LossConfig()) * (estimate - target).square()
    return error.mean((-1, -2, -3))[0]
