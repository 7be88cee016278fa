"""Storage: episodes in HDF5 shards of the Minari layout, each written whole or not at all, with an index over them.

A recording is a folder: ``shards/00000.hdf5`` ... hold the episodes, ``main_data.hdf5`` links to every one of them and
``metadata.json`` describes them, so that ``minari.load_dataset`` reads the folder. Every shard carries the recording's
header, hence `build_index` can make index and metadata anew from the shards alone. Knows no environment, no model and
nothing about splits, windows or batches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldsim.episode import Episode
from worldsim.errors import UsageError
from worldsim.foreign import is_mapping, is_whole, parse_json, refused
from worldsim.hdf5 import DAMAGE, attributes_of, check_stored, member, open_file
from worldsim.spec import WorldSpec

INDEX_NAME = "main_data.hdf5"
METADATA_NAME = "metadata.json"
SHARD_FOLDER = "shards"
FORMAT_VERSION = 1
FRAMES_PER_CHUNK = 8
GZIP_LEVEL = 4
MAX_COLUMN_BYTES = 1 << 33
"""Largest column of an episode that is read."""
MINARI_VERSION = "0.5.3"  # the oldest version whose metadata can say that frames are not JPEG


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingHeader:
    """What all shards of one recording share: the world, the recording's seed and how it was made.

    ``details`` is JSON-able and free (behaviours' version, environment specification, ...); two shards belong to the
    same recording exactly when their headers are equal.
    """

    spec: WorldSpec
    seed: int
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """Return the header as one line of JSON with sorted keys: equal headers give equal text."""
        content = {"format": FORMAT_VERSION, "spec": self.spec.to_json(), "seed": self.seed, "details": self.details}
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RecordingHeader:
        """Rebuild a header from `to_json`; UsageError if the text is none."""
        try:
            content = parse_json(text)
        except ValueError as error:
            raise refused("recording header", error, "the JSON that `worldsim record` writes") from error
        whole = is_mapping(content) and {"spec", "seed", "details"} <= set(content) and is_mapping(content["details"])
        if not whole or not is_whole(content["seed"], -(1 << 63)):
            raise refused("recording header", content, "spec, seed and details of a recording")
        return cls(spec=WorldSpec.from_json(content["spec"]), seed=content["seed"], details=content["details"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """One line of the index: where an episode lies and what can be said of it without reading its arrays.

    ``sha256`` is the digest of everything in the episode; ``attributes`` are the episode's own (split, behaviour, ...).
    """

    episode_id: int
    shard: int
    num_steps: int
    seed: int
    sha256: str
    attributes: Mapping[str, str | int | float]

    @classmethod
    def from_json(cls, data: Any) -> EpisodeRecord:
        """Read one line of the index; UsageError if it is none."""
        names = {field.name for field in dataclasses.fields(cls)}
        whole = is_mapping(data) and set(data) == names and is_mapping(data["attributes"])
        counted = whole and all(is_whole(data[name], 0, 1 << 40) for name in ("episode_id", "shard", "num_steps"))
        plain = counted and all(isinstance(value, str | int | float) for value in data["attributes"].values())
        if not plain or not is_whole(data["seed"], -(1 << 63)) or not isinstance(data["sha256"], str):
            raise refused("recording, line of an episode", data, f"{', '.join(sorted(names))}, as they are written")
        return cls(**data)


def shard_path(folder: Path, shard: int) -> Path:
    """Return where shard number ``shard`` of the recording in ``folder`` lies."""
    return folder / SHARD_FOLDER / f"{shard:05d}.hdf5"


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that the file is there whole or not at all, also when the disk is full.

    The bytes go to ``path`` with the suffix ``.tmp`` first; UsageError, with nothing left behind, if they cannot be
    written.
    """
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        remove_quietly(temporary)
        raise unwritable(path, error, size_bytes=len(content)) from error


def remove_quietly(path: Path) -> None:
    """Delete a half-written file; a file or folder that was never made is no error."""
    if path.is_symlink() or path.exists():
        path.unlink()


def unwritable(path: Path, error: OSError, *, size_bytes: int) -> UsageError:
    """Return the UsageError that says why ``path`` could not be written (disk full, no permission, ...)."""
    return UsageError(
        f"output {path}",
        got=f"{error.strerror or error} while writing {size_bytes / 1e6:.1f} MB",
        allowed="a folder on a disk with enough free space that you may write to",
        fix="free some space or choose another folder; nothing half-written was left, and running again resumes",
    )


def write_shard(folder: Path, shard: int, header: RecordingHeader, episodes: Mapping[int, Episode]) -> Path:
    """Write ``episodes`` (by episode id) as one shard, atomically, and return its path.

    The file is built in memory: equal episodes give equal bytes. UsageError if the disk is full.
    """
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs["worldsim"] = header.to_json()
        for episode_id, episode in sorted(episodes.items()):
            write_episode(file.create_group(f"episode_{episode_id}"), episode_id, episode)
    path = shard_path(folder, shard)
    write_atomically(path, memory.getvalue())
    return path


def write_episode(group: h5py.Group, episode_id: int, episode: Episode) -> None:
    """Write one episode into an empty group of a shard, with its digest."""
    columns = {
        "observations": episode.frames,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": episode.terminated,
        "truncations": episode.truncated,
        **{f"infos/{name}": rows for name, rows in {**episode.readouts, **episode.extras}.items()},
    }
    digest = hashlib.sha256()
    for name, rows in columns.items():
        values = np.ascontiguousarray(rows)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.data)
        chunk_rows = FRAMES_PER_CHUNK if values.nbytes > 1 << 17 else len(values)
        compression: dict[str, Any] = {}
        if values.ndim > 1 and values.size:
            chunks = (min(chunk_rows, len(values)), *values.shape[1:])
            compression = {"chunks": chunks, "compression": "gzip", "compression_opts": GZIP_LEVEL}
        # laid out now, not when the last reference goes: a profiler (Dask's workers have one) holds them for a moment
        group.create_dataset(name, data=values, **compression).flush()
    group.attrs["id"] = episode_id
    group.attrs["seed"] = episode.seed
    group.attrs["total_steps"] = episode.num_steps
    group.attrs["sha256"] = digest.hexdigest()
    for name, value in episode.attributes.items():
        group.attrs[name] = value


