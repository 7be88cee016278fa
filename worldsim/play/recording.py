"""Recordings: truth and dream side by side as an animated WebP, or as MP4 where PyAV is installed. Knows no world."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from worldsim.errors import UsageError
from worldsim.eval.clips import enlarged, side_by_side, webp

GAP, GREY, TIMES = 2, 128, 2
"""Pixels between the panes, their grey, and how many times every pixel is repeated both ways."""


def beside(panes: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "h w2 3"]:
    """Put pictures of one height side by side."""
    return side_by_side([pane[None] for pane in panes], GAP, GREY)[0]


def formats() -> list[str]:
    """Return the formats that can be written here."""
    return ["webp", "mp4"] if importlib.util.find_spec("av") else ["webp"]


def encoded(frames: Sequence[UInt8[np.ndarray, "h w 3"]], rate_hz: float, kind: str) -> bytes:
    """Return the file of a clip, enlarged. UsageError without frames, or for a format that cannot be written here."""
    if not frames:
        raise UsageError("recording", got="no steps", allowed="one step or more", fix="play on while it records")
    if kind not in formats():
        raise UsageError("format", got=kind, allowed=", ".join(formats()), fix="pip install av")
    large, frame_ms = enlarged(np.stack(frames), TIMES), round(1000 / rate_hz)
    return webp(large, frame_ms, last_ms=frame_ms, effort=0) if kind == "webp" else _mp4(large, rate_hz)


def _mp4(frames: UInt8[np.ndarray, "t h w 3"], rate_hz: float) -> bytes:
    av = importlib.import_module("av")  # here: an extra

    buffer = io.BytesIO()
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("h264", rate=max(1, round(rate_hz)))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame[:height, :width], format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()
