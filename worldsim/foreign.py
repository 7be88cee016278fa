"""Files that a stranger may have made, read within bounds: JSON and safetensors. Runs nothing that lies in them.

Every file is looked at before memory is taken for it: what is no regular file (a pipe would be waited for without end), too
large, nested too deeply or no text at all is an OSError or a ValueError, for which callers have words of their own.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from worldsim.errors import UsageError

MAX_JSON_BYTES = 1 << 24
MAX_METADATA_BYTES = 1 << 27
"""The same of the index of a recording, enough for some 300,000 episodes."""
MAX_TENSORS = 100_000
DEFLATED = 1100
"""How many times larger than it is stored a thing packed by deflate (zip, gzip) can become (its most is 1032)."""


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Return what a JSON file of at most ``limit`` bytes says; OSError or ValueError if it cannot be read."""
    if file_size(path) > limit:
        raise ValueError(f"{file_size(path):,} bytes, where {limit:,} are the most")
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says; ValueError if it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def file_size(path: Path) -> int:
    """Return the bytes of a regular file; OSError if there is none."""
    if not path.is_file():
        raise FileNotFoundError("no such file" if not path.exists() else "no regular file")
    return path.stat().st_size


def read_tensors(
    path: str | os.PathLike[str], framework: str = "pt", device: str = "cpu"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return tensors and metadata of a safetensors file; OSError or ValueError if it cannot be read.

    The format itself holds what it declares: all tensors together are as large as the file.
    """
    size = file_size(Path(path))
    with Path(path).open("rb") as start:
        header = int.from_bytes(start.read(8), "little")
    if not 2 <= header <= min(size, MAX_JSON_BYTES):
        raise ValueError(f"a header of {header:,} bytes in a file of {size:,}")
    try:
        with safe_open(path, framework=framework, device=device) as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise ValueError(f"{len(names):,} tensors, where {MAX_TENSORS:,} are the most")
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, RuntimeError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def is_number(value: object, low: Any = -math.inf, high: Any = math.inf) -> bool:
    """Return whether ``value`` is a number from ``low`` to ``high``: no truth value, no text, no NaN."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: object, low: int = 0, high: int = 1 << 63) -> bool:
    """Return whether ``value`` is a whole number from ``low`` to ``high``."""
    return isinstance(value, numbers.Integral) and is_number(value, low, high)


def is_mapping(value: object) -> bool:
    """Return whether ``value`` is what JSON calls an object."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def is_list(value: object, kind: type, most: int) -> bool:
    """Return whether ``value`` is a list of at most ``most`` members, all of them of ``kind``."""
    return isinstance(value, list | tuple) and len(value) <= most and all(isinstance(one, kind) for one in value)


def refused(argument: str, got: object, allowed: str) -> UsageError:
    """Return the UsageError for a value in a file that cannot be what it should be."""
    fix = "the file is damaged or foreign: get it again, or make it anew with this version of worldsim"
    return UsageError(argument, got=reprlib.repr(got), allowed=allowed, fix=fix)
