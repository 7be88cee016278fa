"""Episode: the one place where the alignment of frames and actions is stated. Knows no environment and no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from worldsim.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Readout:
    """A named column that a world declares beside its frames: one row per frame, learnt by the model as a head.

    ``names`` has one entry per element of the (flat) row, with units in ``units``.
    """

    name: str
    names: tuple[str, ...]
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.units):
            raise UsageError(
                f"Readout {self.name!r} units",
                got=f"{len(self.units)} units for {len(self.names)} names",
                allowed="one unit per name",
                fix="write '1' for what has no unit",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """T actions and T+1 frames: ``actions[t]`` is applied at ``frames[t]`` and yields ``frames[t+1]``.

    The same step yields ``rewards[t]``, ``terminated[t]`` and ``truncated[t]``. Every array in ``readouts`` has T+1
    rows, row t describing ``frames[t]``. Every array in ``extras`` has T rows, row t describing the step from
    ``frames[t]`` to ``frames[t+1]`` (for example contacts). Nothing else in worldsim restates this.
    """

    actions: Float32[np.ndarray, "t a"]
    frames: UInt8[np.ndarray, "t+1 h w 3"]
    rewards: Float32[np.ndarray, " t"]
    terminated: Bool[np.ndarray, " t"]
    truncated: Bool[np.ndarray, " t"]
    seed: int
    readouts: Mapping[str, Float32[np.ndarray, "t+1 ..."]] = dataclasses.field(default_factory=dict)
    extras: Mapping[str, Shaped[np.ndarray, "t ..."]] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = len(self.actions)
        lengths = {
            "frames": (len(self.frames), steps + 1),
            "rewards": (len(self.rewards), steps),
            "terminated": (len(self.terminated), steps),
            "truncated": (len(self.truncated), steps),
            **{f"readouts[{name!r}]": (len(rows), steps + 1) for name, rows in self.readouts.items()},
            **{f"extras[{name!r}]": (len(rows), steps) for name, rows in self.extras.items()},
        }
        for name, (got, wanted) in lengths.items():
            if got != wanted:
                raise UsageError(
                    f"Episode {name}",
                    got=f"{got} rows",
                    allowed=f"{wanted} rows for {steps} actions",
                    fix="actions[t] is applied at frames[t] and yields frames[t+1]: T actions, T+1 frames",
                )

    @property
    def num_steps(self) -> int:
        """Number of actions, one less than the number of frames."""
        return len(self.actions)
