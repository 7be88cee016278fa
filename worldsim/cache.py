"""What a streamed dream remembers of its last frames, as tensors. Knows no network.

Dimension keys: B batch, H heads, W window, N tokens of a frame, K channels of a head or key, P pixel values of a patch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worldsim.config import ModelConfig

BATCH_AXIS = {"keys": 1, "values": 1, "recall_keys": 0, "patches": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamCache:
    """The last ``window`` frames of B worlds, a ring per row: frame t of a row lies in slot t mod window."""

    keys: Tensor  # (depth, B, H, W, N, K), of the trunk's attention
    values: Tensor  # (depth, B, H, W, N, K)
    recall_keys: Tensor  # (B, W, N, K)
    patches: Tensor  # (B, W, N, P), pixels -1 .. 1 in float32

    @classmethod
    def empty(
        cls, config: ModelConfig, batch: int, tokens: int, *, device: torch.device | str, dtype: torch.dtype
    ) -> StreamCache:
        """Return a cache that holds nothing yet."""
        trunk = (config.depth, batch, config.heads, config.window, tokens, config.head_dim)
        return cls(
            keys=torch.zeros(trunk, dtype=dtype, device=device),
            values=torch.zeros(trunk, dtype=dtype, device=device),
            recall_keys=torch.zeros(batch, config.window, tokens, config.head_dim, dtype=dtype, device=device),
            patches=torch.zeros(batch, config.window, tokens, 3 * config.patch**2, device=device),
        )

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> StreamCache:
        """Undo `tensors`; other entries are passed over."""
        return cls(**{name: tensors[name] for name in BATCH_AXIS})

    @classmethod
    def join(cls, caches: Sequence[StreamCache]) -> StreamCache:
        """Return one cache of all rows, copied."""
        columns = {name: [cache.tensors()[name] for cache in caches] for name in BATCH_AXIS}
        return cls(**{name: torch.cat(parts, dim=BATCH_AXIS[name]) for name, parts in columns.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {name: getattr(self, name) for name in BATCH_AXIS}

    def select(self, rows: Tensor) -> StreamCache:
        """Return copies of the given rows."""
        return StreamCache(
            **{name: tensor.index_select(BATCH_AXIS[name], rows) for name, tensor in self.tensors().items()}
        )

    def put(self, rows: Tensor, other: StreamCache) -> None:
        """Overwrite the given rows with those of ``other``."""
        for name, tensor in self.tensors().items():
            tensor.index_copy_(BATCH_AXIS[name], rows, getattr(other, name))
