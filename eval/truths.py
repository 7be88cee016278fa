"""True scenes of probes, played once and kept on disk, so that every further model is asked about the same ones at once.

What a scene is depends on the seeds and on the code that plays it. A file says what it was made by, and one that was
made by anything else is refused rather than used.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym
import joblib

from worldsim.envs.workers import spread
from worldsim.errors import UsageError
from worldsim.eval.families import PROTOCOL, Family, Scene
from worldsim.eval.registry import FAMILIES
from worldsim.eval.sources import sources_hash
from worldsim.eval.trials import make_arena
from worldsim.spec import WorldSpec

_T = TypeVar("_T")


def code_hash() -> str:
    """Return what tells the code that makes scenes apart: the sources of families and of all that they use, and MuJoCo's version."""
    return sources_hash(*sorted({type(family).__module__ for family in FAMILIES.values()}))


class Keeper:
    """Things that are made one by one from their index, in a folder whose files say what they were made by."""

    def __init__(self, folder: Path, made_by: Mapping[str, Any], workers: int) -> None:
        self.folder, self.made_by, self.workers = folder, dict(made_by), workers

    def first(self, name: str, count: int, make: Callable[[range], list[_T]]) -> list[_T]:
        """Return the first ``count`` things of a name, as they were kept or made now, in processes that share them.

        ``make`` (indices) goes to the processes, so it must be picklable. UsageError if the file is damaged or made by
        something else.
        """
        path = self.folder / f"{name}.joblib"
        known = self._kept(path) if path.is_file() else []
        if len(known) < count:
            known += self._made(range(len(known), count), make)
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            joblib.dump({"made_by": self.made_by, "scenes": known}, temporary, compress=1)
            temporary.replace(path)
        return known[:count]

    def _kept(self, path: Path) -> list[Any]:
        fix = f"remove {path}, or give another folder for the truth"
        try:
            data = joblib.load(path)
            made_by, scenes = data["made_by"], data["scenes"]
        except Exception as error:
            got = f"a damaged file ({type(error).__name__})"
            raise UsageError("truth", got=got, allowed="scenes kept by this command", fix=fix) from error
        if made_by != self.made_by:
            raise UsageError("truth", got=f"scenes made by {made_by}", allowed=f"{self.made_by}", fix=fix)
        return scenes

    def _made(self, indices: range, make: Callable[[range], list[_T]]) -> list[_T]:
        return spread(make, indices, self.workers, rounds=4)


def makers(spec: WorldSpec, code: str) -> dict[str, Any]:
    """Return what scenes of a world are made by, when ``code`` is the hash of the sources that make them."""
    world = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode()).hexdigest()[:16]
    return {"protocol": PROTOCOL, "code": code, "frames": list(spec.frame_shape), "world": world}


class Truths:
    """The scenes of families, from a folder that keeps them, or played now."""

    def __init__(self, folder: Path, spec: WorldSpec, split: str, workers: int) -> None:
        self.folder, self.spec, self.split, self.workers = folder, spec, split, workers

    def scenes(self, family: Family, count: int) -> list[Scene]:
        """Return the first ``count`` scenes of a family.

        UsageError if the folder's file is damaged or of another protocol, world or version of the code.
        """
        keeper = Keeper(self.folder, makers(self.spec, code_hash()), self.workers)
        play = functools.partial(_play, self.spec, family.code, self.split)
        return keeper.first(f"{family.code}-{self.split}", count, play)


def _play(spec: WorldSpec, code: str, split: str, indices: range) -> list[Scene]:
    env: gym.Env[Any, Any] = make_arena(spec)
    try:
        return [FAMILIES[code].scene(env, split, index) for index in indices]
    finally:
        env.close()
