"""The quality of a dream of any Gymnasium world: pixels, the world's own numbers, and whether actions do what they do in truth.

Asks nothing of a world but what recording asks. Of a MuJoCo world the numbers are its true positions and speeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from tqdm import tqdm

from worldsim.eval.gaps import ActionGap, gap_between
from worldsim.eval.moments import Moment, Shown, action_parts, draw_part, find_moments, show
from worldsim.eval.moving import moving_table
from worldsim.eval.parts import Parts
from worldsim.eval.pixels import changed, constant_frame, copy_last, derangement, mean_frame, pixel_errors
from worldsim.eval.quality_report import claims_of_any_world
from worldsim.eval.statistics import Estimate, ratio
from worldsim.eval.strips import film_strip, save_strip, scenes_by_rule
from worldsim.eval.trials import Dreamer, dreams
from worldsim.metrics import moving_pixels
from worldsim.world_model import WorldModel

FRAMES = 16
"""Frames that are dreamt from every moment."""
HORIZONS = (1, 4, 16)
STRIP_TIMES = (0, 1, 2, 3, 4, 6, 8, 12, 16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dreamt:
    """What a model dreamt after n moments, and read off it (rows of ``told``: after 1 .. T actions)."""

    frames: UInt8[np.ndarray, "n t h w 3"]
    told: dict[str, Float32[np.ndarray, "n t _"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A model to measure, on how much, with how many processes, where to, and what is kept of it meanwhile."""

    model: WorldModel
    rollout: Dreamer
    out: Path
    scenes: int
    workers: int
    parts: Parts


def measure_world(job: Job, policy: str, seed: int) -> dict[str, Any]:
    """Measure a model on moments of its own world, save film strips, and return the tables of the report."""
    spec, rollout, kept = job.model.spec, job.rollout, job.parts
    actions = action_parts(spec)
    with tqdm(total=3 + len(actions), desc="quality", unit="part") as bar:
        moments = kept.get("moments", lambda: find_moments(spec, job.scenes, FRAMES, seed=seed, policy=policy))
        bar.update()
        shown = kept.get("shown", lambda: show(spec, moments, job.workers))
        bar.update()
        dreamt = dream_from(rollout, shown, shown.actions)
        moving, margins, by_scene = _moving(rollout, shown, dreamt, seed)
        numbers = _numbers(job.model, shown, dreamt)
        strips = _save_strips(job.out, moments, shown, dreamt, by_scene)
        bar.update()
        gaps = {}
        for index, (name, part) in enumerate(actions.items()):
            pair = kept.get(f"pair_{index}", lambda at=index, of=part: _pair(job, moments, of, [seed, 7, at]))
            gaps[name] = _gap(rollout, name, *pair)
            bar.update()
    claims = claims_of_any_world(margins, {name: gap.ratio for name, gap in gaps.items()})
    return {
        "frames_seen": {str(t): int(shown.alive[:, t - 1].sum()) for t in HORIZONS},
        "moving_pixel_error": moving,
        "numbers": numbers,
        "action_gap": {name: gap.to_json() for name, gap in gaps.items()},
        "claims": [claim.to_json() for claim in claims],
        "strips": strips,
    }


def dream_from(rollout: Dreamer, shown: Shown, actions: Float32[np.ndarray, "n t a"]) -> Dreamt:
    """Dream on from the moments under ``actions``; row i uses the noise of seed i whatever its batch mates."""
    frames, told = [], []
    for steps in dreams(rollout, shown, actions, seeds=range(len(actions))):
        outputs = list(steps)
        frames.append(np.stack([output.frames for output in outputs], axis=1))
        rewards = [output.rewards[:, None] for output in outputs]
        rows = {name: [output.readouts[name] for output in outputs] for name in outputs[0].readouts}
        told.append({name: np.stack(values, axis=1) for name, values in {**rows, "reward": rewards}.items()})
    return Dreamt(
        frames=np.concatenate(frames), told={name: np.concatenate([part[name] for part in told]) for name in told[0]}
    )


def _moving(
    rollout: Dreamer, shown: Shown, dreamt: Dreamt, seed: int
) -> tuple[dict[str, Any], dict[int, Estimate | None], np.ndarray]:
    """Return errors on moving pixels per horizon, margins over the best baseline, and the model's error scene by scene."""
    n = len(shown.frames)
    order = derangement(n, np.random.default_rng([seed, 8]))
    predictions = {
        "model": dreamt.frames,
        "copy_last": copy_last(shown.last, FRAMES),
        "mean_frame": constant_frame(mean_frame(shown.frames), n, FRAMES),
        "shuffled_actions": dream_from(rollout, shown, shown.actions[order]).frames,
    }
    mask = moving_pixels(shown.frames, shown.last) & shown.alive[:, :, None, None]
    errors = {name: pixel_errors(frames, shown.frames, mask) for name, frames in predictions.items()}
    table, margins = moving_table(errors, shown.alive, HORIZONS)
    return table, margins, errors["model"].by_scene()


