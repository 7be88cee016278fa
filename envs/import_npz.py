"""A source of episodes: NumPy archives, one .npz an episode. Reads no pickles, and no array before its size is known."""

from __future__ import annotations

import dataclasses
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from worldsim.envs.import_source import (
    BLOCK_FRAMES,
    MAX_COLUMN_BYTES,
    Columns,
    Pictures,
    Unusable,
    broken,
    check_bytes,
    check_count,
    choose_image,
    is_flat,
    is_image,
    natural,
    role_of,
)
from worldsim.errors import UsageError
from worldsim.foreign import DEFLATED, file_size

DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    IndexError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What a damaged archive, or a header of nonsense, raises when it is read."""
MAX_HEADER_BYTES = 10_000


@runtime_checkable
class Readable(Protocol):
    """What is read from: an open file, or a member of an archive."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayHeader:
    """What the beginning of a .npy file says."""

    shape: tuple[int, ...]
    dtype: np.dtype
    column_major: bool
    held: int = 0
    """Bytes of the archive's member, header and numbers."""


def read_header(file: Readable, where: str) -> ArrayHeader:
    """Read the header of a .npy file, up to its first number; UsageError if it is none."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise broken(where, f"an array file of version {version}")
        count = 2 if version == (1, 0) else 4
        length = file.read(count)
        if len(length) < count or int.from_bytes(length, "little") > MAX_HEADER_BYTES:
            raise broken(where, f"a header of {int.from_bytes(length, 'little'):,} bytes")
        header = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, column_major, dtype = read(header, max_header_size=MAX_HEADER_BYTES)
    except UsageError:
        raise
    except DAMAGE as error:
        raise broken(where, error) from error
    if min(shape, default=0) < 0 or max(shape, default=0) > 1 << 62 or len(shape) > 32:
        raise broken(where, f"the shape {str(shape)[:200]}")
    return ArrayHeader(shape=shape, dtype=dtype, column_major=column_major)


def load_array(file: Readable, where: str, most: int = MAX_COLUMN_BYTES) -> np.ndarray:
    """Read a whole .npy file of at most ``most`` bytes; UsageError if it is damaged, too large, or needs a pickle."""
    header = read_header(file, where)
    if header.dtype.hasobject:
        fix = "store numbers: np.asarray(values, np.float32)"
        raise UsageError(where, got="Python objects (a pickle, which could run code)", allowed="numbers", fix=fix)
    check_bytes(header.shape, header.dtype, min(most, MAX_COLUMN_BYTES), where)
    size = math.prod(header.shape) * header.dtype.itemsize
    try:
        content = file.read(size)
    except DAMAGE as error:
        raise broken(where, error) from error
    if len(content) != size:
        raise broken(where, f"cut off: {len(content)} of {size} bytes")
    order = "F" if header.column_major else "C"
    return np.frombuffer(content, header.dtype).reshape(header.shape, order=order)


def _check_member(member: zipfile.ZipInfo, size: int, where: str) -> None:
    """Raise UsageError if a member of an archive of ``size`` bytes is packed in another way than NumPy's, or says it holds too much."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise broken(where, f"packed by method {member.compress_type}", fix="np.savez_compressed packs it anew")
    if member.compress_size > size or member.file_size > DEFLATED * member.compress_size:
        raise broken(where, f"{member.file_size:,} bytes, packed in {member.compress_size:,} of {size:,}")


