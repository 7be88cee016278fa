"""Film strips: rows of frames at chosen times with labels, as one picture. Knows no model and no world."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont

from worldsim.storage import write_atomically

_PAPER, _INK, _SHADE = (255, 255, 255), (40, 40, 40), (205, 214, 235)
_LABEL_WIDTH, _HEADER, _GAP = 78, 18, 2


def scenes_by_rule(error: Float64[np.ndarray, " n"]) -> dict[str, int]:
    """Return the scenes that reports show: those of least, median and largest error, and the first."""
    ranked = np.argsort(error, kind="stable")
    return {"best": int(ranked[0]), "median": int(ranked[len(ranked) // 2]), "worst": int(ranked[-1]), "first": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shade:
    """What a strip says of each of its columns: whether something is hidden in it, a note below it, and what is read in it."""

    hidden: tuple[bool, ...]
    notes: tuple[str, ...]
    marks: Mapping[str, Sequence[Float64[np.ndarray, "_ 2"]]] = dataclasses.field(default_factory=dict)
    """Columns and rows, in pixels of a frame, that get a cross: by row of the strip, for each of its columns."""


def film_strip(
    rows: Mapping[str, UInt8[np.ndarray, "t h w 3"]],
    times: Sequence[int],
    title: str = "",
    scale: int = 2,
    shade: Shade | None = None,
) -> Image.Image:
    """Draw named rows of frames, one column per time; all rows hold the frames of the same ``times``."""
    first = next(iter(rows.values()))
    height, width = first.shape[1] * scale, first.shape[2] * scale
    top = _HEADER * (2 if title else 1)
    bottom = top + len(rows) * (height + _GAP)
    size = (_LABEL_WIDTH + len(times) * (width + _GAP), bottom + (_HEADER if shade else 0))
    sheet = Image.new("RGB", size, _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    if title:
        pen.text((4, 2), title, fill=_INK, font=font)
    for column, time in enumerate(times):
        left = _LABEL_WIDTH + column * (width + _GAP)
        if shade and shade.hidden[column]:
            pen.rectangle((left, top - _HEADER, left + width + _GAP - 1, size[1]), fill=_SHADE)
        if shade:
            pen.text((left + 2, bottom + 2), shade.notes[column], fill=_INK, font=font)
        pen.text((_LABEL_WIDTH + column * (width + _GAP) + 2, top - _HEADER + 2), f"{time}", fill=_INK, font=font)
    for row, (label, frames) in enumerate(rows.items()):
        y = top + row * (height + _GAP)
        pen.text((4, y + height // 2 - 8), label, fill=_INK, font=font)
        for column, frame in enumerate(frames[: len(times)]):
            picture = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            left = _LABEL_WIDTH + column * (width + _GAP)
            sheet.paste(picture, (left, y))
            for x, z in shade.marks[label][column] if shade and label in shade.marks else ():
                _cross(pen, left + (x + 0.5) * scale, y + (z + 0.5) * scale)
    return sheet


def _cross(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """Draw a cross that is seen on any ground."""
    for ink, width in ((_PAPER, 3), (_INK, 1)):
        pen.line((x - 3, y, x + 3, y), fill=ink, width=width)
        pen.line((x, y - 3, x, y + 3), fill=ink, width=width)


def save_strip(path: str | os.PathLike[str], strip: Image.Image) -> Path:
    """Write a strip as PNG, whole or not at all; parent folders are made."""
    target, content = Path(path), io.BytesIO()
    strip.save(content, "PNG", compress_level=6)
    write_atomically(target, content.getvalue())
    return target
