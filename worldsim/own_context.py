"""Clips whose last context frames a dream has made, as training shows them. Knows no data files and no loss.

Trained on true frames alone, a model never meets the errors of its own frames, and a dream is made of nothing else
(scheduled sampling, Bengio et al. 2015). So part of the training dreams on from a clip's first frames, as `Rollout`
does, and learns the true next frame from there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.denoiser import Clip, Denoiser, add_noise, step_index, to_uint8, to_unit
from worldsim.draws import Draws
from worldsim.rollout import empty_state
from worldsim.stream import FrameStream, Moment, commit_context, runs_of

MAX_OWN_FRAMES = 8
"""Most frames of a clip that the model dreams itself before it is asked for the true next one."""


@torch.no_grad()
def dream_on(denoiser: Denoiser, clip: Clip, draws: Draws, first: int) -> Tensor:
    """Return frames 0 .. T-1 (B, T, H, W, 3) of a clip, those from ``first`` (1 or later) on as a dream shows them.

    One estimate from pure noise a frame, at the finest step size, which is the first to be taught; the noise is that
    of ``draws``.
    """
    network, config = denoiser.network, denoiser.network.config
    frames = to_unit(clip.frames[:, :-1])
    b, t = frames.shape[:2]
    state = empty_state(denoiser, frames.shape[2:4], range(b))
    level = torch.full((b, t), 1 - config.context_noise, device=frames.device)
    runs = runs_of(1 - config.context_noise, [0.0], int(step_index(config.max_steps)), frames.device)
    into = torch.cat([torch.zeros_like(clip.actions[:, :1]), clip.actions], dim=1)
    true = frames[:, :first]
    noised = add_noise(true[:, :-1], draws.context_noise[:, : first - 1], level[:, : first - 1])
    for row in range(b):
        commit_context(network, state, row, (true[row], noised[row], into[row, :first]), 1 - config.context_noise)
    shown = [true]
    for k in range(first, t):
        stream = FrameStream(network, Moment.of(network, state, into[:, k]), runs)
        last = add_noise(state.recent[:, -1], draws.context_noise[:, k - 1], level[:, k - 1])
        frame = to_unit(to_uint8(stream.commit_and_estimate(last, draws.noise[:, k - 1])))
        state = state.after(frame, into[:, k])
        shown.append(frame[:, None])
    return torch.cat(shown, dim=1)
