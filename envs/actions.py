"""Actions of any flat kind as float32 rows with bounds, and back. Knows no file and no frame.

Recordings, models and dreams know rows only. Numbers stay what they are. A choice of one among n becomes n numbers, a one where it was chosen (as
`gymnasium.spaces.flatten` does it), since the number of a choice is a name and no amount.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from jaxtyping import Float32

from worldsim.errors import UsageError
from worldsim.spec import WorldSpec

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
    switches: bool = False
    """Whether elements are off or on."""
    remarks: tuple[str, ...] = ()
    """What the account says about it."""

    @classmethod
    def of(cls, seen: ActionRange, space: gym.Space | None, names: Sequence[str]) -> FlatActions:
        """Choose by the declared space, or by what was seen: single whole numbers are choices, all else amounts."""
        if isinstance(space, Discrete | MultiDiscrete):
            return cls.of_space(space)
        if space is not None and not isinstance(space, Box | MultiBinary):
            fix = "flatten the actions first, with minari.DataCollector or by hand"
            allowed = "Box, Discrete, MultiDiscrete or MultiBinary"
            raise UsageError("action space", got=type(space).__name__, allowed=allowed, fix=fix)
        if space is None and seen.kind == "i" and len(seen.low) == 1:
            start = min(0, int(seen.low[0]))
            return cls._choices([int(seen.high[0]) - start + 1], [start], "whole numbers without a declared space")
        return cls._amounts(seen, space, names)

    @classmethod
    def of_space(cls, space: gym.Space) -> FlatActions:
        """Return the rule for all actions of a declared space; UsageError if these are no flat kind, or have no bounds."""
        if isinstance(space, Discrete):
            return cls._choices([int(space.n)], [int(space.start)], "Discrete")
        if isinstance(space, MultiDiscrete):
            return cls._choices(space.nvec.reshape(-1).tolist(), space.start.reshape(-1).tolist(), "MultiDiscrete")
        size = math.prod(space.shape or ())
        bounded = not isinstance(space, Box) or space.is_bounded()
        if not isinstance(space, Box | MultiBinary) or not bounded or not 1 <= size <= MAX_DIMENSIONS:
            raise UsageError(
                "action space",
                got=space,
                allowed=f"Discrete, MultiDiscrete, MultiBinary, or a bounded Box of at most {MAX_DIMENSIONS} numbers",
                fix="wrap the environment until its actions are of that kind (gymnasium.wrappers.RescaleAction bounds a Box)",
            )
        low, high = np.zeros(size), np.ones(size)
        if isinstance(space, Box):
            low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
        seen = ActionRange(shape=space.shape, kind=space.dtype.kind, low=low, high=high, rounded=False)
        return cls._amounts(seen, space, ())

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
        count, remarks, switches = len(seen.low), list[str](), False
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
            low, high, switches = np.zeros(count), np.ones(count), True
        else:
            remarks.append("action bounds: the least and greatest value seen, since the source declares none")
        if len(seen.shape) > 1:
            remarks.append(f"actions: rows of shape {seen.shape} became rows of {count} numbers")
        if seen.rounded:
            remarks.append("actions: rounded to float32")
        used = tuple(names) if len(names) == count else tuple(f"action_{k}" for k in range(count))
        lows, highs = tuple(low.tolist()), tuple(high.tolist())
        return cls(names=used, low=lows, high=highs, switches=switches, remarks=tuple(remarks))

    @property
    def choices(self) -> tuple[int, ...]:
        """What `WorldSpec.action_choices` says of such rows."""
        if self.switches:
            return (1,) * len(self.names)
        return self.sizes * (len(self.names) // sum(self.sizes)) if self.sizes else ()

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

    def draw(self, rng: np.random.Generator) -> Float32[np.ndarray, " a"]:
        """Return a random row: every choice equally likely, amounts evenly between their bounds."""
        if self.sizes:
            return np.concatenate([np.eye(size, dtype=np.float32)[rng.integers(size)] for size in self.sizes])
        row = rng.uniform(self.low, self.high)
        return (row >= 0.5).astype(np.float32) if self.switches else row.astype(np.float32)

    def native(self, row: Float32[np.ndarray, " a"], space: gym.Space) -> Any:
        """Return the action of ``space`` that a row stands for; the greatest number of a group is its choice."""
        if not self.sizes:
            values = np.asarray(row).reshape(space.shape or ())
            if self.switches:
                return (values >= 0.5).astype(space.dtype)
            assert isinstance(space, Box)
            values = values if space.dtype is None or space.dtype.kind == "f" else values.round()
            return np.clip(values.astype(space.dtype), space.low, space.high)
        groups = np.split(row, np.cumsum(self.sizes)[:-1])
        chosen = np.array([start + int(group.argmax()) for group, start in zip(groups, self.starts, strict=True)])
        return int(chosen[0]) if isinstance(space, Discrete) else chosen.reshape(space.shape or ()).astype(space.dtype)


class FlatActionWrapper(gym.ActionWrapper[Any, np.ndarray, Any]):
    """A world under the flat float32 rows by which it is recorded, dreamt and planned in, whatever its own actions are.

    What a policy or planner of a dream returns can so be done in the true world too: a choice is the greatest number of
    its group, a switch is on from one half, and amounts take their own shape and type again.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.flat = FlatActions.of_space(env.action_space)
        low, high = (np.asarray(bound, np.float32) for bound in (self.flat.low, self.flat.high))
        self.action_space = Box(low, high)

    def action(self, action: np.ndarray) -> Any:
        """Return the world's own action for a row (a,)."""
        return self.flat.native(action, self.env.action_space)


class ChoiceActionWrapper(gym.ActionWrapper[np.ndarray, Any, np.ndarray]):
    """A dream of a world of choices under a Discrete space (or MultiDiscrete, MultiBinary), for agents that need one.

    Choices count from 0, whatever the recorded world calls its first one. UsageError where actions are amounts.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        world = getattr(getattr(env.unwrapped, "model", None), "spec", None)
        sizes = world.action_choices if isinstance(world, WorldSpec) else ()
        if not sizes or (1 in sizes and max(sizes) > 1):
            raise UsageError(
                "env",
                got=env,
                allowed="a worldsim/Dream-v0 of a world of choices",
                fix="its actions are amounts: leave it as it is",
            )
        self.sizes = sizes
        if max(sizes) == 1:
            self.action_space = MultiBinary(len(sizes))
        else:
            self.action_space = Discrete(sizes[0]) if len(sizes) == 1 else MultiDiscrete(list(sizes))

    def action(self, action: Any) -> np.ndarray:
        """Return the dream's row (a,) for choices; UsageError for one that there is not."""
        return FlatActions.of_space(self.action_space).rows(np.asarray(action)[None], "the agent")[0]
