"""Files that cannot be imported: refused by name before anything is written, and without being trusted."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.envs.importing import import_dataset
from worldsim.errors import UsageError


def announcing(shape: str, path: Path) -> None:
    """An archive of a few bytes that says it holds frames of this shape."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    text = header.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("frames.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


def bad_archive(kind: str, path: Path) -> None:
    """One .npz with one thing wrong."""
    good: dict[str, Any] = {"frames": np.zeros((6, 16, 16, 3), np.uint8), "actions": np.zeros((5, 2), np.float32)}
    if kind == "cut off":
        np.savez(path, **good)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "no archive":
        path.write_bytes(b"PK\x03\x04" + bytes(50))
    elif kind == "huge":
        announcing("(1000000000, 20000, 20000, 3)", path)
    elif kind == "negative":
        announcing("(-1, 16, 16, 3)", path)
    else:
        changes: dict[str, dict[str, Any]] = {
            "pickle": {"actions": np.array([{"a": 1}] * 5, dtype=object)},
            "rows": {"actions": np.zeros((9, 2), np.float32)},
            "float frames": {"frames": np.zeros((6, 16, 16, 3), np.float32)},
            "rewards": {"rewards": np.zeros(3)},
            "same names": {"a b": np.zeros((6, 1)), "a-b": np.zeros((6, 1))},
            "text": {"actions": np.array(["left"] * 5)},
            "five colours": {"frames": np.zeros((6, 16, 16, 5), np.uint8)},
            "large": {"frames": np.zeros((6, 16, 1024, 3), np.uint8)},
        }
        np.savez(path, **{**good, **changes[kind]})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut off", "whole, readable file"),
        ("no archive", "whole, readable file"),
        ("huge", "pixels"),
        ("negative", "shape"),
        ("pickle", "pickle"),
        ("rows", "9 rows for 6 frames"),
        ("float frames", "astype"),
        ("rewards", "5 numbers"),
        ("same names", "both be called a_b"),
        ("text", "<U4"),
        ("five colours", "--image"),
        ("large", "--size"),
    ],
)
def test_bad_files_are_named_and_nothing_is_left(kind: str, says: str, tmp_path: Path) -> None:
    """What cannot be read, or does not fit together, is refused by the file's name before anything is written."""
    bad_archive(kind, tmp_path / "wrong.npz")
    with pytest.raises(UsageError, match=says) as refused:
        import_dataset(tmp_path / "wrong.npz", out=tmp_path / "data")
    assert kind == "large" or "wrong.npz" in str(refused.value)
    assert not (tmp_path / "data").exists()


def test_damage_amid_the_frames_leaves_no_half_shard(tmp_path: Path) -> None:
    """An archive whose frames are damaged is noticed when they are read: the episode is named, its shard not written."""
    rng = np.random.default_rng(0)
    for k in range(2):
        frames = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
        np.savez(tmp_path / f"{k}.npz", actions=np.zeros((5, 2), np.float32), frames=frames)
    content = bytearray((tmp_path / "1.npz").read_bytes())
    content[10_000:10_100] = bytes(100)
    (tmp_path / "1.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"1\.npz"):
        import_dataset(tmp_path, out=tmp_path.parent / f"{tmp_path.name}-data")
    assert not list((tmp_path.parent / f"{tmp_path.name}-data" / "shards").iterdir())
