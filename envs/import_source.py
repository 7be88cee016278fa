"""What `worldsim import` asks of a source of episodes, and the words for what is wrong with one.

Knows no file format: every kind of source has a module of its own (`worldsim.envs.import_npz`, ...).
"""

from __future__ import annotations

import dataclasses
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from PIL import Image

from worldsim.errors import UsageError
from worldsim.spec import MAX_FRAME_PIXELS

MAX_EPISODE_BYTES = 8 << 30
"""Largest episode that is held in memory, as frames of the recording's size."""
MAX_COLUMN_BYTES = 1 << 30
"""Largest column of an episode beside its frames; all of them together take no more."""
MAX_SOURCE_BYTES = 1 << 36
"""Largest array of frames that is read, a few at a time, as the source stores it."""
MAX_COLUMNS = 1000
BLOCK_FRAMES = 32
"""Frames that are read and converted at a time."""
ROLES = {
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminated": ("terminated", "terminations", "terminals", "dones", "done"),
    "truncated": ("truncated", "truncations", "timeouts"),
}
"""Names under which sources keep what an episode has beside its frames; the first that is there is taken."""

RESERVED = ("actions", "context", "frames", "is_success", "reward", "rewards", "terminated", "final_obs", "final_info")
"""Names that a dream gives to other things than a readout."""

PICTURE_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for damaged pictures, and for ones that are far larger than their files."""


class Unusable(Exception):
    """An episode that cannot be part of a recording; its text is the reason that the account gives."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """What an episode has beside its frames, as the source stores it and before anything is aligned.

    ``actions`` has a row per step, (T, ...), or one more, whose outcome no frame shows; so have ``rewards``,
    ``terminated`` and ``truncated``, if there are any. ``readouts`` have a row per frame. ``left_out`` gives the reason
    for every column that is not taken.
    """

    actions: np.ndarray
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None
    truncated: np.ndarray | None = None
    readouts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """The frames of an episode before they are read: how many, and how they lie in the source's arrays."""

    count: int
    height: int
    width: int
    channels: int
    """1 grey, 3 RGB, 4 RGB with an alpha channel."""
    channels_first: bool = False

    @classmethod
    def of(cls, shape: Sequence[int], where: str) -> Pictures:
        """Read an array's shape: (n, h, w), (n, h, w, c) or (n, c, h, w); UsageError for any other and for absurd ones.

        Unusable if there is no frame.
        """
        count, *sides = (int(side) for side in shape)
        first = False
        if len(sides) == 2:
            sides = [*sides, 1]
        if len(sides) == 3 and sides[2] not in (1, 3, 4) and sides[0] in (1, 3, 4):
            sides, first = [*sides[1:], sides[0]], True
        if count == 0:
            raise Unusable("no frames")
        if len(sides) != 3 or sides[2] not in (1, 3, 4) or not 1 <= sides[0] * sides[1] <= MAX_FRAME_PIXELS:
            raise UsageError(
                f"frames of {where}",
                got=f"shape {str(tuple(shape))[:200]}",
                allowed=f"(n, height, width, 3) of at most {MAX_FRAME_PIXELS:,} pixels; grey, RGBA or (n, 3, h, w) will do",
                fix="name the right array with --image, or store the frames in that shape",
            )
        return cls(count=count, height=sides[0], width=sides[1], channels=sides[2], channels_first=first)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    def lay_out(self, block: np.ndarray) -> np.ndarray:
        """Return the source's rows (n, ...) as (n, h, w, c)."""
        if self.channels_first:
            return np.moveaxis(block, 1, 3)
        return block.reshape(len(block), self.height, self.width, self.channels)


