"""The first look at a source: which episodes can be taken, what their steps say, what all of them have in common.

No frame is read here, and nothing is written. Knows no file format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from tqdm import tqdm

from worldsim.envs.actions import ActionRange
from worldsim.envs.import_source import Columns, Pictures, Source, Unusable, broken, plain_name
from worldsim.errors import UsageError

MIN_STEPS = 2
"""Fewest steps of an episode: one to begin with and one to learn."""
MAX_READOUT_WIDTH = 256
ENDS_BYTES = 1 << 16
"""How much of the beginning and of the end of every file its fingerprint sees."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """An episode's columns, aligned as `worldsim.episode` states it; actions are still the source's own."""

    actions: np.ndarray
    rewards: Float32[np.ndarray, " t"]
    terminated: Bool[np.ndarray, " t"]
    truncated: Bool[np.ndarray, " t"]
    readouts: Mapping[str, Float32[np.ndarray, "t+1 n"]]

    @classmethod
    def of(cls, columns: Columns, frames: int, where: str) -> Steps:
        """Align ``columns`` with ``frames`` frames: a last action whose outcome no frame shows is left out.

        UsageError if rows and frames do not fit together; Unusable if an action or a reward is not finite.
        """
        rows, steps = len(columns.actions) if columns.actions.ndim else 0, frames - 1
        if rows not in (steps, frames):
            raise UsageError(
                f"actions of {where}",
                got=f"{rows} rows for {frames} frames",
                allowed=f"{steps} rows (or {frames}: the last is then left out)",
                fix="actions[t] is applied at frames[t] and yields frames[t+1]: T actions, T+1 frames",
            )
        flat = {
            name: _per_step(getattr(columns, name), {steps, rows}, f"{name} of {where}")[:steps]
            for name in ("rewards", "terminated", "truncated")
        }
        for name, values in (("an action", columns.actions), ("a reward", flat["rewards"])):
            wrong = ~np.isfinite(_single(values[:steps])) if values.dtype.kind == "f" else np.zeros(0)
            if wrong.any():
                raise Unusable(f"{name} that is no finite number, in step {int(np.argwhere(wrong)[0][0])}")
        return cls(
            actions=columns.actions[:steps],
            rewards=flat["rewards"].astype(np.float32),
            terminated=flat["terminated"].astype(bool),
            truncated=flat["truncated"].astype(bool),
            readouts={
                name: _single(columns.readouts[original]).reshape(
                    frames, math.prod(columns.readouts[original].shape[1:])
                )
                for name, original in _plain_names(columns.readouts, where).items()
                if len(columns.readouts[original]) == frames
            },
        )

    def skipped(self, actions: Float32[np.ndarray, "t a"], k: int) -> tuple[Float32[np.ndarray, "t2 a2"], Steps]:
        """Return what is left of the steps when only every k-th frame is kept, counted from the last one back.

        The k actions between two kept frames stand side by side: their mean would hide that a push to the left was
        followed by one to the right. Rewards are summed; a step ends an episode if one of the k did.
        """
        count = len(actions) // k
        first = len(actions) - count * k
        groups = {
            name: getattr(self, name)[first:].reshape(count, k) for name in ("rewards", "terminated", "truncated")
        }
        left = Steps(
            actions=self.actions[first::k],
            rewards=groups["rewards"].sum(1) if k > 1 else self.rewards,
            terminated=groups["terminated"].any(1),
            truncated=groups["truncated"].any(1),
            readouts={name: values[first::k] for name, values in self.readouts.items()},
        )
        return actions[first:].reshape(count, -1), left


def _single(values: np.ndarray) -> np.ndarray:
    """Return numbers as float32, infinite where they are too large for it."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _plain_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Return the columns' own names by the ones they will have; UsageError if two would have the same."""
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(plain_name(name), name)
        if other != name:
            got = f"{other!r} and {name!r}, which would both be called {plain_name(name)}"
            allowed = "names that differ in letters, digits or underscores"
            raise UsageError(f"columns of {where}", got=got, allowed=allowed, fix="rename one of them")
    return found


