"""Planners that search by sampling: random shooting, CEM, iCEM and MPPI."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from worldsim.agents.planner import Planner
from worldsim.errors import UsageError


class RandomShooting(Planner):
    """Imagines plans drawn evenly, and plays the best: the least a search can do. The warm start is one of them."""

    def begin(self, mean: Float[np.ndarray, "k f"]) -> None:
        """Keep the warm start."""
        self._mean = mean

    def propose(self, iteration: int) -> Float[np.ndarray, "n k f"]:
        """Draw plans evenly."""
        drawn = self.rng.uniform(-1, 1, (self.settings.candidates, *self._mean.shape))
        drawn[0] = self._mean
        return drawn

    def learn(self, knots: Float[np.ndarray, "n k f"], scores: Float[np.ndarray, " n"]) -> None:
        """Nothing is learnt from one round for the next."""


class CEMPlanner(Planner):
    """The cross-entropy method (Rubinstein 1999): a Gaussian over plans, refitted to the best share of each round."""

    def __init__(self, env: Any, *args: Any, elite_share: float = 0.125, spread: float = 0.6, **kwargs: Any) -> None:
        super().__init__(env, *args, **kwargs)
        _check_share("elite_share", elite_share)
        self.elites = max(2, round(elite_share * self.settings.candidates))
        self.spread = spread

    def begin(self, mean: Float[np.ndarray, "k f"]) -> None:
        """Begin with the warm start and the full spread."""
        self._mean, self._std = mean, np.full_like(mean, self.spread)

    def propose(self, iteration: int) -> Float[np.ndarray, "n k f"]:
        """Draw from the Gaussian; its mean is one of the plans."""
        noise = self.rng.standard_normal((self.settings.candidates, *self._mean.shape))
        noise[0] = 0
        return np.clip(self._mean + self._std * noise, -1, 1)

    def learn(self, knots: Float[np.ndarray, "n k f"], scores: Float[np.ndarray, " n"]) -> None:
        """Refit mean and spread to the best plans."""
        best = knots[np.argsort(scores)[-self.elites :]]
        self._mean, self._std = best.mean(0), best.std(0).clip(min=0.02)


class ICEMPlanner(Planner):
    """iCEM (Pinneri et al. 2020): CEM with noise coloured in time, elites kept from round to round, shrinking rounds.

    ``colour`` is the exponent of the noise's power spectrum 1 / f^colour: 0 white, 2 a random walk. A share ``kept`` of the
    elites is imagined again in the next round; every round has ``shrink`` times as many new plans as the one before.
    """

    def __init__(
        self,
        env: Any,
        *args: Any,
        colour: float = 2.0,
        elite_share: float = 0.125,
        kept: float = 0.3,
        shrink: float = 0.8,
        spread: float = 0.6,
        **kwargs: Any,
    ) -> None:
        super().__init__(env, *args, **kwargs)
        for name, share in (("elite_share", elite_share), ("kept", kept), ("shrink", shrink)):
            _check_share(name, share)
        self.elites = max(2, round(elite_share * self.settings.candidates))
        self.colour, self.kept, self.shrink, self.spread = colour, kept, shrink, spread

    def begin(self, mean: Float[np.ndarray, "k f"]) -> None:
        """Begin with the warm start and the full spread, and no elites."""
        self._mean, self._std = mean, np.full_like(mean, self.spread)
        self._elites = mean[None]

    def propose(self, iteration: int) -> Float[np.ndarray, "n k f"]:
        """Draw coloured plans beside the kept elites and the mean."""
        count = max(2 * self.elites, round(self.settings.candidates * self.shrink**iteration))
        kept = self._elites[: max(1, round(self.kept * len(self._elites)))]
        noise = coloured_noise(self.rng, (count, *self._mean.shape), self.colour)
        drawn = np.clip(self._mean + self._std * noise, -1, 1)
        return np.concatenate([self._mean[None], kept, drawn])

    def learn(self, knots: Float[np.ndarray, "n k f"], scores: Float[np.ndarray, " n"]) -> None:
        """Refit mean and spread to the best plans, and keep these."""
        self._elites = knots[np.argsort(scores)[: -self.elites - 1 : -1]]
        self._mean, self._std = self._elites.mean(0), self._elites.std(0).clip(min=0.02)


class MPPIPlanner(Planner):
    """Model-predictive path integral control (Williams et al. 2017): the mean of all plans, weighted by exp(score / T).

    ``temperature`` T is in units of the spread of the scores of a round.
    """

    def __init__(self, env: Any, *args: Any, temperature: float = 0.3, spread: float = 0.6, **kwargs: Any) -> None:
        super().__init__(env, *args, **kwargs)
        if not temperature > 0:
            raise UsageError("temperature", got=temperature, allowed="more than 0", fix="0.3")
        self.temperature, self.spread = temperature, spread

    def begin(self, mean: Float[np.ndarray, "k f"]) -> None:
        """Begin with the warm start."""
        self._mean = mean

    def propose(self, iteration: int) -> Float[np.ndarray, "n k f"]:
        """Draw around the mean, which is one of the plans."""
        noise = self.rng.standard_normal((self.settings.candidates, *self._mean.shape))
        noise[0] = 0
        return np.clip(self._mean + self.spread * noise, -1, 1)

    def learn(self, knots: Float[np.ndarray, "n k f"], scores: Float[np.ndarray, " n"]) -> None:
        """Move the mean to where plans are good."""
        scale = max(float(scores.std()), 1e-9)
        weights = np.exp((scores - scores.max()) / (scale * self.temperature))
        self._mean = (weights / weights.sum()) @ knots.reshape(len(knots), -1)
        self._mean = self._mean.reshape(knots.shape[1:])


def coloured_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], exponent: float
) -> Float[np.ndarray, "n k f"]:
    """Return Gaussian noise whose power falls as 1 / f^exponent along the middle axis, of variance 1.

    Drawn in the frequency domain (Timmer and Koenig 1995); frequencies below one cycle count as one cycle.
    """
    count, steps, dims = shape
    length = max(2, steps)
    frequencies = np.maximum(np.fft.rfftfreq(length), 1 / length)
    size = frequencies ** (-exponent / 2)
    waves = rng.standard_normal((2, count, dims, len(size))) * size
    waves[1, ..., 0] = 0  # the constant has no phase
    if length % 2 == 0:
        waves[1, ..., -1] = 0
    counted = np.full(len(size), 4.0)  # both signs of a frequency, cosine and sine
    counted[[0, -1] if length % 2 == 0 else [0]] = 1.0
    total = np.sqrt((counted * size**2).sum()) / length
    series = np.fft.irfft(waves[0] + 1j * waves[1], n=length, axis=-1)[..., :steps] / total
    return series.transpose(0, 2, 1)


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise UsageError(name, got=share, allowed="more than 0, at most 1", fix="0.125 is usual for elites")
