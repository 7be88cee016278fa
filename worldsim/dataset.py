"""Dataset: recorded episodes by split, and windows of them at the speed of memory. Knows no environment and no model.

Windows never cross episodes. Arrays are numpy; what a batch means is stated in `worldsim.episode`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from worldsim.episode import Episode
from worldsim.errors import UsageError, suggestion
from worldsim.foreign import MAX_METADATA_BYTES, is_mapping, is_whole, read_json
from worldsim.spec import WorldSpec
from worldsim.storage import (
    METADATA_NAME,
    SHARD_FOLDER,
    EpisodeRecord,
    RecordingHeader,
    damaged,
    episode_of,
    missing_recording,
    open_shard,
    shard_path,
    unwritable,
)

SPLITS = ("train", "val", "test")
SPLIT_BLOCK = 20  # of every so many consecutive episodes one is "val" and one is "test"
CACHE_FOLDER = "cache"


def split_of(dataset_seed: int, episode_id: int) -> str:
    """Return "train", "val" or "test" (90 / 5 / 5 %): a pure function of the recording's seed and the episode's id.

    In every block of `SPLIT_BLOCK` consecutive episodes the two with the smallest sha256 are held out, so that even a
    short recording has episodes of each split.
    """
    block = episode_id // SPLIT_BLOCK
    members = range(block * SPLIT_BLOCK, (block + 1) * SPLIT_BLOCK)
    ranked = sorted(members, key=lambda i: hashlib.sha256(f"worldsim-split|{dataset_seed}|{i}".encode()).digest())
    return {0: "val", 1: "test"}.get(ranked.index(episode_id), "train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of ``t`` frames and the ``t-1`` actions between them, aligned as in `worldsim.episode.Episode`."""

    frames: UInt8[np.ndarray, "b t h w 3"]
    actions: Float32[np.ndarray, "b t-1 a"]
    rewards: Float32[np.ndarray, "b t-1"]
    terminated: Bool[np.ndarray, "b t-1"]
    readouts: Mapping[str, Float32[np.ndarray, "b t n"]]


class EpisodeDataset:
    """A recording opened for reading. Make one with `EpisodeDataset.open`; it may be pickled and sent to a process."""

    def __init__(self, folder: Path, header: RecordingHeader, records: Sequence[EpisodeRecord], identity: str) -> None:
        self.folder = folder
        self.header = header
        self.records = {record.episode_id: record for record in records}
        self.fingerprint = identity
        self._files: dict[int, h5py.File] = {}

    @classmethod
    def open(cls, folder: str | Path) -> EpisodeDataset:
        """Open the recording in ``folder``.

        UsageError if there is none, if it has shards but no index yet, or naming the shard that is missing or cut off.
        """
        folder = Path(folder)
        path = folder / METADATA_NAME
        if not path.exists():
            if not any((folder / SHARD_FOLDER).glob("*.hdf5")):
                raise missing_recording(folder)
            raise UsageError(
                f"dataset {folder}",
                got=f"shards without {METADATA_NAME}: the recording was interrupted",
                allowed="a finished recording",
                fix="run the same `worldsim record` command again to resume it, or call worldsim.storage.build_index",
            )
        content = _read_metadata(path)
        for shard, size in content["shard_bytes"].items():
            file = shard_path(folder, int(shard))
            if not file.exists() or file.stat().st_size != size:
                raise damaged(file, f"a file of other than the {size} bytes that the index knows")
        records = [EpisodeRecord.from_json(record) for record in content["episodes"]]
        return cls(folder, RecordingHeader.from_json(json.dumps(content["header"])), records, content["fingerprint"])

    @property
    def spec(self) -> WorldSpec:
        """The recorded world."""
        return self.header.spec

    def episode_ids(self, split: str | None = None) -> list[int]:
        """Return the ids of the episodes in ``split`` ("train", "val", "test"; None for all), ascending."""
        if split is not None and split not in SPLITS:
            raise UsageError("split", got=split, allowed=f"one of {SPLITS}", fix=suggestion(split, SPLITS))
        return [i for i, record in self.records.items() if split is None or record.attributes.get("split") == split]

    def num_frames(self, split: str | None = None) -> int:
        """Return the number of frames in ``split``."""
        return sum(self.records[i].num_steps + 1 for i in self.episode_ids(split))

    def episode(self, episode_id: int) -> Episode:
        """Read one episode bit for bit; UsageError if there is no such id or its shard is damaged."""
        if episode_id not in self.records:
            allowed = f"an id between {min(self.records)} and {max(self.records)}"
            raise UsageError("episode", got=episode_id, allowed=allowed, fix="see episode_ids()")
        shard = self.records[episode_id].shard
        path = shard_path(self.folder, shard)
        if shard not in self._files:
            self._files[shard] = open_shard(path)
        episode = episode_of(self._files[shard], episode_id, path)
        got = (episode.num_steps, *episode.frames.shape[1:], *episode.actions.shape[1:])
        wanted = (self.records[episode_id].num_steps, *self.spec.frame_shape, self.spec.action_dim)
        widths = {readout.name: len(readout.names) for readout in self.spec.readouts}
        found = {name: int(np.prod(rows.shape[1:])) for name, rows in episode.readouts.items() if name in widths}
        if got != wanted or found != widths:
            said = f"steps, frames, actions and readouts {got} {found} where the index says {wanted} {widths}"
            raise damaged(path, f"episode {episode_id} with {said}")
        return episode

    def cache(self, split: str, folder: str | Path | None = None) -> FrameCache:
        """Return the split as arrays in memory: made at the first call, only mapped afterwards.

        The files lie below ``folder`` (default: the recording's own), under a name that holds the split and the
        recording's fingerprint, so that a cache of other data is never taken for this one. UsageError if the split is
        empty or the disk is full.
        """
        ids = self.episode_ids(split)
        if not ids:
            fix = f"record at least {SPLIT_BLOCK} episodes: one of every {SPLIT_BLOCK} is {split!r}"
            raise UsageError("split", got=f"{split!r} without episodes", allowed="a split with episodes", fix=fix)
        root = Path(folder) if folder is not None else self.folder / CACHE_FOLDER
        target = root / f"{split}-{self.fingerprint[:24]}"
        if not target.exists():
            _build_cache(self, ids, target)
        return FrameCache(target)

    def close(self) -> None:
        """Close the shards that were opened; the dataset opens them again when needed."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return what the index says; UsageError if it is none, or names what could lie in another folder."""
    try:
        content = read_json(path, MAX_METADATA_BYTES)["worldsim"]
        sizes, identity, _ = content["shard_bytes"], content["fingerprint"], content["header"]
        numbered = is_mapping(sizes) and all(re.fullmatch(r"\d{1,12}", key, re.ASCII) for key in sizes)
        if not numbered or not all(map(is_whole, sizes.values())) or not isinstance(content["episodes"], list):
            raise ValueError("shards and episodes that are no numbered ones")
        if not isinstance(identity, str) or not re.fullmatch(r"[0-9a-f]{64}", identity):
            raise ValueError("a fingerprint that is none")
        return content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"dataset metadata {path}",
            got=f"a file that is no worldsim metadata (cut off, or of another program): {error}",
            allowed="the JSON that `worldsim record` writes",
            fix="rebuild it from the shards with worldsim.storage.build_index(FOLDER)",
        ) from error