def read_episode(group: h5py.Group) -> Episode:
    """Read one episode's group back, bit for bit: info columns of T+1 rows are readouts, those of T rows extras.

    ValueError (or another of `worldsim.hdf5.DAMAGE`) where it holds links, arrays of other types, or less than it declares.
    """
    attributes = attributes_of(group)
    steps = int(attributes["total_steps"])
    inside = _group(group, "infos") if "infos" in group else {}
    infos = {str(name): _column(group, f"infos/{name}") for name in inside}
    own = {"id", "seed", "total_steps", "sha256"}
    columns = {name: _column(group, name, kind) for name, kind in _KINDS.items()}
    readouts = {name: rows for name, rows in infos.items() if len(rows) == steps + 1}
    wrong = [name for name, rows in readouts.items() if rows.dtype != np.float32]
    if wrong or any(len(rows) != steps + (name == "observations") for name, rows in columns.items()):
        raise ValueError(f"columns of other lengths than {steps} steps have, or readouts of other numbers: {wrong}")
    return Episode(
        frames=columns["observations"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        terminated=columns["terminations"],
        truncated=columns["truncations"],
        seed=int(attributes["seed"]),
        readouts=readouts,
        extras={name: rows for name, rows in infos.items() if len(rows) == steps},
        attributes={name: value for name, value in attributes.items() if name not in own},
    )


_KINDS = {
    "observations": ("uint8", 4),
    "actions": ("float32", 2),
    "rewards": ("float32", 1),
    "terminations": ("bool", 1),
    "truncations": ("bool", 1),
}
"""Type and number of axes of an episode's own columns."""


def _column(group: h5py.Group, name: str, kind: tuple[str, int] | None = None) -> np.ndarray:
    """Return one column's rows; KeyError if the group has no such column, ValueError if it is of another kind."""
    column = member(group, name)
    if not isinstance(column, h5py.Dataset):
        raise KeyError(name)
    if not column.ndim or (kind is not None and (column.dtype != kind[0] or column.ndim != kind[1])):
        raise ValueError(f"{name} is {column.dtype} {column.shape}")
    check_stored(column, MAX_COLUMN_BYTES)
    return column[()]


def _group(group: h5py.Group, name: str) -> h5py.Group:
    found = member(group, name)
    if not isinstance(found, h5py.Group):
        raise KeyError(name)
    return found


def open_shard(path: Path) -> h5py.File:
    """Open a shard for reading; UsageError naming it if it is missing, truncated, or no shard of worldsim's at all."""
    try:
        file = open_file(path)
    except OSError as error:
        raise damaged(path, str(error)) from error
    try:
        headed = "worldsim" in file.attrs
    except DAMAGE:
        headed = False
    if not headed:
        file.close()
        raise damaged(path, "an HDF5 file without a recording's header")
    return file


def episode_of(file: h5py.File, episode_id: int, path: Path) -> Episode:
    """Read an episode of a shard that is open; UsageError, naming the shard at ``path``, if that cannot be done."""
    try:
        return read_episode(_group(file, f"episode_{episode_id}"))
    except DAMAGE as error:
        raise damaged(path, f"episode {episode_id} unreadable: {error}") from error


def damaged(path: Path, reason: str) -> UsageError:
    """Return the UsageError for a shard that cannot be read."""
    return UsageError(
        f"shard {path}",
        got="no such file" if not path.exists() else reason,
        allowed="a whole HDF5 shard as `worldsim record` writes it",
        fix="delete this one file and run the same `worldsim record` command again: only it is recorded anew",
    )


def shard_is_whole(folder: Path, shard: int, header: RecordingHeader, episode_ids: Sequence[int]) -> bool:
    """Return whether the shard is already there, readable and holds exactly ``episode_ids`` of this recording.

    False if it is absent or unreadable (so it may be written again); UsageError if it belongs to another recording.
    """
    path = shard_path(folder, shard)
    try:
        file = open_file(path)
    except OSError:
        return False
    with file:
        found = str(file.attrs.get("worldsim", ""))
        if found != header.to_json():
            raise UsageError(
                f"shard {path}",
                got="a shard of a recording with other settings (or no shard at all)",
                allowed="only shards of the recording that is being resumed",
                fix="record into an empty folder, or repeat the settings of the earlier run",
            )
        return set(file) == {f"episode_{episode_id}" for episode_id in episode_ids}


def build_index(folder: Path) -> list[EpisodeRecord]:
    """Make ``main_data.hdf5`` and ``metadata.json`` anew from the shards alone, and return the index's lines.

    Links are numbered 0, 1, ... in order of episode id, as Minari wants them. UsageError names a truncated or foreign
    shard; without any shard it says so.
    """
    paths = sorted((folder / SHARD_FOLDER).glob("[0-9]*.hdf5"))
    if not paths:
        raise missing_recording(folder)
    headers: dict[str, Path] = {}
    records: list[EpisodeRecord] = []
    for path in paths:
        with open_shard(path) as file:
            try:
                headers.setdefault(str(attributes_of(file)["worldsim"]), path)
                records.extend(_record(_group(file, str(name)), int(path.stem)) for name in file)
            except DAMAGE as error:
                raise damaged(path, str(error)) from error
    if len(headers) > 1:
        raise damaged(list(headers.values())[1], f"a shard of another recording than {paths[0].name}")
    records.sort(key=lambda record: record.episode_id)
    memory = io.BytesIO()
    with h5py.File(memory, "w") as index:
        for position, record in enumerate(records):
            shard = f"{SHARD_FOLDER}/{shard_path(folder, record.shard).name}"
            index[f"episode_{position}"] = h5py.ExternalLink(shard, f"/episode_{record.episode_id}")
    write_atomically(folder / INDEX_NAME, memory.getvalue())
    metadata = _metadata(folder, RecordingHeader.from_json(next(iter(headers))), records)
    write_atomically(folder / METADATA_NAME, json.dumps(metadata).encode())
    return records


def missing_recording(folder: Path) -> UsageError:
    """Return the UsageError for a folder that holds no recording."""
    return UsageError(
        f"dataset {folder}",
        got="no recording there" if folder.exists() else "no such folder",
        allowed=f"a folder with {SHARD_FOLDER}/*.hdf5, {INDEX_NAME} and {METADATA_NAME}",
        fix="make one with `worldsim record ENVIRONMENT --out FOLDER`",
    )


def _record(group: h5py.Group, shard: int) -> EpisodeRecord:
    attributes = attributes_of(group)
    own = {key: attributes.pop(name) for key, name in (("episode_id", "id"), ("num_steps", "total_steps"))}
    own |= {name: attributes.pop(name) for name in ("seed", "sha256")}
    return EpisodeRecord.from_json({**own, "shard": shard, "attributes": attributes})


def fingerprint(header: RecordingHeader, records: Sequence[EpisodeRecord]) -> str:
    """Return the sha256 over the world and every episode's identity and content: equal exactly for equal data."""
    digest = hashlib.sha256(json.dumps(header.spec.to_json(), sort_keys=True).encode())
    for record in records:
        digest.update(f"{record.episode_id} {record.sha256} {json.dumps(record.attributes, sort_keys=True)}".encode())
    return digest.hexdigest()


def _metadata(folder: Path, header: RecordingHeader, records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Return Minari's metadata with worldsim's own under the key "worldsim"."""
    spec = header.spec
    name = re.sub(r"[^a-z0-9]+", "-", spec.env_id.split("/")[-1].lower()).strip("-")
    sizes = {shard: shard_path(folder, shard).stat().st_size for shard in sorted({r.shard for r in records})}
    frame_low, frame_high = (np.full(spec.frame_shape, value, np.uint8).tolist() for value in (0, 255))
    return {
        "total_episodes": len(records),
        "total_steps": sum(record.num_steps for record in records),
        "dataset_id": f"worldsim/{name}-v0" if not re.search(r"-v\d+$", name) else f"worldsim/{name}",
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": MINARI_VERSION,
        "dataset_size": round(sum(sizes.values()) / 1e6, 1),
        "observation_space": _box_json("uint8", spec.frame_shape, frame_low, frame_high),
        "action_space": _box_json("float32", (spec.action_dim,), list(spec.action_low), list(spec.action_high)),
        "worldsim": {
            "header": json.loads(header.to_json()),
            "spec": spec.to_json(),
            "fingerprint": fingerprint(header, records),
            "shard_bytes": sizes,
            "episodes": [dataclasses.asdict(record) for record in records],
        },
    }


def _box_json(dtype: str, shape: Sequence[int], low: list[Any], high: list[Any]) -> str:
    """Write a Box space the way Minari serialises it (a JSON string inside the JSON file)."""
    return json.dumps({"type": "Box", "dtype": dtype, "shape": list(shape), "low": low, "high": high})
