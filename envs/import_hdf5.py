"""Sources of episodes: HDF5 files with a group per episode, robomimic's and Minari's layouts among them.

Only what lies in the file itself is read: links, and arrays that are kept in other files, are refused.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from PIL import Image

from worldsim import hdf5
from worldsim.envs.actions import MAX_DIMENSIONS
from worldsim.envs.import_source import (
    BLOCK_FRAMES,
    MAX_COLUMN_BYTES,
    MAX_SOURCE_BYTES,
    PICTURE_DAMAGE,
    Columns,
    Pictures,
    Unusable,
    broken,
    check_bytes,
    check_count,
    choose_image,
    is_flat,
    is_image,
    natural,
    plain_name,
    role_of,
)
from worldsim.errors import UsageError
from worldsim.foreign import MAX_METADATA_BYTES, parse_json, read_json

SUFFIXES = (".hdf5", ".h5", ".hdf")
MAX_DEPTH = 4
"""How deep columns may lie below their episode's group."""
NEXT = "next_obs/"
"""robomimic's observations after each step; its last row is the frame after the last action."""


def child(group: h5py.Group, name: str, where: str) -> h5py.Group | h5py.Dataset:
    """Return a member of ``group``; UsageError for links and for arrays that lie in other files."""
    try:
        return hdf5.member(group, name)
    except hdf5.Refused as reason:
        fix = "copy everything into one file (h5repack, or h5py's Group.copy with expand_external=True)"
        allowed = "what lies in the file itself"
        raise UsageError(f"source {where}/{name}", got=reason, allowed=allowed, fix=fix) from reason
    except hdf5.DAMAGE as error:
        raise broken(f"{where}/{name}", error) from error


def members(group: h5py.Group) -> list[str]:
    """Return the names in a group, demo_2 before demo_10; UsageError if it cannot be read."""
    try:
        return sorted(map(str, group), key=natural)
    except hdf5.DAMAGE as error:
        raise broken(group.file.filename, error) from error


def walk(
    group: h5py.Group, where: str, depth: int = MAX_DEPTH, seen: set[int] | None = None
) -> dict[str, h5py.Dataset]:
    """Return the arrays below ``group`` by their paths; UsageError for too many, and for groups that hold themselves."""
    seen = set() if seen is None else seen
    try:
        address = hdf5.address_of(group)
    except hdf5.DAMAGE as error:
        raise broken(where, error) from error
    if address in seen:
        raise broken(where, "a group that stands in several places, or in itself")
    seen.add(address)
    found = {}
    for name in members(group):
        member = child(group, name, where)
        if isinstance(member, h5py.Dataset):
            found[name] = member
        elif depth > 1:
            below = walk(member, f"{where}/{name}", depth - 1, seen)
            found |= {f"{name}/{path}": array for path, array in below.items()}
        check_count(max(len(found), len(seen)), where)
    return found


def read(dataset: h5py.Dataset, where: str, rows: slice = slice(None)) -> np.ndarray:
    """Read (rows of) an array; UsageError if it is damaged or too large."""
    try:
        if rows == slice(None):
            check_bytes(dataset.shape, dataset.dtype, MAX_COLUMN_BYTES, where)
            hdf5.check_stored(dataset, MAX_COLUMN_BYTES)
        return np.asarray(dataset[rows])
    except UsageError:
        raise
    except hdf5.DAMAGE as error:
        raise broken(where, error) from error


def check_frames(array: h5py.Dataset, where: str) -> None:
    """Raise UsageError if an array of pictures holds less than it says, or would unpack to more."""
    try:
        hdf5.check_stored(array, MAX_SOURCE_BYTES, kinds="uO")
    except hdf5.DAMAGE as error:
        raise broken(where, error) from error


