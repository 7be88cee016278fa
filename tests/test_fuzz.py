"""Mutations of small valid files: every reader of files takes each of them, or refuses it with a UsageError.

A few, blindly, in `make test`; as many as you like in `make fuzz`, where this file is the program that Atheris (libFuzzer) guides
by the lines and comparisons of worldsim that an input reaches: python tests/test_fuzz.py PARSER FOLDER [libFuzzer's options].
"""

from __future__ import annotations

import base64
import contextlib
import copy
import importlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

atheris: Any = importlib.import_module("atheris") if __name__ == "__main__" else None
with atheris.instrument_imports(include=["worldsim"]) if atheris else contextlib.nullcontext():
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

SECONDS, MEMORY_MB, MORE_MB = 10, 4096, 300
"""What one input may take, of time and of memory; what all of them may add to the memory that the first thousand took."""


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


PARSERS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "settings": ("checkpoint/config.json", checkpoints.read_settings, "json"),
    "index": ("recording/metadata.json", lambda path: EpisodeDataset.open(path.parent).episode_ids(), "json"),
    "shard": ("recording/shards/00000.hdf5", first_episode, "bytes"),
    "state": ("state", WorldState.load, "safetensors"),
    "contexts": (f"checkpoint/{CONTEXTS}", lead_ins, "safetensors"),
    "training state": ("run", lambda path: load_state(path, {}, []), "safetensors"),
    "npz": ("one.npz", lambda path: looked_at(NpzSource(path, None)), "bytes"),
    "npy": ("one.npy", lambda path: load_array(io.BytesIO(path.read_bytes()), "x"), "bytes"),
    "hdf5": ("one.hdf5", lambda path: looked_at(Hdf5Source(path, None)), "bytes"),
    "minari": ("minari/metadata.json", lambda path: MinariSource(path.parent, None).close(), "json"),
    "gif": ("clips/a.gif", lambda path: looked_at(VideoSource(path.parent, None)), "bytes"),
    "csv": ("clips/a.csv", lambda path: looked_at(VideoSource(path.parent, None)), "bytes"),
    "link": ("link", lambda path: decode(path.read_bytes().decode("latin1"), 1000), "link"),
    "message": ("message", lambda path: parse(path.read_bytes().decode("latin1")), "json"),
}
"""Name -> a valid file, what reads it, and where there is JSON in it."""


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


def unpacked(data: bytes, kind: str) -> tuple[bytes, bytes]:
    """Return the JSON of a file and what comes after it."""
    if kind == "link":
        return zlib.decompressobj().decompress(base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4)), 1 << 20), b""
    end = 8 + int.from_bytes(data[:8], "little") if kind == "safetensors" else len(data)
    return data[8 * (kind == "safetensors") : end], data[end:]


def packed(text: bytes, rest: bytes, kind: str) -> bytes:
    """Undo `unpacked`."""
    if kind == "link":
        return base64.urlsafe_b64encode(zlib.compress(text)).rstrip(b"=")
    return (len(text).to_bytes(8, "little") if kind == "safetensors" else b"") + text + rest


def varied(data: bytes, kind: str, rng: random.Random, bytewise: Callable[[bytes], bytes]) -> bytes:
    """Change the values of the JSON in a file, in seven of ten cases; else, and where there is none, its bytes."""
    if kind != "bytes" and rng.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError, zlib.error):
            text, rest = unpacked(data, kind)
            return packed(changed(json.loads(text), rng), rest, kind)
    return bytewise(data)


def read_or_refuse(name: str, path: Path, data: bytes) -> None:
    """Write an input where a parser looks for its file, and read it: anything raised but a UsageError is a fault."""
    path.write_bytes(data)
    with contextlib.suppress(UsageError):
        PARSERS[name][1](path)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", PARSERS)
def test_mutations(name: str, files: Path) -> None:
    """Some dozen inputs, each a valid file with a few bytes or values changed, are read or refused by every parser."""
    relative, _, kind = PARSERS[name]
    content, rng = (files / relative).read_bytes(), random.Random(0)
    for _ in range(40):
        data = varied(content, kind, rng, lambda content: mutated(content, rng))
        begun = time.process_time()
        try:
            read_or_refuse(name, files / relative, data)
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__} {error} of {data[:5000]!r}") from error
        assert time.process_time() - begun < SECONDS, f"{name}: too long for {data[:5000]!r}"


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", PARSERS)
def test_guided_mutations(name: str, files: Path, tmp_path: Path) -> None:
    """So are WORLDSIM_FUZZ inputs of all parsers together (`make fuzz`), bred by what they reach; memory stays where it was."""
    pytest.importorskip("atheris", reason="pip install atheris, or `make fuzz`")
    inputs = -(-int(os.environ.get("WORLDSIM_FUZZ", "28000")) // len(PARSERS))
    command = [sys.executable, __file__, name, str(files), f"-atheris_runs={inputs}"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, cwd=tmp_path)
    found = [path.read_bytes()[:5000] for path in tmp_path.glob("*-*")]
    assert done.returncode == 0, f"{done.stderr[-5000:]}\n{found}"
    number, seconds = map(int, re.findall(r"^Done (\d+) in (\d+) second", done.stderr, re.MULTILINE)[0])
    looks = re.findall(r"^#\d+\t.* cov: (\d+) .* rss: (\d+)Mb", done.stderr, re.MULTILINE)
    places, memory = ([int(one) for one in column] for column in zip(*looks, strict=True))
    print(f"{name}: {number} inputs, {number / max(1, seconds):.0f} a second; from {places[0]} places of the code to {places[-1]}; "
          f"{memory[0]} MB of memory at the beginning, {memory[-1]} at the end")  # fmt: skip
    assert number >= inputs
    assert memory[-1] < memory[len(memory) // 4] + MORE_MB


def guide(name: str, root: Path, options: list[str]) -> None:
    """Let Atheris breed inputs of a parser from its valid file; ends the process, badly at the first input that is a fault."""
    relative, _, kind = PARSERS[name]
    path = root / relative
    corpus = root / f"corpus-{name}".replace(" ", "-")
    corpus.mkdir(exist_ok=True)
    shutil.copy(path, corpus)
    longest = 4 * path.stat().st_size + 4096
    warnings.simplefilter("ignore")

    def mutator(data: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        ways = (lambda content: mutated(content, rng), lambda content: atheris.Mutate(content, longest))
        return varied(data, kind, rng, rng.choice(ways))[:longest]

    limits = [f"-timeout={6 * SECONDS}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={longest}", "-detect_leaks=0"]
    arguments = [__file__, *limits, "-seed=1", *options, str(corpus)]
    atheris.Setup(arguments, lambda data: read_or_refuse(name, path, data), custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    guide(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