@runtime_checkable
class Source(Protocol):
    """Episodes of one dataset, by position 0, 1, ...: first looked at, then read one after the other.

    Whatever is wrong with a file is a UsageError that names file and episode; what makes a single episode of no use is
    `Unusable`.
    """

    kind: str
    name: str
    frame_rate: float | None
    """Frames a second, if the source says so."""
    action_space: gym.Space | None
    """The declared space of its actions, if there is one."""
    action_names: tuple[str, ...]
    remarks: list[str]
    """What holds of the whole source and must be told."""

    def __len__(self) -> int:
        """Return the number of episodes."""
        ...

    def label(self, position: int) -> str:
        """Return how errors and the account name an episode: its file, and the episode in it."""
        ...

    def pictures(self, position: int) -> Pictures:
        """Look at an episode's frames without reading them."""
        ...

    def columns(self, position: int) -> Columns:
        """Read everything of an episode but its frames."""
        ...

    def blocks(self, position: int) -> Iterator[np.ndarray]:
        """Read an episode's frames in order, a few at a time: uint8 (n, h, w, c)."""
        ...

    def files(self) -> Sequence[Path]:
        """Return every file that is read."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


def broken(where: str, reason: object, *, fix: str = "get the file again, or take it out of the folder") -> UsageError:
    """Return the UsageError for a file that cannot be read."""
    return UsageError(f"source {where}", got=str(reason), allowed="a whole, readable file", fix=fix)


def check_bytes(shape: Sequence[int], dtype: np.dtype, limit: int, where: str) -> None:
    """Raise UsageError if an array of ``shape`` would take more than ``limit`` bytes; nothing is allocated."""
    size = dtype.itemsize
    for side in shape:
        size = min(size * int(side), 1 << 80)  # as large as any, and still a number that can be printed
    if size > limit:
        fix = "split the episode, or give a smaller --size or a --frame_skip if these are frames"
        got = f"shape {str(tuple(shape))[:200]} of {str(dtype)[:40]}, {size / 1e9:.1f} GB"
        raise UsageError(where, got=got, allowed=f"at most {limit / 1e9:.1f} GB an episode", fix=fix)


def check_count(count: int, where: str) -> None:
    """Raise UsageError for more than `MAX_COLUMNS` columns."""
    if count > MAX_COLUMNS:
        raise broken(where, f"more than {MAX_COLUMNS} arrays in an episode", fix="leave out those that are no columns")


def is_flat(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Return whether a column can be a readout: one number or one vector of numbers a row."""
    return len(shape) in (1, 2) and dtype.kind in "biuf"


def is_image(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Return whether a column looks like pictures: uint8 rows of two or three axes."""
    return dtype == np.uint8 and len(shape) in (3, 4) and min(shape[1:3]) > 1


def choose_image(found: Iterable[str], asked: str | None, where: str) -> str:
    """Return the name of the pictures to take: the one asked for, the only one, or "frames".

    UsageError if it is not there or several are; Unusable if there are none. The last part of a path is enough.
    """
    names = sorted(found)
    if asked is not None:
        fitting = [name for name in names if asked in (name, name.rpartition("/")[2])]
        fitting = fitting or [name for name in names if name.rpartition("/")[2] == f"{asked}_image"]
        if len(fitting) != 1:
            fix = "give --image one of these names"
            raise UsageError("image", got=asked, allowed=f"pictures of {where}: {', '.join(names) or 'none'}", fix=fix)
        return fitting[0]
    if not names:
        raise Unusable("no frames: no uint8 array of pictures")
    if len(names) > 1 and "frames" not in names:
        raise UsageError(
            "image",
            got="none",
            allowed=f"one of the pictures of {where}: {', '.join(names)}",
            fix=f"--image {names[0]}",
        )
    return names[0] if len(names) == 1 else "frames"


def role_of(names: Iterable[str]) -> dict[str, str]:
    """Return which of the columns ``names`` plays which role of `ROLES`."""
    known = set(names)
    found = {role: next((alias for alias in aliases if alias in known), None) for role, aliases in ROLES.items()}
    return {role: name for role, name in found.items() if name is not None}


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return the sorting key by which demo_2 comes before demo_10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part) for part in parts]


def plain_name(name: str) -> str:
    """Return a column's name as it may stand in files, models and infos: letters, digits and underscores."""
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "column"
    return f"{plain}_column" if plain in RESERVED else plain
