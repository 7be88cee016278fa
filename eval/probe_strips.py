"""Film strips of probes: which scenes are shown is decided by rule, never by eye. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from worldsim.eval.colours import read_colours
from worldsim.eval.families import Family, Scene, Scores, each_tale, films
from worldsim.eval.reading import Rows
from worldsim.eval.references import painter_of
from worldsim.eval.rows import MODEL, ORACLE, constant_velocity, copy_last
from worldsim.eval.strips import Shade, film_strip, save_strip, scenes_by_rule
from worldsim.spec import WorldSpec

ROWS = {ORACLE: "truth", MODEL: "model", "copy last": "copy last", "constant velocity": "const. veloc."}
"""Rows that strips show where a family has them, and what they are called there."""
FRAMES = 12


def rule_of(model: Scores) -> dict[str, int]:
    """Return the scenes that are shown: where the model costs least, the median and most, and the first."""
    return scenes_by_rule(model.frame_cost.mean(axis=1))


def frames_by_rule(
    table: Mapping[str, Scores], scenes: Sequence[Scene], asked: Rows, spec: WorldSpec
) -> dict[str, dict[str, Any]]:
    """Return the frames of the scenes and rows that are shown, by rule and row (m, t, h, w, 3).

    ``asked`` holds the model's frames; the others of the ``table`` are drawn again.
    """
    rules = rule_of(table[MODEL])
    few = [scenes[index] for index in rules.values()]
    made = {
        ORACLE: films(few),
        MODEL: asked[MODEL][0][list(rules.values())],
        **each_tale(few, lambda tales: {"copy last": copy_last(tales)}),
    }
    if "constant velocity" in table:
        painter = painter_of(spec)
        try:
            made |= each_tale(few, lambda tales: {"constant velocity": constant_velocity(tales, painter)})
        finally:
            painter.close()
    return {rule: {name: row[place] for name, row in made.items()} for place, rule in enumerate(rules)}


def save_strips(
    folder: Path, family: Family, scenes: Sequence[Scene], model: Scores, shown: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, str]:
    """Save one strip a rule: hidden frames shaded, crosses on what is read, the model's cost below; returns their file names."""
    names = {}
    for rule, index in rule_of(model).items():
        scene, frames = scenes[index], shown[rule]
        steps = len(scene[0].frames)
        times = np.unique(np.linspace(1, steps, FRAMES).astype(int))
        rows = {}
        for member, tale in enumerate(scene):
            last = tale.context_frames[-1:]
            for name, row in frames.items():
                label = ROWS[name] if len(scene) == 1 else f"{ROWS[name]} {'AB'[member]}"
                rows[label] = np.concatenate([last, row[member, times - 1]])
        first, end = family.hidden(scene)
        digits = 1 if family.error.unit else 3
        shade = Shade(
            hidden=tuple(bool(first < time <= end) for time in (0, *times)),
            notes=("", *(f"{model.frame_cost[index, time - 1]:.{digits}f}" for time in times)),
            marks={label: _read(frames) for label, frames in rows.items()} if family.error.unit else {},
        )
        cost = f"{family.error.unit} off" if family.error.unit else "squared error"
        title = f"{family.code} {rule}: {family.describe(scene)}; {cost} under each frame"
        strip = film_strip(rows, (0, *times.tolist()), title, shade=shade)
        names[rule] = save_strip(folder / f"strip_{family.code}_{rule}.png", strip).name
    return names


def _read(frames: UInt8[np.ndarray, "t h w 3"]) -> list[Float64[np.ndarray, "m 2"]]:
    """Return where in each frame a body is read, as the main read-out sees it."""
    reading = read_colours(frames)
    return [centroid[found] for centroid, found in zip(reading.centroid, reading.found, strict=True)]
