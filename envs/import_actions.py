"""Actions of any flat kind as float32 rows with bounds. Knows no file and no frame.

Numbers stay what they are. A choice of one among n becomes n numbers, a one where it was chosen (as
`gymnasium.spaces.flatten` does it), since the number of a choice is a name and no amount.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from jaxtyping import Float32

from worldsim.errors import UsageError

MAX_DIMENSIONS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionRange:
    """What actions were seen: their row's shape, kind of number, and the least and greatest of each element."""

    shape: tuple[int, ...]
    kind: str
    """numpy's letter for the kind of number: b, i, u or f."""
    low: np.ndarray
    high: np.ndarray
    rounded: bool
    """Whether some value changes when it becomes float32."""

    @classmethod
    def of(cls, actions: np.ndarray, where: str) -> ActionRange:
        """Look at the actions (T, ...) of one episode; UsageError if they are no numbers or too many a step."""
        size = int(np.prod(actions.shape[1:], dtype=np.int64))
        if actions.dtype.kind not in "biuf" or not 1 <= size <= MAX_DIMENSIONS:
            raise UsageError(
                f"actions of {where}",
                got=f"{actions.dtype} {actions.shape}",
                allowed=f"a row of 1 to {MAX_DIMENSIONS} numbers for every step",
                fix="store actions as numbers, (steps, dimensions)",
            )
        rows = actions.reshape(len(actions), -1)
        single = rows.astype(np.float32)
        kind = {"u": "i"}.get(actions.dtype.kind, actions.dtype.kind)
        rounded = bool(np.any(single.astype(np.float64) != rows)) if kind != "b" else False
        low, high = rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
        return cls(shape=actions.shape[1:], kind=kind, low=low, high=high, rounded=rounded)

    def merged(self, other: ActionRange, where: str) -> ActionRange:
        """Return the range of both; UsageError, naming the later episode, if they are of different kinds."""
        if (self.shape, self.kind) != (other.shape, other.kind):
            raise UsageError(
                f"actions of {where}",
                got=f"rows of shape {other.shape} (numbers of kind {other.kind!r})",
                allowed=f"rows of shape {self.shape} (kind {self.kind!r}) as in the episodes before",
                fix="import episodes of one action space only",
            )
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return dataclasses.replace(self, low=low, high=high, rounded=self.rounded or other.rounded)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlatActions:
    """How actions become flat float32 rows, with a name and bounds for each number."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    sizes: tuple[int, ...] = ()
    """Numbers of choices of each element; empty where elements are amounts."""
    starts: tuple[int, ...] = ()
    """The first choice of each element."""
    remarks: tuple[str, ...] = ()
    """What the account says about it."""

    @classmethod
    def of(cls, seen: ActionRange, space: gym.Space | None, names: Sequence[str]) -> FlatActions:
        """Choose by the declared space, or by what was seen: single whole numbers are choices, all else amounts."""
        if isinstance(space, Discrete):
            return cls._choices([int(space.n)], [int(space.start)], "Discrete")
        if isinstance(space, MultiDiscrete):
            return cls._choices(space.nvec.reshape(-1).tolist(), space.start.reshape(-1).tolist(), "MultiDiscrete")
        if space is not None and not isinstance(space, Box | MultiBinary):
            fix = "flatten the actions first, with minari.DataCollector or by hand"
            allowed = "Box, Discrete, MultiDiscrete or MultiBinary"
            raise UsageError("action space", got=type(space).__name__, allowed=allowed, fix=fix)
        if space is None and seen.kind == "i" and len(seen.low) == 1:
            start = min(0, int(seen.low[0]))
            return cls._choices([int(seen.high[0]) - start + 1], [start], "whole numbers without a declared space")
        return cls._amounts(seen, space, names)

    @classmethod
    def _choices(cls, sizes: list[int], starts: list[int], what: str) -> FlatActions:
        if sum(sizes) > MAX_DIMENSIONS:
            allowed = f"at most {MAX_DIMENSIONS} choices"
            raise UsageError("action space", got=sizes, allowed=allowed, fix="give amounts as floating-point numbers")
        one = len(sizes) == 1
        names = [
            f"action_is_{start + k}" if one else f"action_{element}_is_{start + k}"
            for element, (size, start) in enumerate(zip(sizes, starts, strict=True))
            for k in range(size)
        ]
        count = sum(sizes)
        return cls(
            names=tuple(names),
            low=(0.0,) * count,
            high=(1.0,) * count,
            sizes=tuple(sizes),
            starts=tuple(starts),
            remarks=(f"actions ({what}): each choice became one of {count} numbers, 1 where chosen and 0 elsewhere",),
        )

    @classmethod
    def _amounts(cls, seen: ActionRange, space: gym.Space | None, names: Sequence[str]) -> FlatActions:
        count, remarks = len(seen.low), list[str]()
        low, high = (values.astype(np.float32).astype(np.float64) for values in (seen.low, seen.high))
        if isinstance(space, Box):
            declared = [np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high)]
            if len(declared[0]) != count:
                fix = "the dataset contradicts itself: make it anew"
                raise UsageError(
                    "actions", got=f"{count} numbers a step", allowed=f"{space.shape} as declared", fix=fix
                )
            bounded = np.isfinite(declared[0]) & np.isfinite(declared[1])
            if np.any(bounded & ((low < declared[0]) | (high > declared[1]))):
                remarks.append("action bounds: wider than declared, since some actions lie outside")
            low = np.where(bounded, np.minimum(low, declared[0]), low)
            high = np.where(bounded, np.maximum(high, declared[1]), high)
            if not bounded.all():
                remarks.append("action bounds: the least and greatest value seen where none are declared")
        elif isinstance(space, MultiBinary) or seen.kind == "b":
            low, high = np.zeros(count), np.ones(count)
        else:
            remarks.append("action bounds: the least and greatest value seen, since the source declares none")
        if len(seen.shape) > 1:
            remarks.append(f"actions: rows of shape {seen.shape} became rows of {count} numbers")
        if seen.rounded:
            remarks.append("actions: rounded to float32")
        used = tuple(names) if len(names) == count else tuple(f"action_{k}" for k in range(count))
        return cls(names=used, low=tuple(low.tolist()), high=tuple(high.tolist()), remarks=tuple(remarks))

    def repeated(self, times: int) -> FlatActions:
        """Return the rule for ``times`` actions in a row, side by side."""
        if times == 1:
            return self
        names = tuple(f"{name}@{k}" for k in range(times) for name in self.names)
        remark = f"actions: the {times} actions between two kept frames stand side by side, first one first"
        return dataclasses.replace(
            self, names=names, low=self.low * times, high=self.high * times, remarks=(*self.remarks, remark)
        )

    def rows(self, actions: np.ndarray, where: str) -> Float32[np.ndarray, "t a"]:
        """Return raw actions (T, ...) as rows; UsageError for a choice that is none of the declared ones."""
        flat = actions.reshape(len(actions), -1)
        if not self.sizes:
            return flat.astype(np.float32)
        parts = []
        for values, size, start in zip(flat.T, self.sizes, self.starts, strict=True):
            chosen = values.astype(np.int64) - start
            if np.any(chosen != values - start) or np.any((chosen < 0) | (chosen >= size)):
                allowed = f"whole numbers {start} .. {start + size - 1}"
                got = f"{values.min()} .. {values.max()}"
                raise UsageError(
                    f"actions of {where}", got=got, allowed=allowed, fix="correct the declared action space"
                )
            parts.append(np.eye(size, dtype=np.float32)[chosen])
        return np.concatenate(parts, axis=1)