class Hdf5Source:
    """One file of many episodes, or a folder of files: groups with pictures, ``actions``, perhaps ``rewards`` and ends.

    Groups lie at the top, or below ``data`` as robomimic has them; a file with ``actions`` at its top is one episode.
    Pictures and readouts may lie in groups of their own (``obs/...``).
    """

    kind = "hdf5"
    action_names: tuple[str, ...] = ()

    def __init__(self, path: Path, image: str | None) -> None:
        self.name = path.stem
        self.image = image
        self.action_space: gym.Space | None = None
        self.frame_rate: float | None = None
        self.remarks: list[str] = []
        inside = path.is_file()
        self.paths = [path] if inside else [file for file in path.iterdir() if file.suffix in SUFFIXES]
        self.paths.sort(key=lambda file: natural(file.name))
        self._open: tuple[Path, h5py.File] | None = None
        self._episodes = [(file, group) for file in self.paths for group in self._groups(file)]

    def _groups(self, path: Path) -> list[str]:
        """Return the paths of the episodes in a file: "" where the file is one."""
        root = self._file(path)
        if role_of(members(root)).get("actions"):
            return [""]
        data = child(root, "data", path.name) if "data" in members(root) else root
        base = data if isinstance(data, h5py.Group) else root
        prefix = "data/" if base is not root else ""
        groups = (name for name in members(base) if isinstance(child(base, name, path.name), h5py.Group))
        return [f"{prefix}{name}" for name in groups]

    def _file(self, path: Path) -> h5py.File:
        if self._open is None or self._open[0] != path:
            self.close()
            try:
                self._open = path, hdf5.open_file(path)
            except OSError as error:
                raise broken(path.name, error) from error
        return self._open[1]

    def __len__(self) -> int:
        return len(self._episodes)

    def label(self, position: int) -> str:
        """Return the file's name and the group's path."""
        path, group = self._episodes[position]
        return f"{path.name}/{group}" if group else path.name

    def _group(self, position: int) -> h5py.Group:
        path, name = self._episodes[position]
        group: h5py.Group = self._file(path)
        for part in name.split("/") if name else ():
            found = child(group, part, path.name)
            if not isinstance(found, h5py.Group):
                raise broken(f"{path.name}/{name}", "no group")
            group = found
        return group

    def _arrays(self, position: int) -> dict[str, h5py.Dataset]:
        return walk(self._group(position), self.label(position))

    def _image(self, arrays: Mapping[str, h5py.Dataset], where: str) -> str:
        found = [name for name, array in arrays.items() if is_image(array.shape, array.dtype)]
        return choose_image([name for name in found if not name.startswith(NEXT)], self.image, where)

    def _after(self, image: str) -> str:
        """Return where the frames after each step would lie."""
        return f"{NEXT}{image.removeprefix('obs/')}"

    def pictures(self, position: int) -> Pictures:
        """Look at the shape of the frames; with ``next_obs`` there is one more than ``obs`` has."""
        arrays, where = self._arrays(position), self.label(position)
        image = self._image(arrays, where)
        shape = arrays[image].shape
        check_frames(arrays[image], f"{where}/{image}")
        after = arrays.get(self._after(image))
        if after is not None and after.shape == shape and image.startswith("obs/"):
            shape = (shape[0] + (shape[0] > 0), *shape[1:])
        return Pictures.of(shape, where)

    def columns(self, position: int) -> Columns:
        """Read all arrays but the frames."""
        arrays, where = self._arrays(position), self.label(position)
        image = self._image(arrays, where)
        roles = role_of(arrays)
        if "actions" not in roles:
            raise Unusable("no actions")
        if roles.get("terminated") in ("dones", "done"):
            self.remarks.append(f"{roles['terminated']}: taken as terminations")
        frames = self.pictures(position).count
        readouts, left_out = dict[str, np.ndarray](), dict[str, str]()
        names = [name for name in arrays if name not in {image, *roles.values()} and not name.startswith(NEXT)]
        for name in names:
            array = arrays[name]
            rows = array.shape[0] if array.shape else 0
            after = arrays.get(self._after(name)) if name.startswith("obs/") else None
            complete = after is not None and after.shape == array.shape
            if not is_flat(array.shape, array.dtype) or rows + complete * (rows + 1 == frames) != frames:
                left_out[name] = f"{array.dtype} {array.shape}: no row of numbers for each frame"
                continue
            values = read(array, f"{where}/{name}")
            if rows != frames and after is not None:
                values = np.concatenate([values, read(after, f"{where}/{NEXT}{name}", slice(-1, None))])
            readouts[self._readout_name(name, names)] = values
        taken = {role: read(arrays[name], f"{where}/{name}") for role, name in roles.items()}
        return Columns(**taken, readouts=readouts, left_out=left_out)

    def _readout_name(self, name: str, names: Sequence[str]) -> str:
        """Return the last part of a path where it is the only one of that name, else all of it."""
        last = name.rpartition("/")[2]
        return plain_name(last if sum(other.rpartition("/")[2] == last for other in names) == 1 else name)

    def blocks(self, position: int) -> Iterator[np.ndarray]:
        """Read the frames a few rows at a time."""
        arrays, where, pictures = self._arrays(position), self.label(position), self.pictures(position)
        image = self._image(arrays, where)
        rows = arrays[image].shape[0]
        for first in range(0, rows, BLOCK_FRAMES):
            block = read(arrays[image], f"{where}/{image}", slice(first, min(first + BLOCK_FRAMES, rows)))
            yield pictures.lay_out(block)
        if rows < pictures.count:
            after = self._after(image)
            yield pictures.lay_out(read(arrays[after], f"{where}/{after}", slice(-1, None)))

    def files(self) -> Sequence[Path]:
        """Return the HDF5 files."""
        return self.paths

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