def _numbers(model: WorldModel, shown: Shown, dreamt: Dreamt) -> list[dict[str, Any]]:
    """Return, for every number that the world tells, how far off it is after each horizon: dreamt, held, mean, read off the truth."""
    frames = np.concatenate([shown.last[:, None], shown.frames], axis=1)
    read = model.read(
        frames, np.pad(shown.actions, ((0, 0), (1, 0), (0, 0)))
    )  # of those into the first nothing is told
    columns = [(readout.name, list(readout.names), list(readout.units)) for readout in model.spec.readouts]
    rows = []
    for name, elements, units in [*columns, ("reward", [""], [""])]:
        if name not in shown.told:  # a column that was recorded or imported, and that this world does not tell
            continue
        truth = shown.told[name]
        seen = read[name].reshape(*read[name].shape[:2], -1)
        for k, (element, unit) in enumerate(zip(elements, units, strict=True)):
            after = truth[:, 1:, k]
            guesses = {
                "dream": dreamt.told[name][:, :, k],
                "held": np.repeat(truth[:, :1, k], FRAMES, axis=1),
                "mean": np.broadcast_to(after[shown.alive].mean(), after.shape),
                "read_off_truth": seen[:, 1:, k],
            }
            errors = {guess: _errors(np.abs(values - after), shown.alive) for guess, values in guesses.items()}
            rows.append({"name": f"{name} {element}".strip(), "unit": unit, **errors})
    return rows


def _errors(error: np.ndarray, alive: Bool[np.ndarray, "n t"]) -> dict[str, Any]:
    """Return the mean error over what was seen at every horizon."""
    found = {}
    for horizon in HORIZONS:
        keep = alive[:, horizon - 1].astype(np.float64)
        mean = ratio(error[:, horizon - 1].astype(np.float64) * keep, keep)
        found[str(horizon)] = None if mean is None else mean.to_json()
    return found


def _pair(job: Job, moments: Sequence[Moment], part: slice, seed: Sequence[int]) -> tuple[Shown, Shown]:
    """Return two truths of every moment: with one part of the actions drawn anew, and with that part of another moment."""
    spec, rng = job.model.spec, np.random.default_rng(seed)
    drawn = [draw_part(spec, part, rng, FRAMES) for _ in moments]
    order = derangement(len(moments), rng)
    own = [moment.with_part(part, rows) for moment, rows in zip(moments, drawn, strict=True)]
    others = [moment.with_part(part, drawn[k]) for moment, k in zip(moments, order, strict=True)]
    return show(spec, own, job.workers), show(spec, others, job.workers)


def _gap(rollout: Dreamer, name: str, right: Shown, wrong: Shown) -> ActionGap:
    """Return the action gap (`worldsim.eval.gaps`): what a model loses when it is told what was done in the other truth."""
    return gap_between(
        name,
        (right.frames, wrong.frames),
        dream_from(rollout, right, right.actions).frames,
        dream_from(rollout, right, wrong.actions).frames,
        changed(wrong.frames, right.frames) & (right.alive & wrong.alive)[:, :, None, None],
    )


def _save_strips(
    folder: Path, moments: Sequence[Moment], shown: Shown, dreamt: Dreamt, by_scene: np.ndarray
) -> dict[str, str]:
    """Save strips of the moments with the least, the median and the largest error, and of the first."""
    names = {}
    for rule, scene in scenes_by_rule(by_scene).items():
        last = shown.last[scene][None]
        films = {"truth": shown.frames, "dream": dreamt.frames, "copy last": copy_last(shown.last, FRAMES)}
        rows = {name: np.concatenate([last, film[scene]])[list(STRIP_TIMES)] for name, film in films.items()}
        ends = int(shown.alive[scene].sum())
        end = f", the episode ends at frame {ends}" if ends < FRAMES else ""
        title = (
            f"{rule}: after {len(moments[scene].before)} steps, error {by_scene[scene]:.3f} over frames 1-{FRAMES}{end}"
        )
        save_strip(folder / f"strip_{rule}.png", film_strip(rows, STRIP_TIMES, title))
        names[rule] = f"strip_{rule}.png"
    return names
