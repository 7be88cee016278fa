"""A source of episodes: a folder of videos with their actions beside them. Decodes with PyAV, and Pillow for GIF and WebP."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from worldsim.envs.import_npz import load_array
from worldsim.envs.import_source import (
    PICTURE_DAMAGE,
    Columns,
    Pictures,
    Unusable,
    broken,
    natural,
)
from worldsim.errors import UsageError
from worldsim.foreign import file_size
from worldsim.spec import MAX_FRAME_PIXELS

FORMATS = {".mp4": "mp4", ".webm": "webm"}
"""Containers by suffix. They are named to the decoder, so that a file that is something else is not opened as that."""
PICTURE_FORMATS = {".gif": "GIF", ".webp": "WEBP"}
SUFFIXES = (*FORMATS, *PICTURE_FORMATS)
MAX_TABLE_BYTES = 1 << 24
"""Largest CSV file that is read: texts take many times their size in memory."""


def video_package() -> types.ModuleType:
    """Return PyAV; UsageError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "videos") from error
    return av


def missing_extra(package: str, what: str) -> UsageError:
    """Return the UsageError for a source whose packages are not installed."""
    fix = "pip install 'worldsim[data]'"
    return UsageError("source", got=f"no {package}", allowed=f"{what} with the data extra", fix=fix)


class Video:
    """An open video file: its size and rate, the number of its frames, and the frames from some time on."""

    def __init__(self, path: Path) -> None:
        av = video_package()
        self.damage: tuple[type[Exception], ...] = (
            av.FFmpegError, OSError, ValueError, RuntimeError, TypeError, ArithmeticError, MemoryError,
        )  # fmt: skip
        self.where = path.name
        try:
            file_size(path)
            self.container: Any = av.open(str(path.absolute()), format=FORMATS[path.suffix.lower()])
        except self.damage as error:
            raise broken(self.where, error) from error
        if not self.container.streams.video:
            self.container.close()
            raise broken(self.where, "no video in it")
        self.stream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1
        self.stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        self.rate: Fraction | None = self.stream.average_rate
        self.size = (int(self.stream.height), int(self.stream.width))

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def count(self) -> int:
        """Return the number of frames, without decoding any."""
        try:
            return sum(packet.size > 0 for packet in self.container.demux(self.stream))
        except self.damage as error:
            raise broken(self.where, error) from error

    def frames(self, begin: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
        """Decode: (time in seconds, uint8 (h, w, 3)) of every frame from ``begin`` on, half a frame early or later."""
        early = begin - 0.5 / float(self.rate or 30)
        try:
            if begin > 0:
                self.container.seek(int(early / self.stream.time_base), stream=self.stream, backward=True)
            for frame in self.container.decode(self.stream):
                time = float(frame.pts * self.stream.time_base) if frame.pts is not None else 0.0
                if begin <= 0 or time > early:
                    yield time, frame.to_ndarray(format="rgb24")
        except self.damage as error:
            raise broken(self.where, error) from error


class VideoSource:
    """NAME.mp4, .webm, .gif or .webp, each with NAME.npy or NAME.csv: a row of numbers per action."""

    kind = "videos"
    action_space: gym.Space | None = None

    def __init__(self, path: Path, image: str | None) -> None:
        if image is not None:
            fix = "leave --image out"
            raise UsageError("image", got=image, allowed="nothing: a video has one picture at a time", fix=fix)
        self.name = path.resolve().name
        self.remarks = ["videos: most formats are lossy, so frames are what the file had kept"]
        self.action_names: tuple[str, ...] = ()
        found = (file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        self.paths = sorted(found, key=lambda file: natural(file.name))
        self.frame_rate: float | None = None
        names = [path.stem for path in self.paths]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            fix = "give every video a name, and actions, of its own"
            raise UsageError("source", got=f"several videos named {twice[0]}", allowed="one video a name", fix=fix)

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, position: int) -> str:
        """Return the video's name."""
        return self.paths[position].name

    def pictures(self, position: int) -> Pictures:
        """Count the frames without decoding them."""
        path = self.paths[position]
        if path.suffix.lower() in PICTURE_FORMATS:
            with _animation(path) as picture:
                count, size = _count(picture, path.name), (picture.height, picture.width)
                duration = picture.info.get("duration")
                self.frame_rate = self.frame_rate or (1000 / duration if duration else None)
        else:
            with closing(Video(path)) as video:
                count, size = video.count(), video.size
                self.frame_rate = self.frame_rate or (float(video.rate) if video.rate else None)
        return Pictures.of((count, *size, 3), path.name)

    def columns(self, position: int) -> Columns:
        """Read the actions."""
        path = self.paths[position]
        arrays, table = path.with_suffix(".npy"), path.with_suffix(".csv")
        if arrays.is_file():
            try:
                with arrays.open("rb") as file:
                    return Columns(actions=load_array(file, arrays.name, file_size(arrays)))
            except OSError as error:
                raise broken(arrays.name, error) from error
        if table.is_file():
            names, rows = read_table(table)
            self.action_names = self.action_names or names
            return Columns(actions=rows)
        raise Unusable(f"no actions: neither {arrays.name} nor {table.name}")

    def blocks(self, position: int) -> Iterator[np.ndarray]:
        """Decode frame after frame."""
        path = self.paths[position]
        if path.suffix.lower() not in PICTURE_FORMATS:
            with closing(Video(path)) as video:
                for _, frame in video.frames():
                    yield frame[None]
            return
        with _animation(path) as picture:
            for k in range(_count(picture, path.name)):
                try:
                    picture.seek(k)
                    frame = np.asarray(picture.convert("RGB"))
                except PICTURE_DAMAGE as error:
                    raise broken(f"{path.name}, frame {k}", error) from error
                yield frame[None]

    def files(self) -> Sequence[Path]:
        """Return videos and actions."""
        beside = [path.with_suffix(suffix) for path in self.paths for suffix in (".npy", ".csv")]
        return [*self.paths, *(path for path in beside if path.is_file())]

    def close(self) -> None:
        """Do nothing: videos are closed after every reading."""


def _animation(path: Path) -> Image.Image:
    try:
        file_size(path)
        picture = Image.open(path, formats=(PICTURE_FORMATS[path.suffix.lower()],))
    except PICTURE_DAMAGE as error:
        raise broken(path.name, error) from error
    try:
        Pictures.of((1, picture.height, picture.width, 3), path.name)
    except UsageError:
        picture.close()
        raise
    return picture


def _count(picture: Image.Image, where: str) -> int:
    try:
        return getattr(picture, "n_frames", 1)
    except PICTURE_DAMAGE as error:
        raise broken(where, error) from error


def read_table(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Read actions from a CSV file: the names in its first line, if these are no numbers, and float rows (T, A)."""
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise broken(path.name, f"{path.stat().st_size / 1e6:.1f} MB of text", fix="store actions as NAME.npy")
    try:
        lines = [line.split(",") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise broken(path.name, error) from error
    names: tuple[str, ...] = ()
    if lines and not all(_is_number(cell) for cell in lines[0]):
        names = tuple(cell.strip().strip('"') for cell in lines.pop(0))
    if not lines:
        raise broken(path.name, "no row of numbers", fix="write a row of numbers, divided by commas, for every action")
    for row, cells in enumerate(lines):
        if len(cells) != len(lines[0]) or not all(_is_number(cell) for cell in cells):
            got = f"row {row}: {','.join(cells)[:80]!r}"
            raise broken(path.name, got, fix="write a row of numbers, divided by commas, for every action")
    return names, np.array([[float(cell) for cell in cells] for cells in lines], np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
