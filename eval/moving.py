"""The table of errors on moving pixels: a model beside the trivial answers, horizon by horizon. Knows no world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from worldsim.eval.pixels import PixelErrors
from worldsim.eval.statistics import Estimate, estimate, margin, ratio

BASELINES = ("copy_last", "mean_frame", "shuffled_actions")


def moving_table(
    errors: Mapping[str, PixelErrors], counted: Bool[np.ndarray, "n t"], horizons: Sequence[int]
) -> tuple[dict[str, Any], dict[int, Estimate | None]]:
    """Return errors per horizon and predictor over the counted (scene, frame) cases, and the margins over the best.

    ``errors`` holds those of "model" and of every one of `BASELINES`.
    """
    table: dict[str, Any] = {}
    margins: dict[int, Estimate | None] = {}
    names = ("model", *BASELINES)
    for horizon in horizons:
        keep = counted[:, horizon - 1].astype(np.float64)
        sums = [errors[name].total[:, horizon - 1] * keep for name in names]
        pixels = errors["model"].count[:, horizon - 1] * keep
        rows = {name: ratio(total, pixels) for name, total in zip(names, sums, strict=True)}
        best = None
        if pixels.sum():
            best = estimate(np.stack([*sums, pixels], axis=1), margin(0, tuple(range(1, len(names))), len(names)))
        margins[horizon] = best
        table[str(horizon)] = {
            **{name: None if row is None else row.to_json() for name, row in rows.items()},
            "margin_over_best_baseline": None if best is None else best.to_json(),
            "scenes": int(keep.sum()),
            "moving_pixels": int(pixels.sum()),
        }
    return table, margins