class NpzSource:
    """Archives with ``frames`` (T+1 or T, h, w, 3) uint8, ``actions`` (T, ...), perhaps ``rewards`` and ``terminated``.

    Any other array of numbers with one row a frame becomes a readout.
    """

    kind = "npz"
    action_space: gym.Space | None = None
    action_names: tuple[str, ...] = ()
    frame_rate: float | None = None

    def __init__(self, path: Path, image: str | None) -> None:
        self.name = path.stem
        self.image = image
        self.remarks: list[str] = []
        self.paths = [path] if path.is_file() else sorted(path.glob("*.npz"), key=lambda file: natural(file.name))

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, position: int) -> str:
        """Return the archive's name."""
        return self.paths[position].name

    def _headers(self, position: int) -> dict[str, ArrayHeader]:
        """Return the header of every array in an archive."""
        path = self.paths[position]
        try:
            size = file_size(path)
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
                check_count(len(members), path.name)
                headers = {}
                for member in members:
                    where = f"{path.name}, {member.filename}"
                    _check_member(member, size, where)
                    with archive.open(member) as file:
                        header = read_header(file, where)
                    headers[member.filename.removesuffix(".npy")] = dataclasses.replace(header, held=member.file_size)
                return headers
        except UsageError:
            raise
        except DAMAGE as error:
            raise broken(path.name, error) from error

    def _image(self, position: int, headers: dict[str, ArrayHeader]) -> str:
        if self.image is None and "frames" in headers:
            return "frames"
        found = [name for name, header in headers.items() if is_image(header.shape, header.dtype)]
        return choose_image(found, self.image, self.label(position))

    def pictures(self, position: int) -> Pictures:
        """Look at the header of the frames."""
        headers = self._headers(position)
        name = self._image(position, headers)
        header = headers[name]
        if header.dtype != np.uint8 or not header.shape or header.column_major:
            raise UsageError(
                f"frames of {self.label(position)}, {name}",
                got=f"{header.dtype} {header.shape}" + ", column-major" * header.column_major,
                allowed="uint8, 0 .. 255, row-major",
                fix="np.ascontiguousarray((frames * 255).round().astype(np.uint8)) if they are 0 .. 1",
            )
        pictures = Pictures.of(header.shape, self.label(position))
        if math.prod(header.shape) > header.held:
            raise broken(f"{self.label(position)}, {name}", f"cut off: {header.held:,} bytes for {header.shape}")
        return pictures

    def columns(self, position: int) -> Columns:
        """Read all arrays but the frames."""
        headers, where = self._headers(position), self.label(position)
        image, roles = self._image(position, headers), role_of(headers)
        if "actions" not in roles:
            raise Unusable("no actions")
        frames = headers[image].shape[0]
        left_out, readouts = dict[str, str](), list[str]()
        for name in headers.keys() - {image, *roles.values()}:
            header = headers[name]
            if is_flat(header.shape, header.dtype) and header.shape[0] == frames:
                readouts.append(name)
            else:
                left_out[name] = f"{header.dtype} {header.shape}: no row of numbers for each frame"
        if roles.get("terminated") in ("dones", "done"):
            self.remarks.append(f"{roles['terminated']}: taken as terminations")
        with zipfile.ZipFile(self.paths[position]) as archive:

            def load(name: str) -> np.ndarray:
                with archive.open(f"{name}.npy") as file:
                    return load_array(file, f"{where}, {name}")

            each = [headers[name] for name in (*roles.values(), *readouts)]
            total = sum(math.prod(header.shape) * header.dtype.itemsize for header in each)
            check_bytes((total,), np.dtype(np.uint8), MAX_COLUMN_BYTES, where)
            taken = {role: load(name) for role, name in roles.items()}
            return Columns(**taken, readouts={name: load(name) for name in sorted(readouts)}, left_out=left_out)

    def blocks(self, position: int) -> Iterator[np.ndarray]:
        """Read the frames as they come out of the archive."""
        pictures, where = self.pictures(position), self.label(position)
        name = self._image(position, self._headers(position))
        per_frame = pictures.height * pictures.width * pictures.channels
        try:
            with zipfile.ZipFile(self.paths[position]) as archive, archive.open(f"{name}.npy") as file:
                shape = read_header(file, where).shape
                for first in range(0, pictures.count, BLOCK_FRAMES):
                    rows = min(BLOCK_FRAMES, pictures.count - first)
                    content = file.read(rows * per_frame)
                    if len(content) != rows * per_frame:
                        raise broken(f"{where}, {name}", f"cut off in frames {first} .. {first + rows - 1}")
                    yield pictures.lay_out(np.frombuffer(content, np.uint8).reshape(rows, *shape[1:]))
        except UsageError:
            raise
        except DAMAGE as error:
            raise broken(f"{where}, {name}", error) from error

    def files(self) -> Sequence[Path]:
        """Return the archives."""
        return self.paths

    def close(self) -> None:
        """Do nothing: archives are closed after every reading."""
