"""What was played, from the beginning of a scene, and its form in a permalink. Knows no world.

A link is base64url of deflated JSON: the beginning, and runs of equal steps as [count, sampler steps, level, ...].
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from worldsim.errors import UsageError
from worldsim.play.controls import LEVELS
from worldsim.play.protocol import MAX_SEED, are_factors

VERSION = 1
_MAX_JSON = 200_000
_KEYS = {"v", "seed", "task", "factors", "checkpoint", "runs"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beginning:
    """Where a scene starts: seed, task and pinned factors of the true world, and who dreams it."""

    seed: int
    checkpoint: str
    task: str | None = None
    factors: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Stride:
    """One step that was played: its levels (-127 .. 127) and the sampler steps that its frame was dreamt with."""

    levels: tuple[int, ...]
    num_steps: int


def encode(beginning: Beginning, strides: Sequence[Stride]) -> str:
    """Return the link of what was played."""
    runs = [[len(list(equal)), stride.num_steps, *stride.levels] for stride, equal in itertools.groupby(strides)]
    data = {"v": VERSION, **dataclasses.asdict(beginning), "runs": runs}
    packed = zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode(link: str, max_steps: int) -> tuple[Beginning, list[Stride]]:
    """Undo `encode`; UsageError for what is no link, and for one of more than ``max_steps`` steps."""
    try:
        packed = base64.b64decode(link.encode("ascii") + b"=" * (-len(link) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, _MAX_JSON)
        data = json.loads(text) if unpacker.eof else None
    except (ValueError, binascii.Error, zlib.error, RecursionError) as error:
        raise _no_link(type(error).__name__) from error
    if not isinstance(data, dict) or set(data) != _KEYS or data["v"] != VERSION:
        raise _no_link("something else, or a link cut short")
    runs, seed, task, checkpoint = data["runs"], data["seed"], data["task"], data["checkpoint"]
    if not _whole(seed, 0, MAX_SEED) or not isinstance(checkpoint, str) or not isinstance(task, str | None):
        raise _no_link("another beginning")
    if not are_factors(data["factors"]) or not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise _no_link("other factors or steps")
    if sum(run[0] for run in runs) > max_steps:
        raise UsageError("link", got="a longer one", allowed=f"at most {max_steps} steps", fix="make it earlier")
    beginning = Beginning(seed=seed, checkpoint=checkpoint, task=task, factors=data["factors"])
    return beginning, [Stride(tuple(levels), steps) for count, steps, *levels in runs for _ in range(count)]


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_run(run: Any) -> bool:
    if not isinstance(run, list) or not 3 <= len(run) <= 2 + 32:
        return False
    count, steps, *levels = run
    return _whole(count, 1, 10_000) and _whole(steps, 1, 64) and all(_whole(x, -LEVELS, LEVELS) for x in levels)


def _no_link(got: str) -> UsageError:
    return UsageError("link", got=got, allowed="a link that this page made", fix="copy all of it, '#' included")
