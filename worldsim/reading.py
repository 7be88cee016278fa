"""What a model reads off real clips: reward, termination and named readouts, frame by frame, without dreaming any."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from worldsim.denoiser import Denoiser, to_unit
from worldsim.network import recent_frames


@torch.inference_mode()
def read_clips(
    denoiser: Denoiser,
    frames: UInt8[np.ndarray, "b t h w 3"],
    actions: Float32[np.ndarray, "b t a"] | None = None,
) -> dict[str, Float32[np.ndarray, "b t ..."]]:
    """Return "reward", "terminated" (b, t) and the readouts (b, t, n) of real frames, as a dream of these frames reads them.

    ``actions[:, t]`` led into frame t; of None, and of that into frame 0, nothing is known.
    """
    network = denoiser.network
    device = next(network.parameters()).device
    known = (torch.arange(frames.shape[1], device=device) > 0) & (actions is not None)
    if actions is None:
        actions = np.zeros((*frames.shape[:2], network.condition.action_dim), np.float32)
    rows = []
    for clip, done in zip(frames, actions, strict=True):
        shown = to_unit(torch.from_numpy(np.require(clip, requirements="W"))).to(device)
        into = torch.from_numpy(np.require(done, requirements="W")).to(device)
        rows.append(network.read(recent_frames(shown[None], 1)[0, :-1, -1], shown, into, known))
    return {name: values.cpu().numpy() for name, values in denoiser.read(torch.stack(rows)).items()}
