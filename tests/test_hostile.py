"""Files that a stranger made: whatever lies in them is read or refused with a UsageError, within bounded memory and time."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
from h5py import h5d, h5s, h5t  # pyright: ignore[reportAttributeAccessIssue]

import worldsim
from worldsim.dataset import EpisodeDataset
from worldsim.envs import import_npz
from worldsim.envs.dream_context import CONTEXTS, read_bundled
from worldsim.envs.importing import import_dataset
from worldsim.errors import UsageError
from worldsim.run_state import load_state
from worldsim.spec import WorldSpec
from worldsim.state import WorldState
from worldsim.storage import build_index, shard_path

MEMORY, SECONDS = 400 << 20, 10
"""What reading one file of a few KB may take at the most."""
DEEP = "[" * 200_000


@contextlib.contextmanager
def bounds(memory: int = MEMORY) -> Iterator[None]:
    """Let this process take no more than ``memory`` bytes of further address space, and some seconds of computing."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits, begun = resource.getrlimit(resource.RLIMIT_AS), time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.process_time() - begun < SECONDS


def set_in(content: Any, path: str, value: Any) -> None:
    """Change what lies at ``path`` (a/b/0/c) of a JSON value."""
    *way, last = path.split("/")
    for key in way:
        content = content[int(key) if isinstance(content, list) else key]
    content[int(last) if isinstance(content, list) else last] = value


def opened(folder: Path) -> None:
    """Read everything of a recording."""
    dataset = EpisodeDataset.open(folder)
    with contextlib.closing(dataset):
        for episode_id in dataset.episode_ids():
            dataset.episode(episode_id)
        dataset.cache("train")


SETTINGS: list[tuple[str, Any]] = [
    ("model/width", 10**9), ("model/width", -128), ("model/width", 1e3), ("model/heads", 0), ("model/depth", 10**12),
    ("model/window", 10**9), ("model/cond_width", 1 << 13), ("model/context_noise", float("nan")), ("model/architecture", ["dit"]),
    ("model/patch", 0), ("model/fine_patch", 0), ("model/max_steps", 3), ("model/pyramid", 1), ("model", [1]), ("model", {}),
    ("world/frame_shape", [10**6, 10**6, 3]), ("world/frame_shape", [-16, -16, 3]), ("world/frame_shape", "big"),
    ("world/action_low", [float("nan"), 0]), ("world/action_high", [10**400, 0]), ("world/frame_rate_hz", float("inf")),
    ("world/context_steps", 10**9), ("world/readouts", [{"name": "../../x", "names": ["a"], "units": ["1"]}]),
    ("world/readouts", [{"name": "x"}]), ("world/env_kwargs", [1]), ("world/env_id", 5), ("world", None),
    ("world/action_choices", [10**9]), ("sampler", {"num_steps": 10**9}), ("sampler", 5), ("training", [1]),
    ("training", {"validation": {"error": "x"}}), ("training", {"begun_from": {"begun_from": [1]}}), ("weights_sha256", 5),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), SETTINGS, ids=lambda part: str(part)[:30])
def test_settings_that_cannot_be(path: str, value: Any, valid: Path, tmp_path: Path) -> None:
    """Settings of a checkpoint that are of another kind or out of all proportion are refused before anything is built."""
    shutil.copytree(valid / "checkpoint", tmp_path / "c")
    content = json.loads((tmp_path / "c" / "config.json").read_text())
    set_in(content, path, value)
    (tmp_path / "c" / "config.json").write_text(json.dumps(content))
    with bounds(), pytest.raises(UsageError):
        worldsim.load(tmp_path / "c")


def spoil(path: Path, how: str) -> None:
    """Put something else where a file was."""
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        code = b"cos\nsystem\n(S'touch ran'\ntR."
        content = {
            "pickle": code,
            "deep": DEEP.encode(),
            "nothing": b"",
            "text": b"\xff\xfe\xfa",
            "header": b"\xff" * 40,
        }
        path.write_bytes({**content, "nested header": (40).to_bytes(8, "little") + b"[" * 40}[how])


def world(root: Path) -> WorldSpec:
    """The world that all these files are of."""
    return EpisodeDataset.open(root / "recording").spec


READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint/config.json": lambda root: worldsim.load(root / "checkpoint"),
    "checkpoint/model.safetensors": lambda root: worldsim.load(root / "checkpoint"),
    f"checkpoint/{CONTEXTS}": lambda root: read_bundled(root / "checkpoint" / CONTEXTS, world(root)),
    "state": lambda root: WorldState.load(root / "state"),
    "run": lambda root: load_state(root / "run", {}, []),
    "recording/metadata.json": lambda root: opened(root / "recording"),
    "recording/shards/00000.hdf5": lambda root: build_index(root / "recording"),
    "one.npz": lambda root: import_dataset(root / "one.npz", out=root / "out"),
    "one.hdf5": lambda root: import_dataset(root / "one.hdf5", out=root / "out"),
    "clips/a.gif": lambda root: import_dataset(root / "clips", out=root / "out"),
    "clips/a.csv": lambda root: import_dataset(root / "clips", out=root / "out"),
}