def _build_cache(dataset: EpisodeDataset, ids: Sequence[int], target: Path) -> None:
    """Write the split's arrays to a folder of its own and give it its name when it is whole."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    frames_total = sum(dataset.records[i].num_steps + 1 for i in ids)
    spec = dataset.spec
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        _write_columns(dataset, ids, temporary)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise unwritable(target, error, size_bytes=frames_total * int(np.prod(spec.frame_shape))) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        temporary.rename(target)
    except OSError:  # another process was faster; its arrays are the same
        shutil.rmtree(temporary)
    made = re.compile(rf"{target.name.split('-')[0]}-[0-9a-f]{{24}}")
    for stale in target.parent.iterdir():
        if stale != target and made.fullmatch(stale.name):  # arrays of the recording before it grew
            shutil.rmtree(stale, ignore_errors=True)


def _write_columns(dataset: EpisodeDataset, ids: Sequence[int], folder: Path) -> None:
    columns: dict[str, list[np.ndarray]] = {"actions": [], "rewards": [], "terminated": []}
    columns |= {f"readout_{readout.name}": [] for readout in dataset.spec.readouts}
    with (folder / "frames.u8").open("wb") as frames:
        for episode_id in ids:
            episode = dataset.episode(episode_id)
            frames.write(np.ascontiguousarray(episode.frames).data)
            for name in ("actions", "rewards", "terminated"):
                columns[name].append(getattr(episode, name))
            for readout in dataset.spec.readouts:
                rows = np.asarray(episode.readouts[readout.name], np.float32)
                columns[f"readout_{readout.name}"].append(rows.reshape(len(rows), -1))
    lengths = [dataset.records[i].num_steps + 1 for i in ids]
    arrays = {name: np.concatenate(rows) for name, rows in columns.items()}
    arrays["episode_ids"] = np.asarray(ids, np.int64)
    arrays["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    arrays["frame_shape"] = np.asarray(dataset.spec.frame_shape, np.int64)
    for name, rows in arrays.items():
        np.save(folder / f"{name}.npy", rows)


class FrameCache:
    """One split in memory: frames mapped from a file of raw uint8, everything else held in RAM.

    Episodes are addressed by position (0, 1, ...; their ids are in ``episode_ids``). Frame ``s`` of episode ``e`` is
    row ``offsets[e] + s`` of ``frames``.
    """

    def __init__(self, folder: Path) -> None:
        try:
            arrays = {path.stem: _array(path) for path in folder.glob("*.npy")}
            shape = _cached_shape(arrays)
            if (folder / "frames.u8").stat().st_size != math.prod(shape):
                raise ValueError(f"a cut-off frames file, where {shape} bytes are due")
        except (OSError, ValueError, KeyError, EOFError) as error:
            fix = "delete that folder: it is made anew from the shards"
            raise UsageError(f"cache {folder}", got=error, allowed="what worldsim keeps there", fix=fix) from error
        self.episode_ids: np.ndarray = arrays["episode_ids"]
        self.offsets: np.ndarray = arrays["offsets"]
        self.actions: np.ndarray = arrays["actions"]
        self.rewards: np.ndarray = arrays["rewards"]
        self.terminated: np.ndarray = arrays["terminated"]
        prefix = "readout_"
        self.readouts = {key.removeprefix(prefix): rows for key, rows in arrays.items() if key.startswith(prefix)}
        self.frames: np.ndarray = np.memmap(folder / "frames.u8", np.uint8, "r", shape=shape)

    @property
    def num_episodes(self) -> int:
        """Number of episodes in the split."""
        return len(self.episode_ids)

    def windows(self, num_frames: int) -> Int[np.ndarray, "m 2"]:
        """Return every window of ``num_frames`` frames as rows (episode's position, first frame).

        UsageError if no episode is that long.
        """
        counts = np.diff(self.offsets) - num_frames + 1
        if num_frames < 1 or counts.max() < 1:
            longest = int(np.diff(self.offsets).max())
            fix = "ask for shorter clips or record longer episodes"
            raise UsageError("num_frames", got=num_frames, allowed=f"1 to {longest} (the longest episode)", fix=fix)
        counts = np.maximum(counts, 0)
        episodes = np.repeat(np.arange(len(counts)), counts)
        starts = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.stack([episodes, starts], axis=1)

    def batch(self, episodes: Int[np.ndarray, " b"], starts: Int[np.ndarray, " b"], num_frames: int) -> Batch:
        """Return the windows of ``num_frames`` frames that start at ``starts`` in ``episodes`` (rows of `windows`)."""
        episodes, starts = np.asarray(episodes), np.asarray(starts)
        lengths = self.offsets[episodes + 1] - self.offsets[episodes]
        if np.any(starts < 0) or np.any(starts + num_frames > lengths):
            fix = "take the rows that windows(num_frames) returns"
            raise UsageError("starts", got=starts.tolist(), allowed="windows inside their episodes", fix=fix)
        first_frame = self.offsets[episodes] + starts
        first_step = first_frame - episodes  # an episode has one action less than frames
        rows = first_frame[:, None] + np.arange(num_frames)
        steps = first_step[:, None] + np.arange(num_frames - 1)
        return Batch(
            frames=np.stack([self.frames[first : first + num_frames] for first in first_frame.tolist()]),
            actions=self.actions[steps],
            rewards=self.rewards[steps],
            terminated=self.terminated[steps],
            readouts={name: values[rows] for name, values in self.readouts.items()},
        )


def _array(path: Path) -> np.ndarray:
    """Read an array into memory, once it is known that the file is as large as it says; ValueError for anything else."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "bif":
        raise ValueError(f"{path.name} holds no numbers")
    return np.array(mapped)


def _cached_shape(arrays: Mapping[str, np.ndarray]) -> tuple[int, int, int, int]:
    """Return the shape of all frames of a cache; ValueError if its arrays do not belong together."""
    ids, offsets, sides = arrays["episode_ids"], arrays["offsets"], arrays["frame_shape"]
    whole = all(array.dtype == np.int64 and array.ndim == 1 for array in (ids, offsets, sides))
    if not whole or len(offsets) != len(ids) + 1 or len(sides) != 3 or offsets[0] != 0 or sides.min() < 1:
        raise ValueError("episodes without an order")
    if np.any(np.diff(offsets) < 1):
        raise ValueError("episodes without frames")
    count = int(offsets[-1])
    rows = {name: count if name.startswith("readout_") else count - len(ids) for name in arrays}
    rows |= {"episode_ids": len(ids), "offsets": len(offsets), "frame_shape": 3}
    kinds = {"terminated": bool, "actions": np.float32, "rewards": np.float32}
    for name, array in arrays.items():
        if not array.ndim or len(array) != rows[name] or array.dtype != kinds.get(name, array.dtype):
            raise ValueError(f"{name} of shape {array.shape}, where {rows[name]} rows are due")
    height, width, colours = sides.tolist()
    return count, height, width, colours