class MinariSource(Hdf5Source):
    """A Minari dataset's folder, with ``data/main_data.hdf5`` and ``data/metadata.json``: pictures raw or as JPEG."""

    kind = "minari"

    def __init__(self, path: Path, image: str | None) -> None:
        folder = path / "data" if (path / "data" / "main_data.hdf5").is_file() else path
        metadata = _metadata(folder / "metadata.json")
        if "worldsim" in metadata:
            fix = f"worldsim train {folder} --out RUN"
            raise UsageError("source", got="a recording of worldsim", allowed="anything that is none yet", fix=fix)
        if metadata.get("data_format", "hdf5") != "hdf5":
            fix = "convert it: minari.convert_dataset(..., data_format='hdf5')"
            raise UsageError("source", got=f"data_format {metadata['data_format']!r}", allowed="hdf5", fix=fix)
        super().__init__(folder / "main_data.hdf5", image)
        self.name = str(metadata.get("dataset_id") or path.resolve().name)
        self.action_space = _space(metadata.get("action_space"))

    def _groups(self, path: Path) -> list[str]:
        return [name for name in members(self._file(path)) if name.startswith("episode_")]

    def _arrays(self, position: int) -> dict[str, h5py.Dataset]:
        arrays = super()._arrays(position)
        return {name: array for name, array in arrays.items() if not name.startswith("infos/")}

    def _image(self, arrays: Mapping[str, h5py.Dataset], where: str) -> str:
        below = {name: array for name, array in arrays.items() if name.split("/")[0] == "observations"}
        found = [name for name, array in below.items() if is_image(array.shape, array.dtype) or _is_encoded(array)]
        return choose_image(found, self.image, where)

    def _after(self, image: str) -> str:
        del image
        return ""

    def pictures(self, position: int) -> Pictures:
        """Look at the shape of the frames, or at the first one where they are JPEG."""
        arrays, where = self._arrays(position), self.label(position)
        image = self._image(arrays, where)
        array = arrays[image]
        check_frames(array, f"{where}/{image}")
        if not _is_encoded(array):
            return Pictures.of(array.shape, where)
        if not len(array):
            raise Unusable("no frames")
        first = _decoded(read(array, where, slice(0, 1))[0], f"{where}, frame 0", None)
        self.remarks.append(f"{image}: JPEG, so its frames are what that lossy format had kept")
        return Pictures.of((len(array), *first.shape), where)

    def columns(self, position: int) -> Columns:
        """Read all arrays but the frames; ``infos`` are left out, since Minari does not say what their rows belong to."""
        found = super().columns(position)
        infos = [name for name in super()._arrays(position) if name.startswith("infos/")]
        reason = "an info of the environment, which Minari gives no meaning"
        return dataclasses.replace(found, left_out={**found.left_out, **dict.fromkeys(infos, reason)})

    def blocks(self, position: int) -> Iterator[np.ndarray]:
        """Read the frames a few rows at a time, decoding them where they are JPEG."""
        arrays, where = self._arrays(position), self.label(position)
        array = arrays[self._image(arrays, where)]
        if not _is_encoded(array):
            yield from super().blocks(position)
            return
        pictures = self.pictures(position)
        for k in range(len(array)):
            picture = _decoded(read(array, where, slice(k, k + 1))[0], f"{where}, frame {k}", pictures.size)
            yield pictures.lay_out(picture[None])

    def files(self) -> Sequence[Path]:
        """Return data and metadata."""
        return [*self.paths, *(path.with_name("metadata.json") for path in self.paths)]


