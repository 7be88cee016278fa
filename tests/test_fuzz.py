"""Mutations of small valid files: every reader of files takes each of them, or refuses it with a UsageError."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from worldsim import checkpoint as checkpoints
from worldsim.dataset import EpisodeDataset
from worldsim.envs.actions import ActionRange
from worldsim.envs.dream_context import CONTEXTS, read_bundled
from worldsim.envs.import_hdf5 import Hdf5Source, MinariSource
from worldsim.envs.import_npz import NpzSource, load_array
from worldsim.envs.import_source import Unusable
from worldsim.envs.import_survey import Steps
from worldsim.envs.import_videos import VideoSource
from worldsim.errors import UsageError
from worldsim.play.protocol import parse
from worldsim.play.tape import Beginning, Stride, decode, encode
from worldsim.run_state import load_state
from worldsim.state import WorldState
from worldsim.storage import episode_of, open_shard

BATCH, SECONDS, KEPT_BYTES = 20, 10, 200 << 20
"""Inputs of one example of Hypothesis; what one input may take; what may be left in memory of all of them."""


def looked_at(source: Any) -> None:
    """Read all that an import would of a source."""
    with contextlib.closing(source):
        for position in range(len(source)):
            with contextlib.suppress(Unusable):
                count = source.pictures(position).count
                ActionRange.of(Steps.of(source.columns(position), count, "x").actions, "x")
            with contextlib.suppress(Unusable):
                for _ in source.blocks(position):
                    pass


def first_episode(path: Path) -> None:
    """Read an episode of a shard."""
    with contextlib.closing(open_shard(path)) as file:
        episode_of(file, 0, path)


def lead_ins(path: Path) -> None:
    """Read the lead-ins beside a checkpoint."""
    _, _, world = checkpoints.read_settings(path.with_name(checkpoints.SETTINGS))
    read_bundled(path, world)


PARSERS: dict[str, tuple[str, Callable[[Path], Any], bool]] = {
    "settings": ("checkpoint/config.json", checkpoints.read_settings, True),
    "index": ("recording/metadata.json", lambda path: EpisodeDataset.open(path.parent).episode_ids(), True),
    "shard": ("recording/shards/00000.hdf5", first_episode, False),
    "state": ("state", WorldState.load, False),
    "contexts": (f"checkpoint/{CONTEXTS}", lead_ins, False),
    "training state": ("run", lambda path: load_state(path, {}, []), False),
    "npz": ("one.npz", lambda path: looked_at(NpzSource(path, None)), False),
    "npy": ("one.npy", lambda path: load_array(io.BytesIO(path.read_bytes()), "x"), False),
    "hdf5": ("one.hdf5", lambda path: looked_at(Hdf5Source(path, None)), False),
    "minari": ("minari/metadata.json", lambda path: MinariSource(path.parent, None).close(), True),
    "gif": ("clips/a.gif", lambda path: looked_at(VideoSource(path.parent, None)), False),
    "csv": ("clips/a.csv", lambda path: looked_at(VideoSource(path.parent, None)), False),
    "link": ("link", lambda path: decode(path.read_bytes().decode("latin1"), 1000), False),
    "message": ("message", lambda path: parse(path.read_bytes().decode("latin1")), True),
}
"""Name -> a valid file, what reads it, and whether it is JSON."""


@pytest.fixture
def files(valid: Path, tmp_path: Path) -> Path:
    """One small valid file for every parser, to be changed."""
    root = tmp_path / "files"
    shutil.copytree(valid, root)
    (root / "minari").mkdir()
    shutil.copy(root / "one.hdf5", root / "minari" / "main_data.hdf5")
    space = json.dumps({"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]})
    (root / "minari" / "metadata.json").write_text(json.dumps({"dataset_id": "x", "action_space": space}))
    (root / "link").write_text(encode(Beginning(seed=1, checkpoint="a"), [Stride((0, 1), 2)] * 3))
    (root / "message").write_text(json.dumps({"type": "reset", "seed": 3}))
    return root


VALUES = [
    None,
    True,
    -1,
    0,
    3,
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "0" * 64,
    "\0",
    [],
    {},
]
VALUES += [[[]] * 3, [1, 2, 3], {"a": []}, ["a"], "[" * 5000]
BYTES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"[", b'"', b"-", b"9", b"PK\x01\x02"]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Overwrite, insert, leave out, repeat and cut off bytes; the first ones, where headers are, more often."""
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(min(len(content), rng.choice((64, 1024, 1 << 30))) + 1)
        new = rng.choice((rng.choice(BYTES), rng.randbytes(rng.randrange(1, 9))))
        kind = rng.choice("oooiird")
        if kind == "o":
            content = content[:at] + new + content[at + len(new) :]
        elif kind == "i":
            content = content[:at] + new + content[at:]
        elif kind == "r":
            content = content[: at + rng.randrange(40)] + content[at:]
        else:
            content = content[:at] + content[at + rng.choice((1, 8, 1 << 30)) :]
    return content


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in inside for place in ((content, key), *places(value))]


def changed(content: Any, rng: random.Random) -> bytes:
    """Put other values, leave keys out and double them in a JSON value."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        found = places(content)
        inside, key = rng.choice(found) if found else ({}, "a")
        kind = rng.randrange(4)
        if kind < 2:
            inside[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 2:
            inside.pop(key, None) if isinstance(inside, dict) else inside.pop(key)
        elif isinstance(inside, dict):
            inside[f"{key}2"] = copy.deepcopy(inside.get(key))
        else:
            inside.append(copy.deepcopy(inside[key]))
    return json.dumps(content).encode()


def fuzz(name: str, root: Path, examples: int, start: int) -> None:
    """Let a parser read `BATCH` inputs for each of Hypothesis' ``examples``; what fails is shown as its number and bytes."""
    relative, read, is_json = PARSERS[name]
    path = root / relative
    content = path.read_bytes()
    tree = json.loads(content) if is_json else None

    @seed(start)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.integers(0, (1 << 64) - 1))
    def check(number: int) -> None:
        rng = random.Random(number)
        for _ in range(BATCH):
            data = changed(tree, rng) if is_json and rng.random() < 0.7 else mutated(content, rng)
            path.write_bytes(data)
            begun = time.process_time()
            try:
                with contextlib.suppress(UsageError):
                    read(path)
            except BaseException as error:
                raise AssertionError(f"{name}: {type(error).__name__} {error} of {data[:5000]!r}") from error
            assert time.process_time() - begun < SECONDS, f"{name}: too long for {data[:5000]!r}"

    try:
        check()
    finally:
        path.write_bytes(content)


def resident() -> int:
    """Bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", PARSERS)
def test_mutations(name: str, files: Path) -> None:
    """Some dozen inputs, each a valid file with a few bytes or values changed, are read or refused by every parser."""
    fuzz(name, files, 2, 0)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", PARSERS)
def test_many_mutations(name: str, files: Path) -> None:
    """So are WORLDSIM_FUZZ inputs of all parsers together (`make fuzz`), and no memory is kept of them."""
    examples = 100
    rounds = -(-int(os.environ.get("WORLDSIM_FUZZ", "28000")) // (len(PARSERS) * examples * BATCH))
    kept, begun = 0, time.monotonic()
    for number in range(rounds):
        fuzz(name, files, examples, 1 + number)
        kept = kept or resident()
    inputs = rounds * examples * BATCH
    print(f"{name}: {inputs} inputs, {inputs / (time.monotonic() - begun):.0f} a second")
    assert resident() - kept < KEPT_BYTES
