"""A stream that writes nothing in place: for gradients, and for graphs. Knows no sampler, no environment and no files.

Dimension keys: B batch, G groups of attention, N tokens of a group, K channels of a head, W window, P pixel values of a patch.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldsim.cache import StreamCache
from worldsim.network import Network
from worldsim.stream import FrameStream, Moment, Runs


class FunctionalStream(FrameStream):
    """Writes nothing in place: what earlier frames were computed from is still there for a backward pass, or in a graph.

    What goes into the rings of keys and values is attended to beside them, so that these are not copied for every run.
    """

    def __init__(self, network: Network, moment: Moment, runs: Runs) -> None:
        super().__init__(network, moment, runs)
        self.committed: dict[int, tuple[Tensor, Tensor]] = {}
        """Keys and values (B, G, N, K), layer by layer, of the frame that was shown."""
        self.left: tuple[Tensor, Tensor] | None = None
        """What that frame will be recalled by (B, N, K), and as what (B, N, P)."""

    def remembered(self) -> StreamCache:
        """Return the cache with the frame that was shown."""
        here = self._here()[:, None, :, None, None]

        def ring(kind: int, layer: int, old: Tensor) -> Tensor:
            return torch.where(here, self.committed[layer][kind][:, :, None], old) if self.committed else old

        keys, values = (
            tuple(ring(kind, layer, old) for layer, old in enumerate(rings))
            for kind, rings in enumerate((self.cache.keys, self.cache.values))
        )
        return dataclasses.replace(self.cache, keys=keys, values=values)

    def _attend(self, frame: int, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        beside, unseen = [(k, v)], self._unseen(frame)
        if frame == 0:
            self.committed[layer] = (k, v)
        elif layer in self.committed:
            beside.insert(0, self.committed[layer])
            unseen = unseen | self._here()
        keys, values = (ring[layer].flatten(2, 3) for ring in (self.cache.keys, self.cache.values))
        bias = torch.zeros_like(unseen, dtype=q.dtype).masked_fill(unseen, float("-inf"))
        q = q * q.shape[-1] ** -0.5
        past = q @ keys.transpose(-1, -2) + bias[:, None, None].repeat_interleave(k.shape[-2], -1)
        scores = torch.cat([past, *(q @ own.transpose(-1, -2) for own, _ in beside)], dim=-1)
        shares = scores.softmax(dim=-1).split([past.shape[-1], *(own.shape[-2] for own, _ in beside)], dim=-1)
        mixed = shares[0] @ values
        for share, (_, own) in zip(shares[1:], beside, strict=True):
            mixed = mixed + share @ own
        return mixed

    def _keep_recall(self, keys: Tensor, patches: Tensor) -> None:
        self.left = (keys, patches)
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
        """Tell which slot of the rings is that of the frame that was shown, (B, W)."""
        window = torch.arange(self.network.config.window, device=self.slots[0].device)
        return window[None] == self.slots[0][:, None]
