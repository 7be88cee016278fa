"""What a streamed dream remembers of its last frames, as tensors. Knows no network.

Dimension keys: B batch, G groups (attention heads, and places where these attend apart), W window, N tokens of a group, K
channels of a head or key, P pixel values of a patch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worldsim.config import ModelConfig
from worldsim.motion import SURROUNDING_CHANNELS, VIEW_NUMBERS, size_around

Layer = tuple[int, int, int]
"""What an attention layer keeps of a frame: groups, tokens of a group, channels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamCache:
    """The last ``window`` frames of B worlds, a ring per row: frame t of a row lies in slot t mod window."""

    keys: tuple[Tensor, ...]  # (B, G, W, N, K) of each attention layer
    values: tuple[Tensor, ...]  # (B, G, W, N, K)
    recall_keys: Tensor  # (B, W, N, K)
    patches: Tensor  # (B, W, N, P), pixels -1 .. 1 in float32
    views: Tensor
    """From where each frame was seen (B, W, V), as the last one has it (`worldsim.motion.turned`); (B, W, 0) where no surroundings are kept."""
    around: Tensor
    """The last frame in its surroundings (B, Y, X, 4), of a network that keeps them (`ModelConfig.surrounded`); else (B, 0, 0, 4)."""

    @classmethod
    def empty(
        cls,
        config: ModelConfig,
        layers: Sequence[Layer],
        batch: int,
        grid: tuple[int, int],
        *,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> StreamCache:
        """Return a cache that holds nothing yet, of a network with these attention layers and grid of a frame's tokens."""

        def rings() -> tuple[Tensor, ...]:
            shapes = [(batch, groups, config.window, own, channels) for groups, own, channels in layers]
            return tuple(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes)

        frames = 0 if config.stacked else config.window  # a network that sees stacked frames recalls nothing
        tokens = grid[0] * grid[1]
        around = size_around(grid[0] * config.patch, grid[1] * config.patch) if config.surrounded else (0, 0)
        return cls(
            keys=rings(),
            values=rings(),
            recall_keys=torch.zeros(batch, frames, tokens, config.head_dim, dtype=dtype, device=device),
            patches=torch.zeros(batch, frames, tokens, 3 * config.patch**2, device=device),
            views=torch.zeros(batch, frames, VIEW_NUMBERS if config.surrounded else 0, device=device),
            around=torch.zeros(batch, *around, SURROUNDING_CHANNELS, device=device),
        )

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> StreamCache:
        """Undo `tensors`; other entries are passed over. (States of before surroundings were kept have none.)"""
        batch, count = len(tensors["patches"]), sum(name.startswith("keys.") for name in tensors)
        around = tensors.get("around", tensors["patches"][:0])
        return cls(
            keys=tuple(tensors[f"keys.{layer}"] for layer in range(count)),
            values=tuple(tensors[f"values.{layer}"] for layer in range(count)),
            recall_keys=tensors["recall_keys"],
            patches=tensors["patches"],
            views=tensors.get("views", tensors["patches"][..., 0, :0]),
            around=around if around.numel() else around.new_zeros(batch, 0, 0, SURROUNDING_CHANNELS),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> StreamCache:
        """Return the cache on ``device``, with what is attended to in ``dtype``; it is itself where it is so already."""
        keys, values = (tuple(ring.to(device, dtype) for ring in rings) for rings in (self.keys, self.values))
        recalled = self.recall_keys.to(device, dtype)
        others = {name: tensor.to(device) for name, tensor in self.pictures().items()}
        return StreamCache(keys=keys, values=values, recall_keys=recalled, **others)

    @classmethod
    def join(cls, caches: Sequence[StreamCache]) -> StreamCache:
        """Return one cache of all rows, copied."""
        columns = [cache.tensors() for cache in caches]
        return cls.of({name: torch.cat([column[name] for column in columns]) for name in columns[0]})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name; rows lie along the first axis of each."""
        rings = {"keys": self.keys, "values": self.values}
        named = {f"{name}.{layer}": ring for name, layers in rings.items() for layer, ring in enumerate(layers)}
        return {**named, "recall_keys": self.recall_keys, **self.pictures()}

    def pictures(self) -> dict[str, Tensor]:
        """Return what keeps the precision of pixels, by name."""
        return {"patches": self.patches, "views": self.views, "around": self.around}

    def select(self, rows: Tensor) -> StreamCache:
        """Return copies of the given rows."""
        return self.of({name: tensor.index_select(0, rows) for name, tensor in self.tensors().items()})

    def put(self, rows: Tensor, other: StreamCache) -> None:
        """Overwrite the given rows with those of ``other``."""
        theirs = other.tensors()
        for name, tensor in self.tensors().items():
            tensor.index_copy_(0, rows, theirs[name])
