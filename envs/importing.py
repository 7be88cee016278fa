"""Import: a dataset that somebody already has becomes a recording, with an account of what was taken, changed and dropped.

Looks at the whole source before it writes anything, then writes shard after shard, one episode in memory at a time.
Knows no file format of others; that of recordings is `worldsim.storage`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from tqdm import tqdm

from worldsim import storage
from worldsim.dataset import SPLIT_BLOCK, SPLITS, split_of
from worldsim.envs.actions import FlatActions
from worldsim.envs.import_frames import FrameSize, gather
from worldsim.envs.import_hdf5 import SUFFIXES as HDF5_SUFFIXES
from worldsim.envs.import_hdf5 import Hdf5Source, MinariSource
from worldsim.envs.import_lerobot import LeRobotSource
from worldsim.envs.import_npz import NpzSource
from worldsim.envs.import_source import Source
from worldsim.envs.import_survey import Kept, Steps, Survey
from worldsim.envs.import_videos import SUFFIXES as VIDEO_SUFFIXES
from worldsim.envs.import_videos import VideoSource
from worldsim.episode import Episode, Readout
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec

IMPORT_VERSION = 1
"""Changes with every rule by which a source becomes a recording."""
ACCOUNT_NAME = "import.json"
MAX_CONTEXT_STEPS = 10
ASSUMED_RATE_HZ = 30.0
EPISODES_PER_SHARD, FRAME_BYTES_PER_SHARD = 50, 256 << 20
"""A shard ends with so many episodes, or so many bytes of frames: what a kill can cost."""
MAX_SIDE_UNASKED = 512
"""Larger frames are imported only at a --size that was asked for."""
KINDS: dict[str, Any] = {
    "lerobot": LeRobotSource,
    "minari": MinariSource,
    "npz": NpzSource,
    "hdf5": Hdf5Source,
    "videos": VideoSource,
}
Kind = Literal["lerobot", "minari", "npz", "hdf5", "videos"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything that is decided before the first frame is read."""

    source: Source
    survey: Survey
    header: storage.RecordingHeader
    actions: FlatActions
    size: FrameSize
    skip: int
    shards: list[range]
    """Ids of the episodes of each shard; episode i is the i-th one kept."""


