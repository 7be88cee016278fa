"""A source of episodes: a LeRobotDataset (v3), whose tables and videos each hold many episodes. Needs pyarrow and PyAV."""

from __future__ import annotations

import io
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from worldsim.envs.import_source import (
    MAX_COLUMN_BYTES,
    MAX_EPISODE_BYTES,
    PICTURE_DAMAGE,
    Columns,
    Pictures,
    Unusable,
    broken,
    check_bytes,
    choose_image,
    plain_name,
)
from worldsim.envs.import_videos import Video, missing_extra
from worldsim.errors import UsageError
from worldsim.foreign import DEFLATED, file_size, is_number, is_whole, read_json

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
ROLES = {"action": "actions", "next.reward": "rewards", "next.done": "terminated", "next.truncated": "truncated"}
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FREE_BYTES = 1 << 28
"""What a table may unpack to even if it is small: a column of equal numbers takes no place in its file."""
ROWS_AT_A_TIME = 64
"""Rows of a table that are unpacked at once: a table of a few bytes may say the same large thing a million times."""
TABLE_DAMAGE = (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError, OverflowError, NotImplementedError)
"""What pyarrow raises: its own errors are of these kinds."""
MAX_NUMBERS_BYTES = MAX_COLUMN_BYTES // 8
"""Most numbers of an episode, which become Python's own on their way."""
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def tables() -> types.ModuleType:
    """Return pyarrow, with its parquet; UsageError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "LeRobot datasets") from error
    return pyarrow


def filled(template: str, values: Mapping[str, int | str]) -> str:
    """Fill a path template of ``info.json``; UsageError if it leads out of the dataset or uses unknown names."""

    def value(match: re.Match[str]) -> str:
        found = values[match[1]]
        return f"{found:0{match[2] or 1}d}" if isinstance(found, int) else found

    try:
        path = re.sub(r"\{(\w+)(?::0?(\d)d)?\}", value, template)
    except KeyError as error:
        raise broken(f"meta/info.json, {template!r}", f"the unknown name {error}") from error
    if "{" in path or Path(path).is_absolute() or ".." in Path(path).parts:
        raise broken(f"meta/info.json, {template!r}", "a path that leads out of the dataset, or no path at all")
    return path


def _may_hold(group: Any, episode: int | None) -> bool:
    """Tell by its statistics whether a group of a table's rows may be (partly) of an episode, so that others are not read."""
    for k in range(group.num_columns if episode is not None else 0):
        column = group.column(k)
        if column.path_in_schema == "episode_index" and column.is_stats_set and column.statistics.has_min_max:
            return column.statistics.min <= episode <= column.statistics.max
    return True


