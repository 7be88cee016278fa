"""HDF5 files that a stranger may have made: only what lies in the file itself is read, and no more than it can hold.

What is not read is told as `Refused` (or as what h5py raises), for which callers have words of their own. Knows no layout.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

from worldsim.foreign import DEFLATED

MAX_CHUNK_BYTES = 1 << 28
"""Largest chunk, and most that one may unpack to, before it is looked at."""
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError)
"""What a damaged file raises when it is read."""
FILTERS = {1: DEFLATED, 2: 1, 3: 1, 32000: 100}
"""Filters by HDF5's numbers (gzip, shuffle, checksum, LZF), and how many times larger than it is stored one makes a chunk."""
GZIP = 1
FREE_BYTES = 1 << 20
"""What an array may declare without any of it being stored: its numbers are then all the same."""


class Refused(ValueError):
    """Something in a file that is not read; its text is the reason."""


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return a member of ``group`` that lies in the file itself; KeyError if there is none, Refused if it lies elsewhere."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Refused(f"{name} is a link, which may lead anywhere")
    found = group[name]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise Refused(f"{name} is an array that is kept in another file")
    if not isinstance(found, h5py.Group | h5py.Dataset) or (isinstance(found, h5py.Dataset) and found.shape is None):
        raise Refused(f"{name} is neither a group nor an array with numbers in it")
    return found


def address_of(group: h5py.Group) -> int:
    """Return where a group lies in its file, by whatever name it was found."""
    return h5o.get_info(group.id).addr


def attributes_of(group: h5py.Group) -> dict[str, Any]:
    """Return the attributes of a group, single numbers and texts; Refused for any other."""
    found: dict[str, Any] = {}
    for name in group.attrs:
        if group.attrs.get_id(name).shape != ():  # a list may name one long text a million times
            raise Refused(f"attribute {name} is no single number or text")
        value = group.attrs[name]
        found[name] = value.item() if isinstance(value, np.generic) else value
        if not isinstance(found[name], str | int | float):
            raise Refused(f"attribute {name} is a {type(found[name]).__name__}")
    return found


def check_stored(array: h5py.Dataset, limit: int, kinds: str = "biufS") -> None:
    """Raise Refused if an array is larger than ``limit`` bytes, than its file can hold, or may unpack to more than it says.

    ``kinds`` are numpy's letters for the types it may have: "O" where rows are read one by one, each of its own length.
    """
    size, stored = math.prod(array.shape) * array.dtype.itemsize, array.id.get_storage_size()
    if array.dtype.kind not in kinds:
        raise Refused(f"{array.name} holds {array.dtype}, no plain numbers")
    if size > limit:
        raise Refused(f"{array.name} of shape {array.shape} is larger than {limit:,} bytes")
    plist = array.id.get_create_plist()
    filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    if not set(filters) <= set(FILTERS) or len(set(filters)) < len(filters):
        raise Refused(f"{array.name} is packed by filters {filters} (h5repack -f GZIP=4 packs it anew)")
    ratio = math.prod(FILTERS[number] for number in filters)
    if stored > array.file.id.get_filesize() or size > FREE_BYTES + ratio * stored:
        raise Refused(f"{array.name} of shape {array.shape} is stored in {stored:,} bytes, which cannot hold it")
    if array.chunks is not None:
        _check_chunks(array, ratio, filters)


def _check_chunks(array: h5py.Dataset, ratio: int, filters: list[int]) -> None:
    """Raise Refused if a chunk is too large, or is so once it is unpacked, which HDF5 does without looking."""
    size = math.prod(array.chunks or ()) * array.dtype.itemsize
    if size > MAX_CHUNK_BYTES:
        raise Refused(f"{array.name} has chunks of {size:,} bytes, where {MAX_CHUNK_BYTES:,} are the most")
    if not filters or ratio * array.id.get_storage_size() <= MAX_CHUNK_BYTES:
        return
    large: list[tuple[int, ...]] = []

    def look(chunk: Any) -> None:
        if ratio * chunk.size > MAX_CHUNK_BYTES:
            large.append(chunk.chunk_offset)

    array.id.chunk_iter(look)
    for offset in large:
        _, packed = array.id.read_direct_chunk(offset)
        try:
            fits = GZIP in filters and len(zlib.decompressobj().decompress(packed, size + 1)) <= size
        except zlib.error as error:
            raise Refused(f"{array.name}, chunk {offset}: {error}") from error
        if not fits:
            raise Refused(f"{array.name}, chunk {offset}, may unpack to more than the {size:,} bytes it should hold")
