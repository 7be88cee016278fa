"""What goes down to the page: a header and pictures in one binary message. Knows no world and no socket.

Layout: length of the header (4 bytes, little endian), the header (JSON, UTF-8), then the pictures' RGB bytes in the
order of ``header["panes"]``, each {"name", "count", "height", "width"}: ``count`` frames of so many rows and columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8


def pack(kind: str, panes: Mapping[str, UInt8[np.ndarray, "n h w 3"]], **header: Any) -> bytes:
    """Return the message of a ``kind`` with named pictures and JSON-able values."""
    shapes = [
        {"name": name, "count": clip.shape[0], "height": clip.shape[1], "width": clip.shape[2]}
        for name, clip in panes.items()
    ]
    text = json.dumps({"kind": kind, "panes": shapes, **header}, separators=(",", ":")).encode()
    pictures = [np.ascontiguousarray(clip).tobytes() for clip in panes.values()]
    return b"".join([len(text).to_bytes(4, "little"), text, *pictures])


def pack_file(name: str, content: bytes) -> bytes:
    """Return the message that hands a file to the page."""
    text = json.dumps({"kind": "file", "panes": [], "name": name}).encode()
    return len(text).to_bytes(4, "little") + text + content


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return header and pictures of a message: what the page does in JavaScript."""
    size = int.from_bytes(message[:4], "little")
    header, at = json.loads(message[4 : 4 + size]), 4 + size
    panes: dict[str, np.ndarray] = {}
    for pane in header["panes"]:
        shape = (pane["count"], pane["height"], pane["width"], 3)
        length = int(np.prod(shape))
        panes[pane["name"]] = np.frombuffer(message, np.uint8, length, at).reshape(shape)
        at += length
    return header, panes
