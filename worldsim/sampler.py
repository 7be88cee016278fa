"""Samplers: free functions over ``denoise(z, level) -> clean estimate``. Know no network, no cache and no world."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor

from worldsim.errors import UsageError

Denoise = Callable[[Tensor, float], Tensor]
"""``denoise(z, level)`` returns the clean estimate of ``z`` = (1 - level) eps + level x; level 0 is pure noise."""


def check_num_steps(num_steps: int, most: int) -> None:
    """Raise UsageError unless a model that was trained for up to ``most`` sampler steps can take ``num_steps``."""
    if num_steps < 1 or num_steps & (num_steps - 1) or num_steps > most:
        allowed = ", ".join(str(2**i) for i in range(most.bit_length()))
        raise UsageError("num_steps", got=num_steps, allowed=allowed, fix="these are the trained sampler steps")


def uniform_levels(num_steps: int) -> list[float]:
    """Return the levels 0, 1/n, ..., 1 at which an n-step sampler stands."""
    return [i / num_steps for i in range(num_steps + 1)]


def sample_euler(
    denoise: Denoise, noise: Tensor, num_steps: int, callback: Callable[[int, Tensor], None] | None = None
) -> Tensor:
    """Integrate dz/dt = (x^(z, t) - z) / (1 - t) from noise to a clean sample in ``num_steps`` Euler steps.

    The probability-flow equation of flow matching (Lipman et al. 2023) under x-prediction; the last step lands on the
    estimate itself. ``callback(step, z)`` sees every intermediate state.
    """
    z = noise
    levels = uniform_levels(num_steps)
    for step, (level, following) in enumerate(itertools.pairwise(levels)):
        estimate = denoise(z, level)
        z = z + (estimate - z) * ((following - level) / (1 - level))
        if callback is not None:
            callback(step, z)
    return z
