"""WorldState: the state of imagined worlds as a value that can be forked, split, joined, saved and restored."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors.torch import save_file
from torch import Tensor

from worldsim.cache import Layer, StreamCache
from worldsim.config import ModelConfig
from worldsim.errors import UsageError
from worldsim.foreign import read_tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldState:
    """B imagined worlds: what they remember, when they are, their noise generators and the last frame shown.

    Stepping a rollout consumes a state (its buffers are written in place); `fork` first to keep it.
    """

    cache: StreamCache
    times: Tensor
    """(B,) frames shown so far; the last one is not in the cache yet."""
    recent: Tensor
    """(B, P + 1, H, W, 3) the last frames shown, in -1 .. 1, without context noise, oldest first; zeros before frame 0."""
    past_actions: Tensor
    """(B, M + 1, A) the last actions, oldest first, for a network that is told M of the past; zeros before the first."""
    readout: Tensor
    """(B, R) raw readout row of the last frame: reward, termination logit, then every declared readout."""
    generators: tuple[torch.Generator, ...]
    """One CPU generator per row, so that an episode never depends on its batch mates."""
    grid: tuple[int, int]
    frames: UInt8[np.ndarray, "b h w 3"]
    """(B, H, W, 3) last frames shown."""

    @classmethod
    def empty(
        cls,
        *,
        config: ModelConfig,
        layers: Sequence[Layer],
        grid: tuple[int, int],
        sizes: tuple[int, int],
        seeds: Sequence[int],
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> WorldState:
        """Return worlds that remember nothing yet, one per seed; ``sizes`` are those of an action and a readout row."""
        b, (action_dim, readout_dim) = len(seeds), sizes
        height, width = grid[0] * config.patch, grid[1] * config.patch
        return cls(
            cache=StreamCache.empty(config, layers, b, grid, device=device, dtype=dtype),
            times=torch.zeros(b, dtype=torch.int64, device=device),
            recent=torch.zeros(b, config.recent + 1, height, width, 3, device=device),
            past_actions=torch.zeros(b, config.past_actions + 1, action_dim, device=device),
            readout=torch.zeros(b, readout_dim, device=device),
            generators=tuple(torch.Generator().manual_seed(seed) for seed in seeds),
            grid=grid,
            frames=np.zeros((b, height, width, 3), dtype=np.uint8),
        )

    @property
    def batch_size(self) -> int:
        """Number of worlds."""
        return len(self.generators)

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise (B, *shape), each row from its own generator."""
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in self.generators])

    def after(self, shown: Tensor, actions: Tensor) -> WorldState:
        """Return the state once a frame (B, H, W, 3), -1 .. 1, that ``actions`` (B, A) led to was shown."""
        return dataclasses.replace(
            self,
            recent=torch.cat([self.recent[:, 1:], shown[:, None]], dim=1),
            past_actions=torch.cat([self.past_actions, actions[:, None]], dim=1)[:, 1:],
            times=self.times + 1,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> WorldState:
        """Return the worlds for a network on ``device`` that computes in ``dtype`` (buffers shared where they are so already)."""
        moved = {name: getattr(self, name).to(device) for name in ("times", "recent", "past_actions", "readout")}
        return dataclasses.replace(self, cache=self.cache.to(device, dtype), **moved)

    def fork(self) -> WorldState:
        """Return an independent copy: stepping one leaves the other as it was, and both dream the same noise."""
        return self.select(range(self.batch_size))

    def select(self, indices: Sequence[int]) -> WorldState:
        """Return copies of the given rows, in that order; a row may be taken more than once."""
        rows = torch.as_tensor(list(indices), dtype=torch.int64, device=self.times.device)
        return WorldState(
            cache=self.cache.select(rows),
            times=self.times[rows],
            recent=self.recent[rows],
            past_actions=self.past_actions[rows],
            readout=self.readout[rows],
            generators=tuple(_copy_generator(self.generators[int(i)]) for i in rows),
            grid=self.grid,
            frames=self.frames[rows.cpu().numpy()],
        )

    def reseed(self, seeds: Sequence[int]) -> WorldState:
        """Return the same worlds (buffers shared) with new noise generators, one seed per row: another future."""
        return dataclasses.replace(self, generators=tuple(torch.Generator().manual_seed(int(seed)) for seed in seeds))

    @torch.inference_mode()
    def put(self, indices: Sequence[int], other: WorldState) -> WorldState:
        """Return the state with the given rows replaced by the rows of ``other`` (written in place)."""
        if len(indices) != other.batch_size or self.grid != other.grid:
            raise UsageError(
                "WorldState.put",
                got=f"{other.batch_size} rows of grid {other.grid}",
                allowed=f"{len(indices)} rows of grid {self.grid}",
                fix="give one index per row, of the same model and frame size",
            )
        rows = torch.as_tensor(list(indices), dtype=torch.int64, device=self.times.device)
        self.cache.put(rows, other.cache)
        self.times[rows] = other.times
        self.recent[rows] = other.recent
        self.past_actions[rows] = other.past_actions
        self.readout[rows] = other.readout
        generators, frames = list(self.generators), self.frames.copy()
        for position, index in enumerate(indices):
            generators[index] = _copy_generator(other.generators[position])
            frames[index] = other.frames[position]
        return dataclasses.replace(self, generators=tuple(generators), frames=frames)

    @classmethod
    def join(cls, states: Sequence[WorldState]) -> WorldState:
        """Return one batch of all rows of ``states``, copied."""
        grids = {state.grid for state in states}
        if len(grids) != 1:
            raise UsageError(
                "WorldState.join", got=f"grids {sorted(grids)}", allowed="states of one frame size", fix="join per size"
            )
        return cls(
            cache=StreamCache.join([state.cache for state in states]),
            times=torch.cat([state.times for state in states]),
            recent=torch.cat([state.recent for state in states]),
            past_actions=torch.cat([state.past_actions for state in states]),
            readout=torch.cat([state.readout for state in states]),
            generators=tuple(_copy_generator(generator) for state in states for generator in state.generators),
            grid=states[0].grid,
            frames=np.concatenate([state.frames for state in states]),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as safetensors, under a temporary name first."""
        target = Path(path)
        tensors = {
            **self.cache.tensors(),
            "times": self.times,
            "recent": self.recent,
            "past_actions": self.past_actions,
            "readout": self.readout,
            "generators": torch.stack([generator.get_state() for generator in self.generators]),
            "grid": torch.tensor(self.grid),
            "frames": torch.from_numpy(self.frames),
        }
        temporary = target.with_name(target.name + ".tmp")
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)
        temporary.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> WorldState:
        """Read a state written by `save`; UsageError if the file is something else."""
        try:
            read, _ = read_tensors(path, device=str(device))
            return cls._of(read)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, IndexError) as error:
            raise UsageError(
                "world state file",
                got=f"{path} ({error})",
                allowed="a file written by WorldState.save",
                fix="save again",
            ) from error

    @classmethod
    def _of(cls, read: Mapping[str, Tensor]) -> WorldState:
        """Undo `save`; ValueError and others where parts are missing or contradict each other."""
        generators = []
        for saved in read["generators"].cpu():
            generator = torch.Generator()
            generator.set_state(saved.clone())
            generators.append(generator)
        rows, columns = (int(side) for side in read["grid"].reshape(2))
        cache, frames = StreamCache.of(read), read["frames"].cpu()
        b, height, width, colours = frames.shape
        per_world = [
            *cache.tensors().values(),
            *(read[name] for name in ("times", "recent", "past_actions", "readout")),
        ]
        if any(tensor.ndim < 1 or len(tensor) != len(generators) for tensor in (frames, *per_world)):
            raise ValueError(f"other numbers of worlds than {len(generators)}")
        whole = frames.dtype == torch.uint8 and read["times"].dtype == torch.int64 and bool((read["times"] >= 0).all())
        if not whole or b < 1 or colours != 3 or read["recent"].shape[2:] != frames.shape[1:]:
            raise ValueError("frames or times of another kind")
        if rows < 1 or columns < 1 or height % rows or width % columns or height // rows != width // columns:
            raise ValueError(f"frames of {height}x{width} pixels as {rows}x{columns} patches")
        return cls(
            cache=cache,
            times=read["times"],
            recent=read["recent"],
            past_actions=read["past_actions"],
            readout=read["readout"],
            generators=tuple(generators),
            grid=(rows, columns),
            frames=frames.numpy(),
        )


def _copy_generator(generator: torch.Generator) -> torch.Generator:
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return copy
