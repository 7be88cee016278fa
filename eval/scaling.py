"""How error falls with compute: L = a C^-b + c through trainings of several sizes and lengths, and how sure that is.

Of trainings that took as much compute the best counts (Hoffmann et al. 2022, arXiv 2203.15556, approach 1): the law is fitted to
those that no other training beats with less compute. Knows numbers only.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64

LEAST_POINTS = 4
"""Points of the front from which on three numbers are fitted to them."""
STEEPEST = 2.0
"""Exponents are looked for from nothing up to this; those of networks are around .1 to .5."""
EXPONENTS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """L = a C^-b + c."""

    a: float
    b: float
    c: float

    def __call__(self, compute: Float64[np.ndarray, "*n"] | float) -> Float64[np.ndarray, "*n"]:
        """Return the error at some compute."""
        return np.asarray(self.a * np.asarray(compute, np.float64) ** -self.b + self.c)


def front(compute: Float64[np.ndarray, " n"], error: Float64[np.ndarray, " n"]) -> list[int]:
    """Return which points no other beats with as much compute or less, in order of compute."""
    kept: list[int] = []
    for row in np.lexsort((error, compute)).tolist():
        if not kept or error[row] < error[kept[-1]]:
            kept.append(row)
    return kept


def fit(compute: Float64[np.ndarray, " n"], error: Float64[np.ndarray, " n"]) -> Law:
    """Return the law of least squared relative error, with a and c not below nothing.

    For every exponent b the two others are linear; the best of many exponents is taken. No start to choose, no local minimum.
    """
    scale = float(np.exp(np.log(compute).mean()))
    exponents = np.linspace(0, STEEPEST, EXPONENTS + 1)[1:]
    falling, flat = (compute / scale) ** -exponents[:, None] / error, np.ones_like(error) / error
    ff, fl, ll, f, l = (falling**2).sum(1), falling @ flat, (flat**2).sum(), falling.sum(1), flat.sum()
    determinant = np.maximum(ff * ll - fl**2, 1e-300)
    both = np.stack([(f * ll - l * fl) / determinant, (l * ff - f * fl) / determinant])
    alone = np.stack([f / ff, np.zeros_like(f)]), np.stack([np.zeros_like(f), np.full_like(f, l / ll)])
    best, least = Law(a=0.0, b=0.0, c=float(error.mean())), np.inf
    for a, c in (both, *alone):
        left = np.where((a >= 0) & (c >= 0), ((a[:, None] * falling + c[:, None] * flat - 1) ** 2).sum(1), np.inf)
        row = int(left.argmin())
        if left[row] < least:
            b, least = float(exponents[row]), float(left[row])
            best = Law(a=float(a[row] * scale**b), b=b, c=float(c[row]))
    return best


def resampled(
    compute: Float64[np.ndarray, " n"],
    error: Float64[np.ndarray, " n"],
    spread: float,
    count: int,
    rng: np.random.Generator,
) -> list[Law]:
    """Return laws through the front of the points, each time with errors as other trainings might have them.

    ``spread`` is the relative standard deviation of a training's error over seeds.
    """
    laws = []
    for _ in range(count):
        other = error * np.exp(rng.normal(0, spread, len(error)))
        kept = front(compute, other)
        laws.append(fit(compute[kept], other[kept]))
    return laws