def _is_encoded(array: h5py.Dataset) -> bool:
    """Return whether a column holds JPEG files, as rows of bytes of equal or different lengths."""
    various = h5py.check_vlen_dtype(array.dtype)
    return various == np.uint8 if various is not None else array.dtype == np.uint8 and array.ndim == 2


def _decoded(content: np.ndarray, where: str, size: tuple[int, int] | None) -> np.ndarray:
    """Decode a JPEG; UsageError if it is none, or has other sides than ``size``."""
    try:
        with Image.open(io.BytesIO(np.asarray(content, np.uint8).tobytes()), formats=("JPEG",)) as picture:
            Pictures.of((1, picture.height, picture.width, 3), where)
            if size is not None and (picture.height, picture.width) != size:
                raise broken(where, f"{picture.height}x{picture.width} pixels where {size[0]}x{size[1]} are due")
            return np.asarray(picture)
    except UsageError:
        raise
    except PICTURE_DAMAGE as error:
        raise broken(where, error) from error


def _metadata(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, MAX_METADATA_BYTES) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise broken(path.name, error) from error
    if not isinstance(content, dict):
        raise broken(path.name, "no JSON object")
    return content


def _space(text: Any) -> gym.Space | None:
    """Read a flat action space the way Minari writes it; UsageError for any other."""
    if text is None:
        return None
    try:
        content: dict[str, Any] = parse_json(text) if isinstance(text, str) else text
        kind = content["type"]
        if kind == "Box":
            dtype, shape = np.dtype(content["dtype"]), tuple(map(int, content["shape"]))
            if dtype.kind not in "iuf" or math.prod(shape) > MAX_DIMENSIONS:
                raise ValueError(f"a Box of {dtype} {shape}")
            low, high = (np.asarray(content[key], dtype) for key in ("low", "high"))
            return Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            return Discrete(int(content["n"]), start=int(content.get("start", 0)))
        if kind == "MultiDiscrete":
            nvec = np.asarray(content["nvec"], np.int64)
            return MultiDiscrete(nvec, start=np.asarray(content.get("start", np.zeros_like(nvec)), np.int64))
        if kind == "MultiBinary":
            return MultiBinary(content["n"])
    except (ValueError, KeyError, TypeError, AssertionError, OverflowError, AttributeError) as error:
        raise broken("metadata.json, action_space", error) from error
    fix = "flatten the actions when the dataset is made, for example with a minari.StepDataCallback"
    raise UsageError("action space", got=kind, allowed="Box, Discrete, MultiDiscrete or MultiBinary", fix=fix)
