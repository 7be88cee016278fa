"""The quality report of a checkpoint: how far its dreams are from the true world, on scenes it has never seen.

Three questions, each with 95 % intervals over scenes and the trivial answers beside it: is it right about what moves
(and righter than copying, than the mean frame, than itself with wrong actions); does every action dimension do what it
does in truth; and what is left after hundreds of frames. Writes ``results.json``, ``report.md`` and film strips.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, UInt8
from tqdm import tqdm

from worldsim.envs.workers import number_of_workers
from worldsim.errors import UsageError
from worldsim.eval.gaps import ActionGap, action_gap, gap_scripts
from worldsim.eval.longrun import LongRun, long_run
from worldsim.eval.moving import moving_table
from worldsim.eval.parts import Parts, weights_hash
from worldsim.eval.pixels import (
    constant_frame,
    copy_last,
    derangement,
    mean_frame,
    pixel_errors,
)
from worldsim.eval.quality_report import Claim, claims_of_any_world, markdown
from worldsim.eval.statistics import Estimate
from worldsim.eval.strips import film_strip, save_strip, scenes_by_rule
from worldsim.eval.trials import (
    ARENA_ID,
    QUALITY_SEED,
    Script,
    Truth,
    dream,
    make_arena,
    recorded_scripts,
    simulate,
    stack_actions,
    swap_column,
)
from worldsim.eval.world_quality import Job, measure_world
from worldsim.eval.world_report import world_markdown
from worldsim.metrics import moving_pixels
from worldsim.provenance import provenance, write_json
from worldsim.rollout import Rollout
from worldsim.storage import write_atomically
from worldsim.world_model import WorldModel, load

HORIZONS = (1, 8, 32)
"""Frames after the context at which the error on moving pixels is reported."""
STRIP_TIMES = (1, 2, 4, 8, 16, 32, 100)
LATE_FRAMES = 5
"""So many last frames are judged at the end of a long run."""
_T = TypeVar("_T")
MEAN_FRAME_SEED = 3_000_000
MEAN_FRAME_SCENES = 64


def quality(
    checkpoint: str | os.PathLike[str] | WorldModel,
    out: str | os.PathLike[str] = "runs/quality",
    scenes: int = 64,
    *,
    policy: str = "random",
    long_frames: int = 500,
    num_steps: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure a checkpoint on scenes of its world that it has never seen and write the report into the folder ``out``.

    Args:
        checkpoint: an embedded name, a checkpoint folder, a training run's folder or a model.
        out: folder for ``results.json``, ``report.md`` and ``strip_*.png``; files of these names are replaced.
        scenes: number of scenes of every measurement, at least 2.
        policy: who acts, as `worldsim record` takes it: random, MODULE:FUNCTION, sb3:FILE.zip. The Arena is driven by the
            behaviours that recordings are driven by.
        long_frames: length of the long dreams, which only the Arena is judged by.
        num_steps: sampler steps of a frame; None for the checkpoint's default.
        workers: processes for the true world; None for one per core.
        device: where the model runs.

    Of every world: the error on moving pixels beside trivial answers, and whether actions do what they do in truth. Of the
    Arena: what is left after long dreams. Of other worlds: how far off their own numbers are, as read off the dreamt frames
    (of a MuJoCo world, true positions and speeds). Finished parts are kept in a hidden folder inside ``out`` until the report
    is written: run the same command again after an interruption and it goes on where it stopped.

    Returns what is written to ``results.json``; UsageError for too few scenes or frames, or a policy that cannot be had.

    """
    started = time.perf_counter()
    _check_size(scenes, long_frames)
    at_once = number_of_workers(workers)
    model = checkpoint if isinstance(checkpoint, WorldModel) else load(checkpoint, device=device)
    rollout = model.rollout(num_steps)
    arena = model.spec.env_id == ARENA_ID
    settings = {"scenes": scenes, **({"long_frames": long_frames} if arena else {"policy": policy})}
    parts = _taken_up(Path(out), _key(model, rollout, settings))
    job = Job(model=model, rollout=rollout, out=Path(out), scenes=scenes, workers=at_once, parts=parts)
    tables = _measure_arena(job, policy, long_frames) if arena else measure_world(job, policy, QUALITY_SEED)
    results = {
        "command": "quality",
        "checkpoint": "a model in memory" if isinstance(checkpoint, WorldModel) else str(checkpoint),
        "world": model.spec.env_id,
        **provenance(seed=QUALITY_SEED, device=model.device),
        "dtype": str(rollout.network.dtype).removeprefix("torch."),
        "n": scenes,
        "settings": {**settings, "num_steps": rollout.num_steps},
        "model": {"config": model.config.to_json(), "dataset": dict(model.checkpoint.dataset)},
        **tables,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(job.out / "results.json", results)
    text = markdown(results) if arena else world_markdown(results)
    write_atomically(job.out / "report.md", text.encode())
    parts.clear()
    return results


def _measure_arena(job: Job, policy: str, long_frames: int) -> dict[str, Any]:
    """Measure a model of the Arena, save film strips, and return the tables of the report."""
    if policy != "random":
        fix = "leave it out: the Arena has behaviours of its own"
        raise UsageError("policy", got=policy, allowed="random, for a model of the Arena", fix=fix)
    with tqdm(total=5 + job.model.spec.action_dim, desc="quality", unit="part") as bar:
        lab = _Lab(job, long_frames)
        bar.update()
        gaps, moving, long = _measure(lab, job.parts, bar)
        strips = _save_strips(job.out, lab, moving.by_scene)
        bar.update()
    return {**_tables(moving, gaps, long), "strips": strips}


def _check_size(scenes: int, long_frames: int) -> None:
    """Raise UsageError where too little would be measured."""
    least = max(HORIZONS) + LATE_FRAMES
    if scenes < 2:
        raise UsageError("scenes", got=scenes, allowed="2 or more", fix="actions are shuffled between scenes")
    if long_frames < least:
        raise UsageError("long_frames", got=long_frames, allowed=f"{least} or more", fix="500 is the default")


def _measure(lab: _Lab, parts: Parts, bar: tqdm[Any]) -> tuple[list[ActionGap], _Moving, dict[str, LongRun]]:
    """Return action gaps, errors on moving pixels and the ends of the long dreams, one kept part after the other."""
    dimensions = range(lab.spec.action_dim)
    gaps = [_part(bar, parts, f"gap_{dimension}", lambda d=dimension: lab.gap(d)) for dimension in dimensions]
    moving = _part(bar, parts, "moving", lambda: lab.moving(lab.mean_frame()))
    scripted = _part(bar, parts, "late_scripted", lab.late_scripted)
    return gaps, moving, {"scripted": scripted, "null": _part(bar, parts, "late_null", lab.late_null)}


def _tables(moving: _Moving, gaps: Sequence[ActionGap], long: Mapping[str, LongRun]) -> dict[str, Any]:
    """Return every number of the report, and the claims with their outcome."""
    return {
        "moving_pixel_error": moving.table,
        "moving_pixel_error_still_camera": moving.still_table,
        "action_gap": {gap.dimension: gap.to_json() for gap in gaps},
        "long_run": {name: run.to_json() for name, run in long.items()},
        "claims": [claim.to_json() for claim in _claims(moving, gaps, long)],
    }


def _key(model: WorldModel, rollout: Rollout, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal for a part of an interrupted report to be taken up."""
    origin = provenance()
    return {
        "weights": weights_hash(model),
        "settings": dict(settings),
        "num_steps": rollout.num_steps,
        "arithmetic": [model.device, str(rollout.network.dtype)],
        "code": [origin["commit"], origin["dirty"], origin["versions"]],
    }


def _taken_up(out: Path, key: Mapping[str, Any]) -> Parts:
    """Return where parts are kept, and say so if some of them are there already."""
    parts = Parts(out, key)
    if len(parts):
        tqdm.write(f"taking up {len(parts)} finished parts of an interrupted report in {parts.folder}")
    return parts


def _part(bar: tqdm[Any], parts: Parts, name: str, measure: Callable[[], _T]) -> _T:
    """Return a part, kept or measured now, and advance the progress bar by it."""
    part = parts.get(name, measure)
    bar.update()
    return part


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Moving:
    table: dict[str, Any]
    still_table: dict[str, Any]
    margins: dict[int, Estimate | None]
    by_scene: Float64[np.ndarray, " n"]


class _Lab:
    """The scenes of one report, simulated and dreamt once, and the measurements over them."""

    def __init__(self, job: Job, long_frames: int) -> None:
        self.rollout, self.spec, self.workers = job.rollout, job.model.spec, job.workers
        self.seeds = [QUALITY_SEED + i for i in range(job.scenes)]
        self.late = tuple(range(long_frames - LATE_FRAMES + 1, long_frames + 1))
        self.strip_times = (*(t for t in STRIP_TIMES if t < self.late[0]), long_frames)
        self.times = sorted({*range(1, max(HORIZONS) + 1), *self.strip_times, *self.late})
        self.scripts = self._scripts(self.seeds, long_frames)
        self.truth, self.dreamt = job.parts.get("scenes", self._play)

    def _play(self) -> tuple[Truth, UInt8[np.ndarray, "n t h w 3"]]:
        truth = simulate(self.spec, self.scripts, self.times, self.workers)
        return truth, self._dream(truth, self.scripts, self.times)

    def _scripts(self, seeds: Sequence[int], steps: int) -> list[Script]:
        env = make_arena(self.spec)
        try:
            return recorded_scripts(env, seeds, steps)
        finally:
            env.close()

    def _dream(self, truth: Truth, scripts: Sequence[Script], times: Sequence[int]) -> UInt8[np.ndarray, "n t h w 3"]:
        noise = [script.seed for script in scripts]
        return dream(self.rollout, truth, stack_actions(scripts), seeds=noise, times=times)

    def columns(self, times: Sequence[int]) -> list[int]:
        return [self.times.index(t) for t in times]

    def mean_frame(self) -> UInt8[np.ndarray, "h w 3"]:
        """Return the mean frame of scenes that are drawn and driven as recordings are, at seeds of their own."""
        scripts = self._scripts(range(MEAN_FRAME_SEED, MEAN_FRAME_SEED + MEAN_FRAME_SCENES), max(HORIZONS))
        return mean_frame(simulate(self.spec, scripts, workers=self.workers).frames)

    def moving(self, mean: UInt8[np.ndarray, "h w 3"]) -> _Moving:
        """Measure the error on moving pixels of the model and the baselines."""
        n, steps = len(self.scripts), max(HORIZONS)
        order = derangement(n, np.random.default_rng([QUALITY_SEED, 4]))
        mixed = [
            dataclasses.replace(s, actions=self.scripts[k].actions[:steps])
            for s, k in zip(self.scripts, order, strict=True)
        ]
        orbit = self.spec.action_names.index("orbit")
        mixed = [swap_column(s, orbit, s.actions[:, orbit], self.spec.action_names) for s in mixed]
        truth = self.truth.frames[:, :steps]
        predictions = {
            "model": self.dreamt[:, :steps],
            "copy_last": copy_last(self.truth.last, steps),
            "mean_frame": constant_frame(mean, n, steps),
            "shuffled_actions": self._dream(self.truth, mixed, range(1, steps + 1)),
        }
        mask = moving_pixels(truth, self.truth.last)
        errors = {name: pixel_errors(frames, truth, mask) for name, frames in predictions.items()}
        table, margins = moving_table(errors, np.ones((n, steps), dtype=bool), HORIZONS)
        camera = stack_actions(self.scripts)[:, :steps, [orbit, self.spec.action_names.index("tilt")]]
        still_table, _ = moving_table(errors, np.cumsum(np.abs(camera).sum(axis=2), axis=1) == 0, HORIZONS)
        return _Moving(table=table, still_table=still_table, margins=margins, by_scene=errors["model"].by_scene())

    def gap(self, dimension: int) -> ActionGap:
        """Measure the action gap of one dimension."""
        env = make_arena(self.spec)
        try:
            scripts = gap_scripts(env, self.spec, dimension, self.seeds)
        finally:
            env.close()
        return action_gap(self.rollout, self.spec, dimension, scripts, workers=self.workers, seed=QUALITY_SEED)

    def late_scripted(self) -> LongRun:
        """Judge the last frames of the scripted scenes."""
        columns = self.columns(self.late)
        truth = dataclasses.replace(
            self.truth,
            frames=self.truth.frames[:, columns],
            states=self.truth.states[:, columns],
            visibility=self.truth.visibility[:, columns],
            times=self.truth.times[columns],
        )
        return long_run(self.dreamt[:, columns], truth)

    def late_null(self) -> LongRun:
        """Judge the last frames of the same scenes when nothing is done at all."""
        scripts = [dataclasses.replace(s, actions=np.zeros_like(s.actions)) for s in self.scripts]
        truth = simulate(self.spec, scripts, self.late, self.workers)
        return long_run(self._dream(truth, scripts, self.late), truth)


def _claims(moving: _Moving, gaps: Sequence[ActionGap], long: Mapping[str, LongRun]) -> list[Claim]:
    """List what a checkpoint is expected to do, each with its number and whether it holds."""
    claims = claims_of_any_world(moving.margins, {gap.dimension: gap.ratio for gap in gaps})
    for name, run in long.items():
        claims.append(Claim(text=f"sharpness, {name} actions", estimate=run.sharpness_ratio, least=0.6, most=1.5))
        claims.append(Claim(text=f"bodies readable by colour, {name} actions", estimate=run.readable, least=0.5))
    return claims


def _save_strips(folder: Path, lab: _Lab, by_scene: Float64[np.ndarray, " n"]) -> dict[str, str]:
    """Save strips of the scenes with the least, the median and the largest error, and of the first scene."""
    columns = lab.columns(lab.strip_times)
    names = {}
    for rule, scene in scenes_by_rule(by_scene).items():
        last = lab.truth.last[scene]
        rows = {
            "truth": np.concatenate([last[None], lab.truth.frames[scene, columns]]),
            "dream": np.concatenate([last[None], lab.dreamt[scene, columns]]),
            "copy last": np.repeat(last[None], len(columns) + 1, axis=0),
        }
        script = lab.scripts[scene]
        title = f"{rule}: scene seed {script.seed}, {script.label}, error {by_scene[scene]:.3f} over frames 1-{max(HORIZONS)}"
        save_strip(folder / f"strip_{rule}.png", film_strip(rows, (0, *lab.strip_times), title))
        names[rule] = f"strip_{rule}.png"
    return names
