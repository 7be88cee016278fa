"""Dreams in frames of sizes that a model was never trained at: how much of its skill is left there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from worldsim.eval.hypotheses import LOST
from worldsim.eval.pixels import copy_last, pixel_errors
from worldsim.eval.trials import Script, check_arena, make_arena, recorded_scripts, simulate, stack_actions
from worldsim.metrics import moving_pixels
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel

SIZES = ((48, 64), (64, 96), (96, 96))
"""Heights and widths: another aspect ratio, a wider view, more pixels."""
SCENES, STEPS = 32, 16
SIZES_SEED = 9_000_000


def skill_at_sizes(model: WorldModel) -> dict[str, float]:
    """Return the skill of dreams at the size trained at and at `SIZES`, by "height x width", and as `LOST` what is lost on average.

    The same scenes happen at every size, drawn as the camera sees them in such a frame. Skill is 1 for the truth and 0 for
    copying the last frame: 1 - error / error of copying, squared, on moving pixels of `STEPS` frames.
    """
    check_arena(model.spec)
    env = make_arena(model.spec)
    try:
        scripts = recorded_scripts(env, range(SIZES_SEED, SIZES_SEED + SCENES), STEPS)
    finally:
        env.close()
    sizes = (model.spec.frame_shape[:2], *SIZES)
    skills = {
        f"{height} x {width}": _skill(model, at_size(model.spec, (height, width)), scripts) for height, width in sizes
    }
    own, *others = skills.values()
    return {**skills, LOST: own - float(np.mean(others))}


def at_size(spec: WorldSpec, size: tuple[int, int]) -> WorldSpec:
    """Return the Arena of a spec, with frames of another height and width."""
    height, width = size
    kwargs = {**spec.env_kwargs, "height": height, "width": width}
    return dataclasses.replace(spec, env_kwargs=kwargs, frame_shape=(height, width, 3))


def _skill(model: WorldModel, spec: WorldSpec, scripts: Sequence[Script]) -> float:
    truth = simulate(spec, scripts)
    moving = moving_pixels(truth.frames, truth.last)
    seeds = [script.seed for script in scripts]
    dreamt = model.predict(truth.context_frames, truth.context_actions, stack_actions(scripts), seeds=seeds)[:, 0]
    error, copied = (
        float(pixel_errors(frames, truth.frames, moving).total.sum())
        for frames in (dreamt, copy_last(truth.last, STEPS))
    )
    return 1 - error / copied
