"""Dreams that gradients flow through: from what is read off imagined frames back to the actions that led there.

The same computation as `Rollout.step`, except that nothing is written in place and that rounding to 8 bits lets
gradients pass (straight-through, Bengio et al. 2013). Costs memory for every frame dreamt: meant for plans of some ten
frames.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from worldsim.denoiser import to_uint8, to_unit
from worldsim.functional import FunctionalStream
from worldsim.rollout import Rollout
from worldsim.state import WorldState
from worldsim.stream import Moment


def imagine(rollout: Rollout, state: WorldState, plans: Float[Tensor, "b t a"]) -> dict[str, Tensor]:
    """Dream a plan in every row and return "frames" (B, T, H, W, 3; -1 .. 1) and all that is read, each (B, T, ...).

    ``state`` is left as it is; same noise as `Rollout.step` would draw. Gradients with respect to ``plans``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        state, plans = state.fork(), plans.to(rollout.device)
        rows: list[Tensor] = []
        shown: list[Tensor] = []
        for t in range(plans.shape[1]):
            moment = Moment.of(rollout.network, state, plans[:, t], rollout.conditioned)
            stream = FunctionalStream(rollout.network, moment, rollout.runs())
            clean = rollout.sample(stream, state)
            unit = clean.clamp(-1, 1)
            unit = unit + (to_unit(to_uint8(clean)) - unit).detach()
            rows.append(stream.read(unit))
            shown.append(unit)
            state = dataclasses.replace(state.after(unit, plans[:, t]), cache=stream.remembered())
        return {"frames": torch.stack(shown, dim=1), **rollout.denoiser.read(torch.stack(rows, dim=1))}