def _per_step(values: np.ndarray | None, rows: set[int], where: str) -> np.ndarray:
    """Return one number per row, zeros where the source has none; UsageError for another number of ``rows``."""
    if values is None:
        return np.zeros(max(rows), np.float32)
    if values.dtype.kind not in "biuf" or values.size not in rows:
        allowed = f"{' or '.join(map(str, sorted(rows)))} numbers"
        fix = "store one number for every action"
        raise UsageError(where, got=f"{values.dtype} {values.shape}", allowed=allowed, fix=fix)
    return values.reshape(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """An episode that is taken: where it stands in its source, its frames, and how many steps it has."""

    position: int
    label: str
    pictures: Pictures
    steps: int


@dataclasses.dataclass(kw_only=True)
class Survey:
    """What a first look at all episodes found."""

    kept: list[Kept] = dataclasses.field(default_factory=list)
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)
    """Episodes that are not taken, with the reason."""
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    """Columns that are not taken, with the reason."""
    readouts: dict[str, int] = dataclasses.field(default_factory=dict)
    """Named columns that every kept episode has, and how wide they are."""
    actions: ActionRange | None = None
    last_actions: int = 0
    """Episodes whose last action has no outcome."""
    rewarded: int = 0
    """Episodes with rewards."""
    ended: int = 0
    """Episodes with terminations."""
    digest: str = ""
    """Of all files' ends and all columns: a source that changed has another."""

    @classmethod
    def of(cls, source: Source, frame_skip: int) -> Survey:
        """Look at every episode of ``source``; UsageError if none can be taken."""
        survey, digest = cls(), hashlib.sha256()
        for path in source.files():
            digest.update(_ends(path))
        for position in tqdm(range(len(source)), desc="looking", unit="episode"):
            label = source.label(position)
            try:
                survey._look(source, position, frame_skip, digest)
            except Unusable as reason:
                survey.dropped[label] = str(reason)
                digest.update(f"{label}: {reason}".encode())
        if not survey.kept:
            reasons = "; ".join(f"{label}: {reason}" for label, reason in list(survey.dropped.items())[:3])
            got = f"no episode that can be taken ({reasons or 'there are none'})"
            fix = "see docs/your-dataset.md for what each kind of source holds; --kind forces one"
            raise UsageError("source", got=got, allowed="at least one episode of frames and actions", fix=fix)
        survey.digest = digest.hexdigest()
        return survey

    def _look(self, source: Source, position: int, frame_skip: int, digest: Any) -> None:
        """Look at one episode; Unusable if it cannot be taken."""
        label, pictures = source.label(position), source.pictures(position)
        least = MIN_STEPS * frame_skip
        if pictures.count <= least:
            raise Unusable(f"too short: {pictures.count} frames, where {least + 1} are the least")
        columns = source.columns(position)
        steps = Steps.of(columns, pictures.count, label)
        seen = ActionRange.of(steps.actions, label)
        self.actions = seen if self.actions is None else self.actions.merged(seen, label)
        self.left_out |= columns.left_out
        self._readouts(steps)
        self.last_actions += len(columns.actions) == pictures.count
        self.rewarded += columns.rewards is not None
        self.ended += columns.terminated is not None
        digest.update(f"{label} {pictures}".encode())
        for values in (steps.actions, steps.rewards, steps.terminated, steps.truncated, *steps.readouts.values()):
            digest.update(np.ascontiguousarray(values).tobytes())
        kept = Kept(position=position, label=label, pictures=pictures, steps=len(steps.actions))
        self.kept.append(kept)

    def _readouts(self, steps: Steps) -> None:
        """Go on with the columns that this episode has too; say why others are left out."""
        widths = {name: values.shape[1] for name, values in steps.readouts.items()}
        finite = {name: bool(np.isfinite(values).all()) for name, values in steps.readouts.items()}
        if not self.kept:
            self.readouts = widths
        for name in {*widths, *self.readouts} - self.left_out.keys():
            if name not in self.readouts or widths.get(name) != self.readouts[name]:
                self.left_out[name] = "not in every episode, or not equally wide"
            elif widths[name] > MAX_READOUT_WIDTH or not widths[name]:
                self.left_out[name] = f"{widths[name]} numbers a row, where {MAX_READOUT_WIDTH} are the most"
            elif not finite[name]:
                self.left_out[name] = "numbers that are not finite"
        self.readouts = {name: width for name, width in self.readouts.items() if name not in self.left_out}


def _ends(path: Path) -> bytes:
    """Return a file's name and size, and the bytes at its beginning and end."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(ENDS_BYTES)
            file.seek(max(0, size - ENDS_BYTES))
            return f"{path.name} {size}".encode() + head + file.read(ENDS_BYTES)
    except OSError as error:
        raise broken(path.name, error) from error
