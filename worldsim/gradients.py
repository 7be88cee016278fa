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
from worldsim.rollout import Rollout
from worldsim.state import WorldState
from worldsim.stream import FrameStream


def imagine(rollout: Rollout, state: WorldState, plans: Float[Tensor, "b t a"]) -> dict[str, Tensor]:
    """Dream a plan in every row and return "frames" (B, T, H, W, 3; -1 .. 1) and all that is read, each (B, T, ...).

    ``state`` is left as it is; same noise as `Rollout.step` would draw. Gradients with respect to ``plans``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        state, plans = state.fork(), plans.to(rollout.device)
        passes, commit = rollout.passes()
        rows: list[Tensor] = []
        shown: list[Tensor] = []
        for t in range(plans.shape[1]):
            stream = _TracedStream(rollout.network, state, plans[:, t], passes, commit, rollout.conditioned)
            clean = rollout.sample(stream, state)
            unit = clean.clamp(-1, 1)
            unit = unit + (to_unit(to_uint8(clean)) - unit).detach()
            rows.append(stream.read(unit))
            shown.append(unit)
            state = dataclasses.replace(state.after(unit, plans[:, t]), cache=stream.cache)
        return {"frames": torch.stack(shown, dim=1), **rollout.denoiser.read(torch.stack(rows, dim=1))}


class _TracedStream(FrameStream):
    """Writes into new tensors, so that what earlier frames were computed from is still there for the backward pass."""

    def _keep(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        here = self._here(slots)[:, None, :, None, None]
        keys, values = list(self.cache.keys), list(self.cache.values)
        keys[layer] = torch.where(here, k[:, :, None], keys[layer])
        values[layer] = torch.where(here, v[:, :, None], values[layer])
        self.cache = dataclasses.replace(self.cache, keys=tuple(keys), values=tuple(values))
        return keys[layer], values[layer]

    def _keep_recall(self, keys: Tensor, patches: Tensor) -> None:
        here = self._here(self.slots[0])[:, :, None, None]
        self.cache = dataclasses.replace(
            self.cache,
            recall_keys=torch.where(here, keys[:, None], self.cache.recall_keys),
            patches=torch.where(here, patches[:, None], self.cache.patches),
        )

    def _keep_places(self, views: Tensor, around: Tensor) -> None:
        views = torch.where(self._here(self.slots[0])[:, :, None], 0.0, views)
        self.cache = dataclasses.replace(self.cache, views=views, around=around)

    def _here(self, slots: Tensor) -> Tensor:
        """Tell which slot of the ring is a frame's, (B, W)."""
        window = torch.arange(self.network.config.window, device=slots.device)
        return window[None] == slots[:, None]
