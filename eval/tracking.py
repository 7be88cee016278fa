"""The presence-aware tracking error: how far a predictor's bodies are from the true ones, absence included. No model.

A labelled OSPA of order 1 (Schuhmacher et al. 2008): every body of every frame is scored, whatever the predictor
shows. A body that is visible costs its distance, up to the cut-off, and the cut-off if it cannot be read; a hidden body
costs the cut-off if it is shown; a colour that the scene does not have costs half of it. Nothing is ever dropped.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float64

from worldsim.eval.places import Places

CUT_OFF_M = 0.20
"""Largest distance that counts, about a body's diameter; what is missed or wrongly shown costs as much."""
VISIBLE, HIDDEN = 0.5, 0.05
"""Least visible share of a body that must be shown, and most of one that must not; between them it is not scored."""
WHOLE = 0.99
"""Least visible share of a body that nothing covers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruePlaces:
    """Where the true bodies are, one entry of the last axes per palette colour."""

    present: Bool[np.ndarray, "*batch colours"]
    xy: Float[np.ndarray, "*batch colours 2"]
    """Place on the floor in m; anything where not present."""
    visibility: Float[np.ndarray, "*batch colours"]
    """Share of the body's picture that is in view and unhidden."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingError:
    """Costs in m of each body in each frame, and which of them are scored. The parts add up to the cost."""

    localisation: Float64[np.ndarray, "*batch colours"]
    """Distance of visible bodies that are read, up to the cut-off."""
    miss: Float64[np.ndarray, "*batch colours"]
    """Cut-off where a visible body is not read."""
    false: Float64[np.ndarray, "*batch colours"]
    """Cut-off where a hidden body is read."""
    ghost: Float64[np.ndarray, "*batch colours"]
    """Half the cut-off where a colour is read that the scene does not have."""
    whole: Bool[np.ndarray, "*batch colours"]
    """Bodies that are read and nowhere covered."""
    scored: Bool[np.ndarray, "*batch colours"]
    """Present bodies that are clearly visible or clearly hidden: the denominator."""

    @property
    def cost(self) -> Float64[np.ndarray, "*batch colours"]:
        """All parts together."""
        return self.localisation + self.miss + self.false + self.ghost

    @property
    def floor(self) -> float:
        """Median distance (m) of the bodies that are read and wholly visible: of true frames, the read-out's floor."""
        return float(np.median(self.localisation[self.whole]))

    @property
    def floor_cm(self) -> float | None:
        """The floor in cm; None where no body is read and wholly visible."""
        return 100 * self.floor if self.whole.any() else None

    @property
    def frame_cost_cm(self) -> Float64[np.ndarray, "*batch"]:
        """Mean cost of each frame's scored bodies in cm."""
        return 100 * self.cost.sum(axis=-1) / np.maximum(self.scored.sum(axis=-1), 1)

    def by_scene(self) -> Float64[np.ndarray, "n 2"]:
        """Return the summed cost (m) and the number of scored bodies of each scene (the first axis)."""
        axes = tuple(range(1, self.scored.ndim))
        return np.stack([self.cost.sum(axis=axes), self.scored.sum(axis=axes).astype(np.float64)], axis=1)


def tracking_error(read: Places, truth: TruePlaces) -> TrackingError:
    """Score readings against the truth."""
    visible = truth.present & (truth.visibility >= VISIBLE)
    hidden = truth.present & (truth.visibility <= HIDDEN)
    offset = np.where(read.found[..., None], read.xy - truth.xy, 0.0)
    distance = np.minimum(np.linalg.norm(offset, axis=-1), CUT_OFF_M)
    return TrackingError(
        localisation=distance * (visible & read.found),
        miss=CUT_OFF_M * (visible & ~read.found),
        false=CUT_OFF_M * (hidden & read.found),
        ghost=CUT_OFF_M / 2 * (~truth.present & read.found),
        whole=truth.present & (truth.visibility >= WHOLE) & read.found,
        scored=visible | hidden,
    )


def distance_apart(one: Places, other: Places, truth: TruePlaces) -> Float64[np.ndarray, " n"]:
    """Return how far two readings of n scenes are from each other (m), summed over the bodies and frames that are scored.

    Each distance is cut off as in `tracking_error`; a body that only one of them shows costs the cut-off.
    """
    visible = truth.present & (truth.visibility >= VISIBLE)
    hidden = truth.present & (truth.visibility <= HIDDEN)
    both = one.found & other.found
    offset = np.where(both[..., None], one.xy - other.xy, 0.0)
    distance = np.where(both, np.minimum(np.linalg.norm(offset, axis=-1), CUT_OFF_M), CUT_OFF_M)
    counted = distance * ((visible | hidden) & (one.found | other.found))
    return counted.sum(axis=tuple(range(1, counted.ndim)))