@pytest.mark.parametrize("name", READERS)
def test_another_thing_in_place_of_a_file(
    name: str, valid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pipes, files of a terabyte of holes, pickles and nested nonsense are refused by every reader; nothing is run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(valid, tmp_path / "v")
    READERS[name](tmp_path / "v")
    shutil.rmtree(tmp_path / "v" / "out", ignore_errors=True)
    for how in ("pipe", "sparse", "pickle", "deep", "nothing", "text", "header", "nested header"):
        spoil(tmp_path / "v" / name, how)
        with bounds(), pytest.raises(UsageError):
            READERS[name](tmp_path / "v")
    assert not (tmp_path / "ran").exists()


def resized(folder: Path) -> Path:
    """Let the index of a recording know how large its shard has become."""
    content = json.loads((folder / "metadata.json").read_text())
    content["worldsim"]["shard_bytes"]["0"] = shard_path(folder, 0).stat().st_size
    (folder / "metadata.json").write_text(json.dumps(content))
    return folder


def bomb(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Put a chunk into an array that unpacks to 500 MB where it should hold less than one."""
    packer = zlib.compressobj(9)
    begin, block = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    packed = begin + block * 499
    array = group.create_dataset(name, shape, dtype, chunks=shape, compression="gzip")
    array.id.write_direct_chunk((0,) * len(shape), packed)


def spoil_shard(group: h5py.Group, how: str, beside: Path) -> None:
    """Put another column in the place of the observations of an episode."""
    del group["observations"]
    shape, name = (4, 16, 16, 3), "observations"
    if how == "soft link":
        group[name] = h5py.SoftLink("/episode_0/actions")
    elif how == "external link":
        with h5py.File(beside, "w") as other:
            other[name] = np.zeros(shape, np.uint8)
        group[name] = h5py.ExternalLink(str(beside), name)
    elif how == "external storage":
        beside.write_bytes(bytes(4 * 16 * 16 * 3))
        group.create_dataset(name, shape, np.uint8, external=[(str(beside), 0, h5py.h5f.UNLIMITED)])
    elif how == "virtual":
        layout = h5py.VirtualLayout(shape, np.uint8)
        layout[:] = h5py.VirtualSource(str(beside), name, shape)
        group.create_virtual_dataset(name, layout)
    elif how == "cycle":
        group[name] = group
    elif how == "huge":
        group.create_dataset(name, (1 << 40, 16, 16, 3), np.uint8, chunks=(8, 16, 16, 3))
    elif how == "nothing stored":
        group.create_dataset(name, (4000, 512, 512, 3), np.uint8, chunks=(8, 512, 512, 3))
    elif how == "large chunk":
        open_end: dict[str, Any] = {"maxshape": (None, 16, 16, 3), "compression": "gzip"}
        array = group.create_dataset(name, shape, np.uint8, chunks=(1 << 20, 16, 16, 3), **open_end)
        array.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(9)))
    elif how == "bomb":
        bomb(group, name, shape, "u1")
    elif how == "texts":
        group.create_dataset(name, shape, h5py.string_dtype())
    else:
        group[name] = {
            "floats": np.zeros(shape),
            "flat": np.zeros(4, np.uint8),
            "large": np.zeros((4, 32, 16, 3), "u1"),
        }[how]


SHARDS = ["soft link", "external link", "external storage", "virtual", "cycle", "huge", "nothing stored", "large chunk",
          "bomb", "texts", "floats", "flat", "large"]  # fmt: skip


@pytest.mark.parametrize("how", SHARDS)
def test_recordings_that_reach_out_or_swell(how: str, valid: Path, tmp_path: Path) -> None:
    """Links, arrays in other files, and arrays that say or unpack to more than their file can hold are not read."""
    shutil.copytree(valid / "recording", tmp_path / "r")
    with h5py.File(shard_path(tmp_path / "r", 0), "r+") as file:
        spoil_shard(file.require_group("episode_0"), how, tmp_path / "beside.hdf5")
    with bounds(), pytest.raises(UsageError, match={"soft link": "a link", "bomb": "unpack"}.get(how)):
        opened(resized(tmp_path / "r"))


INDEX: list[tuple[str, Any]] = [
    ("fingerprint", "/../../../x/a-"), ("fingerprint", 5), ("shard_bytes", {"../../0": 5}), ("shard_bytes", [1]),
    ("episodes", {"a": 1}), ("episodes/0", 5), ("episodes/0/num_steps", 10**30), ("episodes/0/num_steps", 7),
    ("episodes/0/episode_id", -1), ("episodes/0/shard", "0"), ("episodes/0/attributes", {"split": ["train"]}), ("header", 5),
    ("header/seed", "x"), ("header/spec/frame_shape", [32, 16, 3]), ("header/spec/action_names", [["left"], "up"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), INDEX, ids=lambda part: str(part)[:30])
def test_an_index_that_cannot_be(path: str, value: Any, valid: Path, tmp_path: Path) -> None:
    """An index of other kinds of values, or that disagrees with its shards, is refused, and nothing is written elsewhere."""
    shutil.copytree(valid / "recording", tmp_path / "in" / "r")
    content = json.loads((tmp_path / "in" / "r" / "metadata.json").read_text())
    set_in(content, f"worldsim/{path}", value)
    (tmp_path / "in" / "r" / "metadata.json").write_text(json.dumps(content))
    before = set(tmp_path.iterdir())
    with bounds(), pytest.raises(UsageError):
        opened(tmp_path / "in" / "r")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("how", ["pickle", "huge", "other rows"])
def test_a_cache_that_came_with_a_recording(how: str, valid: Path, tmp_path: Path) -> None:
    """Arrays that lie in a recording's cache are checked before they are taken for its own."""
    shutil.copytree(valid / "recording", tmp_path / "r")
    cached = EpisodeDataset.open(tmp_path / "r").cache("train")
    del cached
    (rewards,) = (tmp_path / "r" / "cache").glob("*/rewards.npy")
    if how == "pickle":
        np.save(rewards, np.array([{}] * 3, dtype=object), allow_pickle=True)
    elif how == "huge":
        rewards.write_bytes(npy_header("(1000000000000,)"))
    else:
        np.save(rewards, np.zeros(9, np.float32))
    with bounds(), pytest.raises(UsageError):
        EpisodeDataset.open(tmp_path / "r").cache("train")


def npy_header(shape: str, version: int = 1, length: int | None = None) -> bytes:
    """The beginning of a .npy file of bytes, and nothing behind it."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = (len(text) if length is None else length).to_bytes(2 * version, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def bad_source(how: str, root: Path, columns: Mapping[str, np.ndarray]) -> Path:
    """A source of another hostile kind."""
    path = root / ("a.hdf5" if how.startswith("hdf5") else "a.npz")
    members = {
        "npz bomb": (npy_header("(1000000, 16, 16, 3)"), 1),
        "npz header": (npy_header("(4, 16, 16, 3)", 2, 1 << 31), 80),
        "npz nested": (npy_header("-" * 9000 + "1"), 0),
        "npz numbers": (npy_header(f"({'9' * 4000}, {'9' * 4000}, 16)"), 0),
    }
    if how in members:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("frames.npy", "w") as file:
            file.write(members[how][0])
            for _ in range(members[how][1]):
                file.write(bytes(1 << 20))
    elif how == "npz many":
        with zipfile.ZipFile(path, "w") as archive:
            for k in range(2000):
                archive.writestr(f"{k}.npy", npy_header("(0,)"))
    elif how == "npz columns":
        np.savez_compressed(path, **columns, **cast("Any", {f"c{k}": np.zeros((4, 10**4)) for k in range(9)}))
    else:
        with h5py.File(path, "w") as file:
            group = file.create_group("e0")
            group["actions"] = columns["actions"]
            if how == "hdf5 bomb":
                bomb(group, "frames", (4, 16, 16, 3), "u1")
            elif how == "hdf5 heap":
                group["frames"] = columns["frames"]
                file.attrs["text"] = "of some length"
            elif how == "hdf5 type":
                group["frames"] = columns["frames"]
                kind = h5t.IEEE_F32LE.copy()
                kind.set_ebias(1 << 20)
                h5d.create(group.id, b"odd", kind, h5s.create_simple((4,)))
            else:
                group["frames"] = columns["frames"]
                for k in range(40):
                    group[f"again{k}"] = group
    if how == "hdf5 heap":
        endless_heap(path)
    return path


def endless_heap(path: Path) -> None:
    """Let the free space of an HDF5 file's heap be of no bytes, so that what comes after it is itself."""
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16
    while index := int.from_bytes(content[at : at + 2], "little"):
        assert index < 100
        at += 16 + -(-int.from_bytes(content[at + 8 : at + 16], "little") // 8) * 8
    content[at : at + 16] = bytes(16)
    path.write_bytes(content)


SOURCES = [
    "npz bomb",
    "npz header",
    "npz nested",
    "npz numbers",
    "npz many",
    "npz columns",
    "hdf5 bomb",
    "hdf5 cycle",
    "hdf5 heap",
    "hdf5 type",
]


@pytest.mark.parametrize("how", SOURCES)
def test_sources_that_swell_or_never_end(
    how: str, valid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives and groups of a few KB that unpack to gigabytes, or hold themselves, are not imported."""
    with np.load(valid / "one.npz") as columns:
        path = bad_source(how, tmp_path, columns)
    monkeypatch.setattr(import_npz, "MAX_COLUMN_BYTES", 1 << 20)
    says = {"npz header": "a header of", "npz many": "more than", "hdf5 cycle": "in itself", "hdf5 bomb": "unpack",
            "hdf5 heap": "a heap at byte", "hdf5 type": "precision"}  # fmt: skip
    with bounds(64 << 20), pytest.raises(UsageError, match=says.get(how)):
        import_dataset(path, out=tmp_path / "out")
    assert not (tmp_path / "out" / "shards").exists()