def import_dataset(
    source: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    kind: Kind | None = None,
    image: str | None = None,
    size: str | int | None = None,
    frame_rate: float | None = None,
    frame_skip: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Make a recording, which `worldsim train` reads, of a dataset that is already there, and return the account.

    Args:
        source: a file or folder: Minari, LeRobot v3, robomimic or plain HDF5, .npz archives, or videos with actions.
        out: the new folder; whole shards of the same import in it are kept, so running again resumes.
        kind: what the source is; by default it is looked at.
        image: which pictures to take, where the source has several (a camera's name).
        size: frames' side, or HEIGHTxWIDTH, in pixels, multiples of 16; by default as they are, or the nearest multiples.
        frame_rate: frames a second of the source, if it does not say so itself (30 is assumed otherwise).
        frame_skip: keep every so many-th frame; the actions between two kept ones stand side by side.
        seed: decides which episodes are held out.

    Returns:
        What is also written to ``import.json``: what was taken, what changed, what was dropped, and why.

    Raises:
        UsageError: for files that cannot be read, or do not fit together; for options out of range; for a folder that
            holds something else; for a full disk. No half-written file is left.

    """
    if frame_skip < 1:
        raise UsageError("frame_skip", got=frame_skip, allowed="1 or more", fix="2 keeps every other frame")
    if frame_rate is not None and not 0 < frame_rate < float("inf"):
        raise UsageError("frame_rate", got=frame_rate, allowed="frames a second, more than 0", fix="--frame_rate 10")
    wanted = None if size is None else FrameSize.parse(size)
    path, folder = Path(source), Path(out)
    _check_folder(folder, path)
    with contextlib.closing(_open(path, kind, image)) as opened:
        options = {"image": image, "frame_skip": frame_skip}
        plan = _plan(opened, wanted, frame_rate, options, seed)
        missing = _missing(folder, plan)
        total = sum(len(plan.shards[shard]) for shard in missing)
        with tqdm(total=total, desc="importing", unit="episode", disable=not missing) as bar:
            for shard in missing:
                _write_shard(folder, shard, plan, bar)
    records = storage.build_index(folder)
    account = _account(path, plan, [str(record.attributes["split"]) for record in records])
    storage.write_atomically(folder / ACCOUNT_NAME, (json.dumps(account, indent=2) + "\n").encode())
    return {**account, "episodes_now": total}


def kind_of(path: Path) -> str:
    """Say what kind of source lies at ``path``; UsageError if it is none, or several things at once."""
    if not path.is_file() and not path.is_dir():
        allowed = "a file or folder"
        raise UsageError("source", got=f"{path}, where nothing is", allowed=allowed, fix="check the path")
    if (path / "meta" / "info.json").is_file():
        return "lerobot"
    if any((folder / storage.INDEX_NAME).is_file() for folder in (path / "data", path)):
        return "minari"
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    suffixes = {file.suffix.lower() for file in files}
    kinds = {"npz": (".npz",), "hdf5": HDF5_SUFFIXES, "videos": VIDEO_SUFFIXES}
    found = [kind for kind, endings in kinds.items() if suffixes & set(endings)]
    if len(found) != 1 or (found == ["videos"] and path.is_file()):
        got = f"{path} with {' and '.join(found)}" if found else f"{path}, with none of the known files in it"
        allowed = "one of: a Minari or LeRobot dataset's folder; .npz, .hdf5 or a folder of them; a folder of videos"
        fix = "give the folder that holds them" if not found or path.is_file() else f"--kind {found[0]}"
        raise UsageError("source", got=got, allowed=allowed, fix=fix)
    return found[0]


def _open(path: Path, kind: str | None, image: str | None) -> Source:
    found = kind or kind_of(path)
    if kind is not None and not path.is_file() and not path.is_dir():
        kind_of(path)
    if found in ("lerobot", "videos") and not path.is_dir():
        raise UsageError(
            "source", got=path, allowed=f"a folder, for {found}", fix="give the folder that holds the file"
        )
    return KINDS[found](path, image)


def _check_folder(folder: Path, source: Path) -> None:
    """Refuse to write into the source, or over an index that belongs to no shards."""
    inside, outer = folder.resolve(), source.resolve()
    if inside == outer or outer in inside.parents:
        raise UsageError("out", got=folder, allowed="a folder outside the source", fix="for example data/imported")
    if (folder / storage.INDEX_NAME).exists() and not any((folder / storage.SHARD_FOLDER).glob("*.hdf5")):
        raise UsageError(
            "out", got=f"{folder} with another dataset in it", allowed="a new folder", fix="choose another"
        )


def _plan(source: Source, wanted: FrameSize | None, rate: float | None, options: dict[str, Any], seed: int) -> _Plan:
    """Look at the source and decide everything; ``options`` are kept in the header, size and rate in its spec."""
    skip = options["frame_skip"]
    survey = Survey.of(source, skip)
    assert survey.actions is not None
    size = wanted or _common_size(survey.kept)
    actions = FlatActions.of(survey.actions, source.action_space, source.action_names).repeated(skip)
    steps = [kept.steps // skip for kept in survey.kept]
    name = re.sub(r"[^\w.-]+", "-", source.name, flags=re.ASCII).strip("-.") or source.kind
    spec = WorldSpec(
        env_id=f"imported/{name}",
        frame_shape=(size.height, size.width, 3),
        action_names=actions.names,
        action_low=actions.low,
        action_high=actions.high,
        action_choices=actions.choices,
        frame_rate_hz=(rate or source.frame_rate or ASSUMED_RATE_HZ) / skip,
        context_steps=min(MAX_CONTEXT_STEPS, int(np.median(steps)) // 2),
        readouts=tuple(
            Readout(name=name, names=tuple(f"{name}_{k}" for k in range(width)), units=("unknown",) * width)
            for name, width in sorted(survey.readouts.items())
        ),
    )
    details = {
        "import": IMPORT_VERSION,
        "kind": source.kind,
        "fingerprint": survey.digest,
        "episodes": len(survey.kept),
        **options,
    }
    shards = list(_shards([count * size.height * size.width * 3 for count in steps]))
    header = storage.RecordingHeader(spec=spec, seed=seed, details=details)
    return _Plan(source=source, survey=survey, header=header, actions=actions, size=size, skip=skip, shards=shards)


def _common_size(kept: Sequence[Kept]) -> FrameSize:
    """Return the size that changes the source's frames least; UsageError if they differ or are very large."""
    first = kept[0]
    other = next((one for one in kept if one.pictures.size != first.pictures.size), None)
    if other is not None:
        sizes = " and ".join(f"{one.pictures.size} in {one.label}" for one in (first, other))
        raise UsageError("frames", got=f"sizes {sizes}", allowed="one size", fix="--size 64 brings all to one")
    if max(first.pictures.size) > MAX_SIDE_UNASKED:
        allowed = f"at most {MAX_SIDE_UNASKED} pixels a side, unless a size is asked for"
        raise UsageError(
            "frames", got=f"sides {first.pictures.size}", allowed=allowed, fix="--size 64, or the size itself"
        )
    return FrameSize.nearest(first.pictures)


def _shards(frame_bytes: Sequence[int]) -> Iterator[range]:
    """Divide episodes into shards, in order."""
    first, size = 0, 0
    for episode_id, more in enumerate(frame_bytes):
        if episode_id > first and (episode_id - first == EPISODES_PER_SHARD or size + more > FRAME_BYTES_PER_SHARD):
            yield range(first, episode_id)
            first, size = episode_id, 0
        size += more
    yield range(first, len(frame_bytes))


def _missing(folder: Path, plan: _Plan) -> list[int]:
    """Return the shards that are still to be written; UsageError if the folder holds another recording."""
    for path in (folder / storage.SHARD_FOLDER).glob("[0-9]*.hdf5"):
        storage.shard_is_whole(folder, int(path.stem), plan.header, [])
    whole = (storage.shard_is_whole(folder, shard, plan.header, ids) for shard, ids in enumerate(plan.shards))
    return [shard for shard, there in enumerate(whole) if not there]


def _write_shard(folder: Path, shard: int, plan: _Plan, bar: tqdm) -> None:
    """Write one shard, episode after episode, under another name first; nothing is left if it cannot be finished."""
    path = storage.shard_path(folder, shard)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            file.attrs["worldsim"] = plan.header.to_json()
            for episode_id in plan.shards[shard]:
                episode = _episode(plan, episode_id)
                # write_shard would need all episodes of a shard in memory at once
                storage.write_episode(file.create_group(f"episode_{episode_id}"), episode_id, episode)
                bar.update(1)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        size = temporary.stat().st_size if temporary.exists() else 0
        storage.remove_quietly(temporary)
        raise storage.unwritable(path, error, size_bytes=size) from error
    except BaseException:
        storage.remove_quietly(temporary)
        raise


def _episode(plan: _Plan, episode_id: int) -> Episode:
    """Read one episode as it stands in the recording."""
    kept = plan.survey.kept[episode_id]
    steps = Steps.of(plan.source.columns(kept.position), kept.pictures.count, kept.label)
    actions, steps = steps.skipped(plan.actions.rows(steps.actions, kept.label), plan.skip)
    keep = range(kept.steps % plan.skip, kept.steps + 1, plan.skip)
    frames = gather(plan.source.blocks(kept.position), kept.pictures, plan.size, keep, kept.label)
    return Episode(
        frames=frames,
        actions=actions,
        rewards=steps.rewards,
        terminated=steps.terminated,
        truncated=steps.truncated,
        seed=kept.position,
        readouts={name: steps.readouts[name] for name in sorted(plan.survey.readouts)},
        attributes={
            "split": split_of(plan.header.seed, episode_id),
            "behaviour": "imported",
            "source": kept.label,
        },
    )


def _account(path: Path, plan: _Plan, splits: Sequence[str]) -> dict[str, Any]:
    """Say what was taken, what was changed, and what was dropped."""
    survey, spec, source = plan.survey, plan.header.spec, plan.source
    steps = sum(kept.steps // plan.skip for kept in survey.kept)
    return {
        "command": "import",
        "source": {"path": str(path), "kind": source.kind, "episodes": len(source), "fingerprint": survey.digest},
        "taken": {
            "episodes": len(survey.kept),
            "frames": steps + len(survey.kept),
            "rewards": f"in {survey.rewarded} of {len(survey.kept)} episodes, 0 elsewhere",
            "terminations": f"in {survey.ended} of {len(survey.kept)} episodes, none elsewhere",
            "splits": {split: splits.count(split) for split in SPLITS},
        },
        "world": {
            "env_id": spec.env_id,
            "frame_shape": list(spec.frame_shape),
            "frame_rate_hz": spec.frame_rate_hz,
            "actions": list(spec.action_names),
            "readouts": dict(sorted(survey.readouts.items())),
            "context_steps": spec.context_steps,
        },
        "changed": _changes(plan, splits),
        "dropped": {"episodes": survey.dropped, "columns": dict(sorted(survey.left_out.items()))},
    }


def _changes(plan: _Plan, splits: Sequence[str]) -> list[str]:
    """Return a sentence for everything in the recording that is other than in the source, or was assumed."""
    survey, source, size = plan.survey, plan.source, plan.size
    said = [*source.remarks, *plan.actions.remarks]
    sizes = sorted({kept.pictures.size for kept in survey.kept} - {(size.height, size.width)})
    for height, width in sizes:
        smaller = size.height <= height and size.width <= width
        how = "means over areas" if smaller else "Lanczos' filter"
        said.append(f"frames: {height}x{width} became {size.height}x{size.width} pixels ({how})")
    channels = {kept.pictures.channels for kept in survey.kept}
    said += ["frames: grey became RGB"] * (1 in channels) + ["frames: the alpha channel was left out"] * (4 in channels)
    if plan.skip > 1:
        said.append(f"frames: every {plan.skip}th is kept, counted back from an episode's last; rewards are summed")
    if survey.last_actions:
        said.append(
            f"steps: in {survey.last_actions} episodes the last action, with its reward and end, is left out, "
            "since no frame shows what came of it"
        )
    rate = plan.header.spec.frame_rate_hz * plan.skip
    if source.frame_rate is None and rate == ASSUMED_RATE_HZ:
        said.append(f"frame rate: {rate:g} Hz, assumed unless you said so (--frame_rate)")
    elif source.frame_rate is not None and abs(source.frame_rate - rate) > 1e-6:
        said.append(f"frame rate: {rate:g} Hz as you said, where the source says {source.frame_rate:g}")
    empty = [split for split in SPLITS if not splits.count(split)]
    if empty:
        said.append(
            f"splits: no episode is {' or '.join(empty)}; worldsim train needs train and val, which "
            f"{SPLIT_BLOCK} episodes always have (another --seed may do)"
        )
    return list(dict.fromkeys(said))
