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

from worldsim.cache import StreamCache
from worldsim.denoiser import add_noise, to_uint8, to_unit
from worldsim.network import Features
from worldsim.rollout import FrameStream, Pass, Rollout, frame_shape
from worldsim.sampler import sample_euler
from worldsim.state import WorldState


def imagine(rollout: Rollout, state: WorldState, plans: Float[Tensor, "b t a"]) -> dict[str, Tensor]:
    """Dream a plan in every row and return "frames" (B, T, H, W, 3; -1 .. 1) and all that is read, each (B, T, ...).

    ``state`` is left as it is; same noise as `Rollout.step` would draw. Gradients with respect to ``plans``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        state, plans = state.fork(), plans.to(rollout.device)
        levels, passes, commit = rollout.passes()
        rows: list[Tensor] = []
        shown: list[Tensor] = []
        for t in range(plans.shape[1]):
            stream = _TracedStream(rollout.network, state, plans[:, t], [*passes, commit], rollout.conditioned)
            shape = frame_shape(state, rollout.network.config.patch)
            noise, commit_noise = (state.draw(shape).to(plans.device) for _ in range(2))

            def denoise(z: Tensor, at: float, stream: _TracedStream = stream, recent: Tensor = state.recent) -> Tensor:
                return stream.estimate(z, recent, passes[levels.index(at)])

            clean = sample_euler(denoise, noise, rollout.num_steps)
            unit = clean.clamp(-1, 1)
            unit = unit + (to_unit(to_uint8(clean)) - unit).detach()
            noised = add_noise(unit, commit_noise, torch.full((len(plans),), commit[0], device=plans.device))
            rows.append(stream.commit(unit, noised, state.recent, commit))
            shown.append(unit)
            state = dataclasses.replace(state.after(unit, plans[:, t]), cache=stream.remembered())
        return {"frames": torch.stack(shown, dim=1), **rollout.denoiser.read(torch.stack(rows, dim=1))}


class _TracedStream(FrameStream):
    """Writes into new tensors, so that what earlier frames were computed from is still there for the backward pass."""

    def remembered(self) -> StreamCache:
        """Return the cache with everything that was kept."""
        keys, values = zip(*self._kept, strict=True) if self._kept else ((), ())
        return dataclasses.replace(self.cache, keys=keys, values=values)

    def _run(self, frame: Tensor, recent: Tensor, at: Pass) -> Features:
        self._kept: list[tuple[Tensor, Tensor]] = []
        return super()._run(frame, recent, at)

    def _keep(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        here = self._here()[:, None, :, None, None]
        keys = torch.where(here, k[:, :, None], self.cache.keys[layer])
        values = torch.where(here, v[:, :, None], self.cache.values[layer])
        self._kept.append((keys, values))
        return keys, values

    def _keep_recall(self, keys: Tensor, patches: Tensor) -> None:
        here = self._here()[:, :, None, None]
        self.cache = dataclasses.replace(
            self.cache,
            recall_keys=torch.where(here, keys[:, None], self.cache.recall_keys),
            patches=torch.where(here, patches[:, None], self.cache.patches),
        )

    def _keep_places(self, views: Tensor, around: Tensor) -> None:
        views = torch.where(self._here()[:, :, None], 0.0, views)
        self.cache = dataclasses.replace(self.cache, views=views, around=around)

    def _here(self) -> Tensor:
        """Tell the frame's own slot in the ring, (B, W)."""
        window = torch.arange(self.network.config.window, device=self.slots.device)
        return window[None] == self.slots[:, None]
