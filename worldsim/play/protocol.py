"""What a page may say: JSON messages checked into frozen dataclasses. Knows no world and no network.

`docs/play.md` describes the protocol in words. Everything a page sends is a guess until `parse` has looked at it.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldsim.errors import UsageError, suggestion

MAX_SEED = 2**31 - 1
MAX_RATE_HZ = 30
_MAX_FACTORS, _MAX_TEXT, _MAX_BODIES, _MAX_LEVELS = 24, 64, 5, 32
MAX_LINK = 12_000


def _field(accepts: Callable[[Any], bool], words: str, default: Any = dataclasses.MISSING) -> Any:
    metadata = {"accepts": accepts, "words": words}
    if isinstance(default, dict):
        return dataclasses.field(metadata=metadata, default_factory=dict)
    return dataclasses.field(metadata=metadata, default=default)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(low: int, high: int, default: Any = dataclasses.MISSING) -> Any:
    return _field(lambda value: _is_whole(value) and low <= value <= high, f"a whole number, {low} to {high}", default)


def _share() -> Any:
    return _field(lambda value: _is_number(value) and 0 <= value <= 1, "a number, 0 to 1")


def _flag() -> Any:
    return _field(lambda value: isinstance(value, bool), "true or false")


def _text(longest: int = _MAX_TEXT) -> Any:
    return _field(lambda value: isinstance(value, str) and len(value) <= longest, f"at most {longest} characters")


def _one_of(*names: str, default: Any = dataclasses.MISSING) -> Any:
    return _field(lambda value: value in names, " or ".join(map(str, names)), default)


def _is_level(value: Any) -> bool:
    return _is_number(value) and -1 <= value <= 1


def _are_levels(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= _MAX_LEVELS and all(map(_is_level, value))


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT
    return value is None or (_is_number(value) and abs(value) < 1e9)


def are_factors(value: Any) -> bool:
    """Return whether a value may be handed to a true world's reset: few short names with plain values or short lists."""
    if not isinstance(value, Mapping) or len(value) > _MAX_FACTORS:
        return False
    lists = {key: item if isinstance(item, list) else [item] for key, item in value.items()}
    return all(
        isinstance(key, str) and len(key) <= _MAX_TEXT and len(items) <= _MAX_BODIES and all(map(_is_plain, items))
        for key, items in lists.items()
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reset:
    """Begin a scene: of a seed, with factors of the true world pinned, and a task (None: the model's own reward)."""

    seed: int = _whole(0, MAX_SEED)
    task: str | None = _field(lambda value: value is None or (isinstance(value, str) and len(value) <= _MAX_TEXT),
                              "a task's name or null", None)  # fmt: skip
    factors: Mapping[str, Any] = _field(are_factors, "a few factors with numbers, names or short lists of them", {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Open:
    """Begin the scene of a permalink and play its actions."""

    link: str = _text(MAX_LINK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hold:
    """The controls as they are now, one level in -1 .. 1 per action. ``id`` is told back with the frame it led to."""

    levels: Sequence[float | int] = _field(_are_levels, f"1 to {_MAX_LEVELS} numbers, -1 to 1")
    id: int = _whole(0, MAX_SEED, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pause:
    """Stop the clock, or let it go on."""

    on: bool = _flag()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """Play one step while paused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewind:
    """Take steps back, as far as they are kept."""

    count: int = _whole(1, 1000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fork:
    """Keep this moment."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Return:
    """Go on from a kept moment."""

    fork: int = _whole(0, 1000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What is shown of the truth."""

    name: str = _one_of("frame", "depth", "segmentation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Sampler steps of a dreamt frame, from now on."""

    count: int = _whole(1, 64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Dream with another checkpoint, from the beginning of the scene."""

    name: str = _text(1000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Steps a second."""

    rate: int = _whole(1, MAX_RATE_HZ)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Begin a recording, or end it and ask for the file."""

    on: bool = _flag()
    format: str = _one_of("webp", "mp4", "npz", default="webp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """Ask for the permalink of what was played."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autopilot:
    """Let a planner steer, which imagines in the dream or in the truth; or steer again."""

    by: str = _one_of("off", "dream", "truth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Challenge:
    """Ask where a covered body is (again: the next question), or stop asking."""

    on: bool = _flag()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guess:
    """Answer with a place in the picture: shares of its width from the left and of its height from the top."""

    x: float | int = _share()
    y: float | int = _share()


Message = (
    Reset | Open | Hold | Pause | Step | Rewind | Fork | Return | View | Steps
    | Checkpoint | Speed | Record | Link | Autopilot | Challenge | Guess
)  # fmt: skip
MESSAGES: Mapping[str, type[Message]] = {
    kind.__name__.lower(): kind
    for kind in (Reset, Open, Hold, Pause, Step, Rewind, Fork, Return, View, Steps,
                 Checkpoint, Speed, Record, Link, Autopilot, Challenge, Guess)
}  # fmt: skip


def parse(text: str) -> Message:
    """Return the message of a JSON text ``{"type": ..., ...}``; UsageError for everything that is none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "message", got=type(error).__name__, allowed="one JSON object", fix='{"type": "pause", "on": true}'
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise UsageError(
            "message", got=reprlib.repr(data), allowed='an object with "type"', fix='{"type": "pause", "on": true}'
        )
    name = data.pop("type")
    if name not in MESSAGES:
        raise UsageError(
            "type", got=reprlib.repr(name), allowed=f"{len(MESSAGES)} names", fix=suggestion(name[:40], tuple(MESSAGES))
        )
    kind = MESSAGES[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = {key for key, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING}
    if not needed <= set(data) <= set(fields):
        keys = reprlib.repr(sorted(data))
        raise UsageError(name, got=f"keys {keys}", allowed=f"{', '.join(fields) or 'none'}", fix="see docs/play.md")
    for key, value in data.items():
        if not fields[key].metadata["accepts"](value):
            raise UsageError(
                f"{name}.{key}", got=reprlib.repr(value), allowed=fields[key].metadata["words"], fix="see docs/play.md"
            )
    return kind(**data)
