"""WorldSpec: what a recording says about its world, carried unchanged into every checkpoint. Knows no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from worldsim.episode import Readout
from worldsim.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """Everything that must agree between a recording, a checkpoint and the dream made of it.

    Frames are uint8 of ``frame_shape`` = (height, width, 3); actions are float32 within ``action_low`` and
    ``action_high``, their meaning named one by one in ``action_names``; ``context_steps`` is the length of the lead-in
    that a reset hands out (that many actions, one frame more).

    Where actions are no amounts, ``action_choices`` divides their dimensions into groups of neighbours: of a group of
    n >= 2 one is chosen (the greatest; 1 there and 0 elsewhere), and a group of one is a switch (on from the middle of its
    bounds up).
    """

    env_id: str
    env_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    frame_shape: tuple[int, int, int]
    action_names: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    frame_rate_hz: float
    context_steps: int
    readouts: tuple[Readout, ...] = ()
    action_choices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.action_names) == len(self.action_low) == len(self.action_high):
            raise UsageError(
                "WorldSpec action_names",
                got=f"{len(self.action_names)} names, {len(self.action_low)} lows, {len(self.action_high)} highs",
                allowed="one name, one low and one high per action dimension",
                fix="name every action dimension",
            )
        if self.action_choices and (min(self.action_choices) < 1 or sum(self.action_choices) != self.action_dim):
            raise UsageError(
                "WorldSpec action_choices",
                got=self.action_choices,
                allowed=f"sizes of groups, {self.action_dim} dimensions in sum",
                fix="leave it empty where all actions are amounts",
            )

    @property
    def action_dim(self) -> int:
        """Number of action dimensions."""
        return len(self.action_names)

    def readout(self, name: str) -> Readout:
        """Return the readout called ``name``; UsageError if the world declares none such."""
        for readout in self.readouts:
            if readout.name == name:
                return readout
        known = ", ".join(r.name for r in self.readouts) or "none"
        raise UsageError("readout", got=name, allowed=f"the world's readouts: {known}", fix="record the column first")

    def decided(self, actions: Float32[np.ndarray, "*rows a"]) -> Float32[np.ndarray, "*rows a"]:
        """Return the actions that are taken for ``actions``: of every choice one, every switch on or off, amounts as they are."""
        if not self.action_choices:
            return actions
        low, high = np.asarray(self.action_low, np.float32), np.asarray(self.action_high, np.float32)
        taken, start = np.empty_like(actions), 0
        for size in self.action_choices:
            group = actions[..., start : start + size]
            if size == 1:
                on = group >= (low[start] + high[start]) / 2
            else:
                on = np.arange(size) == group.argmax(-1)[..., None]
            taken[..., start : start + size] = np.where(on, high[start], low[start])
            start += size
        return taken

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a JSON-able dictionary; worlds without choices do not speak of them, as before there were any."""
        data = dataclasses.asdict(self)
        if not self.action_choices:
            del data["action_choices"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorldSpec:
        """Rebuild a spec from `to_json`; UsageError names keys that are missing or unknown."""
        fields = {field.name for field in dataclasses.fields(cls)}
        data = {"action_choices": (), **data}
        if set(data) != fields:
            raise UsageError(
                "world spec",
                got=f"missing {sorted(fields - set(data))}, unknown {sorted(set(data) - fields)}",
                allowed=f"exactly the keys {sorted(fields)}",
                fix="the file was written by another version of worldsim: record or train again with this one",
            )
        readouts = tuple(
            Readout(name=r["name"], names=tuple(r["names"]), units=tuple(r["units"])) for r in data["readouts"]
        )
        lists = {
            key: tuple(data[key])
            for key in ("frame_shape", "action_names", "action_low", "action_high", "action_choices")
        }
        return cls(**{**data, **lists, "readouts": readouts})
