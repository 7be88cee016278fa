"""Recordings: a clip of truth and dream side by side (animated WebP, or MP4 where PyAV is installed), or what was played as
an episode that `worldsim import` reads (npz). Knows no world."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from worldsim.errors import UsageError
from worldsim.eval.clips import enlarged, side_by_side, webp

GAP, GREY, TIMES = 2, 128, 2
"""Pixels between the panes, their grey, and how many times every pixel is repeated both ways."""


@dataclasses.dataclass
class Take:
    """What a recording has seen: a clip for the eye, and an episode of the steps since the last jump in time."""

    clip: list[np.ndarray] = dataclasses.field(default_factory=list)
    """Truth and dream side by side, a picture a step."""
    frames: list[np.ndarray] = dataclasses.field(default_factory=list)
    """Frames of the world itself, one more than steps."""
    actions: list[np.ndarray] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)

    def jump(self, frame: UInt8[np.ndarray, "h w 3"] | None) -> None:
        """Begin the episode anew at ``frame``; with None it stays empty until the next jump."""
        self.frames, self.actions, self.rewards = [] if frame is None else [frame], [], []

    def step(self, picture: UInt8[np.ndarray, "h w2 3"], frame: UInt8[np.ndarray, "h w 3"] | None,
             action: Float32[np.ndarray, " a"], reward: float) -> None:  # fmt: skip
        """Add one step; a ``frame`` that may not be told ends the episode."""
        self.clip.append(picture)
        if frame is None:
            self.jump(None)
        elif self.frames:
            self.frames.append(frame)
            self.actions.append(action)
            self.rewards.append(reward)


def beside(panes: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "h w2 3"]:
    """Put pictures of one height side by side."""
    return side_by_side([pane[None] for pane in panes], GAP, GREY)[0]


def formats() -> list[str]:
    """Return the formats that can be written here."""
    return ["webp", "mp4", "npz"] if importlib.util.find_spec("av") else ["webp", "npz"]


def encoded(take: Take, rate_hz: float, kind: str) -> bytes:
    """Return the file of a recording: its clip enlarged, or its episode.

    UsageError where nothing was played, and for a format that cannot be written here.
    """
    if kind not in formats():
        raise UsageError("format", got=kind, allowed=", ".join(formats()), fix="pip install av")
    if not (take.actions if kind == "npz" else take.clip):
        raise UsageError("recording", got="no steps", allowed="one step or more", fix="play on while it records")
    if kind == "npz":
        buffer = io.BytesIO()
        rewards = np.asarray(take.rewards, np.float32)
        np.savez_compressed(buffer, frames=np.stack(take.frames), actions=np.stack(take.actions), rewards=rewards)
        return buffer.getvalue()
    large, frame_ms = enlarged(np.stack(take.clip), TIMES), round(1000 / rate_hz)
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
