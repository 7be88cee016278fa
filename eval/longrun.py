"""What is left of a dream after hundreds of frames: sharpness, and bodies that can be read by colour. Knows no model.

By then the true and the dreamt bodies have long parted, so places are not compared; only whether the dream still looks
like this world: as sharp, with the bodies it began with, no others.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from worldsim.envs.state import body_slots
from worldsim.eval.colours import read_colours
from worldsim.eval.statistics import Estimate, ratio
from worldsim.eval.trials import Truth
from worldsim.metrics import laplacian_energy

VISIBLE = 0.5
"""A body counts as visible where at least this share of its nominal pixels is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRun:
    """State of dreams over some late frames of n scenes, all of them counted; None where there was nothing to count."""

    sharpness_ratio: Estimate | None
    """Laplacian energy of the dream over that of the truth at the same times; 1 is ideal."""
    readable: Estimate | None
    """Of the bodies visible in the true frame, the share that is read by colour in the dreamt frame."""
    readable_truth: Estimate | None
    """The same read off the true frames: the read-out's own limit."""
    readable_present: Estimate | None
    """Of all bodies of the scene, hidden ones included, the share that is read in the dreamt frame."""
    ghosts: Estimate | None
    """Of the colours that the scene does not have, the share that is read in the dreamt frame; 0 is ideal."""
    bodies: int
    """Number of visible (scene, frame, body) cases: the denominator of ``readable``."""

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as a JSON-able dictionary."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value.to_json() if isinstance(value, Estimate) else value for name, value in data.items()}


def long_run(dreamt: UInt8[np.ndarray, "n t h w 3"], truth: Truth) -> LongRun:
    """Judge dreamt frames against the truth at the same times."""
    read, read_truth = read_colours(dreamt).found, read_colours(truth.frames).found  # (n, t, colours)
    present = body_slots(truth.states, "present") > 0.5
    visible = present & (truth.visibility >= VISIBLE)

    def count(cases: np.ndarray) -> Float64[np.ndarray, " n"]:
        return cases.sum(axis=(1, 2), dtype=np.float64)

    return LongRun(
        sharpness_ratio=ratio(laplacian_energy(dreamt).sum(axis=1), laplacian_energy(truth.frames).sum(axis=1)),
        readable=ratio(count(visible & read), count(visible)),
        readable_truth=ratio(count(visible & read_truth), count(visible)),
        readable_present=ratio(count(present & read), count(present)),
        ghosts=ratio(count(~present & read), count(~present)),
        bodies=int(visible.sum()),
    )