class LeRobotSource:
    """A dataset folder with meta/info.json, meta/episodes, data and videos. Row t holds frame t and the action taken there."""

    kind = "lerobot"
    action_space: gym.Space | None = None

    def __init__(self, path: Path, image: str | None) -> None:
        self.arrow = tables()
        self.root = path
        self.name = path.resolve().name
        self.info = self._info()
        self.features: dict[str, Any] = self.info["features"]
        self.frame_rate: float | None = float(self.info["fps"])
        cameras = [key for key, feature in self.features.items() if feature.get("dtype") in ("video", "image")]
        try:
            self.camera = choose_image(cameras, image or self._short(cameras, image), path.name)
        except Unusable as reason:
            raise broken("meta/info.json", reason, fix="choose a dataset with a camera") from reason
        self.is_video = self.features[self.camera]["dtype"] == "video"
        self.remarks = [f"{self.camera}: decoded from video, so frames are what that format had kept"] * self.is_video
        self.left_out = {name: "another camera" for name in cameras if name != self.camera}
        self.left_out |= {name: "bookkeeping" for name in self.features if name in BOOKKEEPING}
        self.action_names = self._action_names()
        self.episodes = self._episode_table()
        self._table: tuple[Path, Any] | None = None

    @staticmethod
    def _short(cameras: Sequence[str], image: str | None) -> str | None:
        """Return the only camera, so that a dataset with one needs no --image."""
        return cameras[0] if image is None and len(cameras) == 1 else None

    def _info(self) -> dict[str, Any]:
        path = self.root / "meta" / "info.json"
        try:
            info = read_json(path)
            version, features = str(info["codebase_version"]), info["features"]
            if not is_number(info["fps"], 1e-6, 1e6):
                raise ValueError(f"fps {info['fps']}")
            if not all(isinstance(feature, dict) for feature in features.values()) or "action" not in features:
                raise ValueError("no action among its features")
            if any(Path(name).is_absolute() or ".." in Path(name).parts for name in features):
                raise ValueError("a feature whose name leads out of the dataset")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise broken("meta/info.json", repr(error)) from error
        if not version.startswith("v3"):
            fix = "convert it: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=..."
            raise UsageError("source", got=f"a LeRobot dataset of version {version}", allowed="version v3", fix=fix)
        return info

    def _action_names(self) -> tuple[str, ...]:
        names = self.features["action"].get("names")
        if isinstance(names, dict) and len(names) == 1:
            names = next(iter(names.values()))
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def _episode_table(self) -> list[dict[str, Any]]:
        """Read where every episode lies; only the columns that say so."""
        own = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        if self.is_video:
            keys = ("chunk_index", "file_index", "from_timestamp")
            own += [f"videos/{self.camera}/{key}" for key in keys]
        rows = []
        for path in sorted((self.root / "meta" / "episodes").rglob("*.parquet")):
            rows += self._read(path, own).to_pylist()
        if not rows:
            raise broken("meta/episodes", "no table of episodes")
        amounts = [name for name in own if name.endswith("timestamp")]
        wrong = [
            row
            for row in rows
            if not all(is_number(row[name], 0, 1e9) if name in amounts else is_whole(row[name]) for name in own)
        ]
        if wrong:
            raise broken("meta/episodes", f"a row that lacks numbers: {wrong[0]}")
        return sorted(rows, key=lambda row: row["episode_index"])

    def _read(self, path: Path, columns: Sequence[str], episode: int | None = None) -> Any:
        """Read columns of a table, of one episode or of all; UsageError if it is damaged, too large, or lacks one."""
        where, parts, size = str(path.relative_to(self.root)), [], 0
        try:
            most = min(MAX_EPISODE_BYTES, FREE_BYTES + DEFLATED * file_size(path))
            with self.arrow.parquet.ParquetFile(path) as file:
                lacking = set(columns) - set(file.schema_arrow.names)
                if lacking:
                    raise broken(where, f"no column {', '.join(sorted(lacking))}")
                groups = [k for k in range(file.num_row_groups) if _may_hold(file.metadata.row_group(k), episode)]
                for batch in file.iter_batches(ROWS_AT_A_TIME, groups, list(columns), use_threads=False):
                    part = self.arrow.Table.from_batches([batch])
                    if episode is not None:
                        part = part.filter(np.asarray(part["episode_index"].to_pylist()) == episode)
                    size += part.nbytes
                    check_bytes((size,), np.dtype(np.uint8), most, where)
                    parts.append(part)
            return self.arrow.concat_tables(parts) if parts else file.schema_arrow.empty_table().select(list(columns))
        except UsageError:
            raise
        except TABLE_DAMAGE as error:
            raise broken(where, error) from error

    def __len__(self) -> int:
        return len(self.episodes)

    def label(self, position: int) -> str:
        """Return the number of the episode and its table."""
        episode = self.episodes[position]
        return f"{self._data_path(position).relative_to(self.root)}, episode {episode['episode_index']}"

    def _data_path(self, position: int) -> Path:
        episode = self.episodes[position]
        values = {key: int(episode[f"data/{key}"]) for key in ("chunk_index", "file_index")}
        return self.root / filled(str(self.info.get("data_path") or DATA_PATH), values)

    def _video_path(self, position: int) -> Path:
        episode = self.episodes[position]
        values = {key: int(episode[f"videos/{self.camera}/{key}"]) for key in ("chunk_index", "file_index")}
        template = str(self.info.get("video_path") or VIDEO_PATH)
        return self.root / filled(template, {"video_key": self.camera, **values})

    def pictures(self, position: int) -> Pictures:
        """Look at the size of the video, or of the first picture."""
        length, where = int(self.episodes[position]["length"]), self.label(position)
        if length < 1:
            raise Unusable("no frames")
        if not self.is_video:
            first = next(self._pictures_in_table(position))
            return Pictures.of((length, *first.shape), where)
        path = self._video_path(position)
        if not path.is_file():
            raise Unusable(f"no frames: {path.relative_to(self.root)} is not there")
        with closing(Video(path)) as video:
            return Pictures.of((length, *video.size, 3), where)

    def _rows(self, position: int) -> Any:
        """Return an episode's rows, all columns but pictures; a file's table is kept for its other episodes."""
        path = self._data_path(position)
        if self._table is None or self._table[0] != path:
            kinds = {name: str(feature.get("dtype")) for name, feature in self.features.items()}
            wanted = [name for name, kind in kinds.items() if kind not in ("video", "image", "string")]
            self._table = path, self._read(path, sorted({*wanted, "episode_index", "frame_index"}))
        return self._of_episode(self._table[1], position)

    def _of_episode(self, table: Any, position: int) -> Any:
        """Return the rows of one episode, in order of frames."""
        episode = self.episodes[position]
        numbers, order = (np.asarray(table[name].to_pylist()) for name in ("episode_index", "frame_index"))
        if not all(part.dtype.kind in "iuf" for part in (numbers, order)) and len(table):
            raise broken(self.label(position), "rows without numbers of episode and frame")
        rows = np.flatnonzero(numbers == episode["episode_index"])
        rows = rows[np.argsort(order[rows], kind="stable")]
        if len(rows) != episode["length"]:
            raise broken(self.label(position), f"{len(rows)} rows where {episode['length']} were announced")
        return table.take(rows)

    def columns(self, position: int) -> Columns:
        """Read actions, rewards, ends and vectors of numbers."""
        rows, where = self._rows(position), self.label(position)
        check_bytes((rows.nbytes,), np.dtype(np.uint8), MAX_NUMBERS_BYTES, where)
        taken, readouts, left_out = dict[str, np.ndarray](), dict[str, np.ndarray](), dict(self.left_out)
        for name in rows.column_names:
            if name in BOOKKEEPING:
                continue
            values = self._numbers(rows[name])
            if name in ROLES and values is not None:
                taken[ROLES[name]] = values
            elif values is None or name.startswith("next."):
                left_out[name] = "no row of numbers for each frame"
            else:
                readouts[plain_name(name)] = values
        left_out |= {name: "text" for name, feature in self.features.items() if feature.get("dtype") == "string"}
        if "actions" not in taken:
            raise broken(where, "actions that are no rows of numbers")
        return Columns(**taken, readouts=readouts, left_out=left_out)

    @staticmethod
    def _numbers(column: Any) -> np.ndarray | None:
        """Return a column as an array (T,) or (T, n), missing numbers as NaN; None if its rows are nothing of the kind."""
        try:
            rows = np.asarray(column.to_pylist())
        except ValueError:
            return None
        if rows.dtype.kind == "O" and rows.ndim in (1, 2):
            try:
                rows = rows.astype(np.float64)
            except (TypeError, ValueError):
                return None
        return rows if rows.ndim in (1, 2) and rows.dtype.kind in "biuf" else None

    def blocks(self, position: int) -> Iterator[np.ndarray]:
        """Decode the episode's part of its video, or its pictures in the table."""
        if not self.is_video:
            yield from (picture[None] for picture in self._pictures_in_table(position))
            return
        episode = self.episodes[position]
        begin, rate, length = float(episode[f"videos/{self.camera}/from_timestamp"]), self.frame_rate, episode["length"]
        assert rate is not None
        with closing(Video(self._video_path(position))) as video:
            for k, (time, frame) in zip(range(length), video.frames(begin), strict=False):
                if abs(time - begin - k / rate) > 0.5 / rate:
                    raise broken(f"{self.label(position)}, frame {k}", f"a frame of second {time:.3f}")
                yield frame[None]

    def _pictures_in_table(self, position: int) -> Iterator[np.ndarray]:
        """Decode pictures that lie in the table itself."""
        names = [self.camera, "episode_index", "frame_index"]
        table = self._read(self._data_path(position), names, int(self.episodes[position]["episode_index"]))
        column = self._of_episode(table, position)[self.camera]
        for k, cell in enumerate(column):
            content, where = cell.as_py(), f"{self.label(position)}, frame {k}"
            content = content.get("bytes") if isinstance(content, dict) else content
            if not isinstance(content, bytes):
                raise broken(
                    where, "a picture that is not in the table", fix="make the dataset anew, with its pictures"
                )
            try:
                with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
                    Pictures.of((1, picture.height, picture.width, 3), where)
                    yield np.asarray(picture.convert("RGB"))
            except UsageError:
                raise
            except PICTURE_DAMAGE as error:
                raise broken(where, error) from error

    def files(self) -> Sequence[Path]:
        """Return info, tables and the videos of the camera."""
        folders = ["meta/episodes", "data", f"videos/{self.camera}"]
        inside = (file for folder in folders for file in (self.root / folder).rglob("*") if file.is_file())
        return [self.root / "meta" / "info.json", *sorted(inside)]

    def close(self) -> None:
        """Let go of the table."""
        self._table = None
