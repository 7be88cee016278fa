"""WorldSpec: what a recording says about its world, carried unchanged into every checkpoint. Knows no model."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from worldsim.episode import Readout
from worldsim.errors import UsageError
from worldsim.foreign import is_list, is_mapping, is_number, is_whole, refused

MAX_FRAME_PIXELS = 1 << 24
MAX_NUMBERS = 1 << 14
"""Most action dimensions, and most numbers of all readouts together."""


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
    def from_json(cls, data: Any) -> WorldSpec:
        """Rebuild a spec from `to_json`; UsageError names keys that are missing or unknown, and values that cannot be."""
        if not is_mapping(data):
            raise refused("world spec", data, "the names and values of a world")
        fields = {field.name for field in dataclasses.fields(cls)}
        data = {"action_choices": (), **data}
        if set(data) != fields:
            raise UsageError(
                "world spec",
                got=f"missing {sorted(fields - set(data))}, unknown {sorted(set(data) - fields)}",
                allowed=f"exactly the keys {sorted(fields)}",
                fix="the file was written by another version of worldsim: record or train again with this one",
            )
        for name, (fits, allowed) in _FIELDS.items():
            if not fits(data[name]):
                raise refused(f"world spec, {name}", data[name], allowed)
        readouts = tuple(
            Readout(name=r["name"], names=tuple(r["names"]), units=tuple(r["units"])) for r in data["readouts"]
        )
        lists = {
            key: tuple(data[key])
            for key in ("frame_shape", "action_names", "action_low", "action_high", "action_choices")
        }
        numbers = {key: tuple(map(float, data[key])) for key in ("action_low", "action_high")}
        return cls(**{**data, **lists, **numbers, "frame_rate_hz": float(data["frame_rate_hz"]), "readouts": readouts})


def _is_shape(value: Any) -> bool:
    return (
        is_list(value, int, 3)
        and len(value) == 3
        and value[2] == 3
        and min(value) >= 1
        and math.prod(value[:2]) <= MAX_FRAME_PIXELS
    )


def _are_bounds(value: Any) -> bool:
    """Return whether all are numbers that float32 has, infinities among them."""
    largest = float(np.finfo(np.float32).max)
    return is_list(value, object, MAX_NUMBERS) and all(
        is_number(one, -largest, largest) or (isinstance(one, float) and math.isinf(one)) for one in value
    )


def _are_readouts(value: Any) -> bool:
    if not is_list(value, Mapping, MAX_NUMBERS) or not all({"name", "names", "units"} == set(one) for one in value):
        return False
    texts = [one[key] for one in value for key in ("names", "units")]
    names = [one["name"] for one in value]
    return (
        all(is_list(text, str, MAX_NUMBERS) for text in texts)
        and sum(map(len, texts)) <= 2 * MAX_NUMBERS
        and all(isinstance(name, str) and _is_plain(name) for name in names)
        and len(set(names)) == len(names)
    )


def _is_plain(name: str) -> bool:
    """Return whether a name may stand in that of a file or of a weight: it leads to no other folder or part."""
    return re.fullmatch(r"[^/\\.\x00-\x1f]{1,200}", name) is not None


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "env_id": (lambda x: isinstance(x, str) and 0 < len(x) <= 1000, "the id of an environment"),
    "env_kwargs": (is_mapping, "arguments by name"),
    "frame_shape": (_is_shape, f"height, width and 3, of at most {MAX_FRAME_PIXELS:,} pixels"),
    "action_names": (lambda x: is_list(x, str, MAX_NUMBERS) and len(x) > 0, "a list of names"),
    "action_low": (_are_bounds, "a list of numbers"),
    "action_high": (_are_bounds, "a list of numbers"),
    "action_choices": (lambda x: is_list(x, int, MAX_NUMBERS) and all(map(is_whole, x)), "a list of whole numbers"),
    "frame_rate_hz": (lambda x: is_number(x, 1e-6, 1e6), "frames a second, more than 0"),
    "context_steps": (lambda x: is_whole(x, 0, 10_000), "a whole number, 0 .. 10000"),
    "readouts": (_are_readouts, "a list of {name, names, units}, their names without slashes and dots"),
}
"""What values of a file a spec is made of, and in words."""
