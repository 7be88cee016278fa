"""HDF5 files that a stranger may have made: only what lies in the file itself is read, and no more than it can hold.

What is not read is told as `Refused` (or as what h5py raises), for which callers have words of their own. Knows no layout.
"""

from __future__ import annotations

import errno
import functools
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

from worldsim.foreign import DEFLATED, file_size

MAX_CHUNK_BYTES = 1 << 28
"""Largest chunk, and most that one may unpack to, before it is looked at."""
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError)
"""What a damaged file raises when it is read."""
FILTERS = {1: DEFLATED, 2: 1, 3: 1, 32000: 100}
"""Filters by HDF5's numbers (gzip, shuffle, checksum, LZF), and how many times larger than it is stored one makes a chunk."""
GZIP = 1
FREE_BYTES = 1 << 20
"""What an array may declare without any of it being stored: its numbers are then all the same."""


HEAP = b"GCOL\x01\0\0\0"
"""What a heap begins with, in which HDF5 keeps texts and rows of various lengths."""
HEAP_BLOCK = 1 << 26
"""Bytes in which heaps are looked for at once."""


class Refused(ValueError):
    """Something in a file that is not read; its text is the reason."""


def open_file(path: Path) -> h5py.File:
    """Open a file for reading; OSError if it is none of HDF5's, or HDF5 would never come to the end of one of its heaps."""
    file_size(path)
    found = path.stat()
    _check_heaps(path, found.st_size, found.st_mtime_ns)
    return h5py.File(path, "r")


@functools.lru_cache(maxsize=64)
def _check_heaps(path: Path, size: int, changed: int) -> None:
    """Raise OSError if an object in one of a file's heaps does not end after it begins: HDF5 goes from one to the next for ever."""
    del changed  # another file of that name is looked at again
    with path.open("rb", buffering=0) as file:
        first = 0 if _length_bytes(file) else size  # of what is no HDF5 file h5py will say so
        while (first := _data_from(file, first, size)) < size:
            file.seek(first)
            block, at = file.read(HEAP_BLOCK + len(HEAP) - 1), -1
            while (at := block.find(HEAP, at + 1)) >= 0:
                _walk_heap(file, first + at)
            first += HEAP_BLOCK


def _data_from(file: io.FileIO, place: int, size: int) -> int:
    """Return where from ``place`` on something is stored: a file of terabytes may be nothing but a hole."""
    if place >= size or not hasattr(os, "SEEK_DATA"):
        return place
    try:
        return os.lseek(file.fileno(), place, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing is
            return size
        return place  # a file system that cannot tell


def _walk_heap(file: io.FileIO, begin: int) -> None:
    """Go through the objects of one heap (HDF5 File Format Specification 3.0, III.E), of lengths of 8 bytes."""
    if _length_bytes(file) != 8:
        raise OSError("lengths of other than 8 bytes (h5repack writes the file anew)")
    file.seek(begin + len(HEAP))
    (size,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
    size = min(size, os.fstat(file.fileno()).st_size - begin)
    at = len(HEAP) + 8
    while at + 16 <= size:
        file.seek(begin + at)
        index, length = struct.unpack("<H6xQ", file.read(16))
        step = length if index == 0 else 16 + -(-length // 8) * 8  # free space counts its own head
        if step < 16 or step > size - at:
            raise OSError(f"a heap at byte {begin} with an object of {length} bytes at its byte {at}")
        at += step


def _length_bytes(file: io.FileIO) -> int:
    """Return how many bytes the superblock says that a length has; 0 where there is no superblock."""
    size, place = os.fstat(file.fileno()).st_size, 0
    while place < size:
        file.seek(place)
        head = file.read(16)
        if head.startswith(b"\x89HDF\r\n\x1a\n") and len(head) == 16:
            return head[14] if head[8] < 2 else head[10]
        place = max(512, 2 * place)
    return 0


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return a member of ``group`` that lies in the file itself; KeyError if there is none, Refused if it lies elsewhere."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Refused(f"{name} is a link, which may lead anywhere")
    found = group[name]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise Refused(f"{name} is an array that is kept in another file")
    if not isinstance(found, h5py.Group | h5py.Dataset) or (isinstance(found, h5py.Dataset) and found.shape is None):
        raise Refused(f"{name} is neither a group nor an array with numbers in it")
    if isinstance(found, h5py.Dataset):
        found.dtype  # noqa: B018 - raises where there is no such type, and not again later
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
