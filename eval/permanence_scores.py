"""Scores of permanence scenes: tracking error, strict recall of the target, how far the hidden world went on. No model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from worldsim.eval.permanence import Family, Occlusion, occlusion
from worldsim.eval.places import Places, read_places
from worldsim.eval.tales import Tale, truth_of
from worldsim.eval.tracking import HIDDEN, TrackingError, TruePlaces, tracking_error

RECALL_WITHIN_M = 0.10
RECALL_FRAMES = 2
"""So many frames before and after the true reappearance count as in time."""
FALSELY_SHOWN = 0.25
"""A target shown in a larger share of its hidden frames was never hidden, and cannot come back."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall:
    """What became of the target in each scene."""

    recalled: Bool[np.ndarray, " scenes"]
    """Not shown while hidden, and read within `RECALL_WITHIN_M` of its place when it is to come back."""
    shown_hidden: Float64[np.ndarray, " scenes"]
    """Share of the hidden frames in which it is read."""
    moved: Float64[np.ndarray, "scenes 2"]
    """Way (m) along the true path from the last place seen to the place at reappearance: predicted, true. 0 if unread."""


def read_row(tales: Sequence[Tale], frames: UInt8[np.ndarray, "n t h w 3"]) -> Places:
    """Read the bodies off a row's frames; cameras and radii are the true ones."""
    return read_places(frames, np.stack([tale.states for tale in tales]))


def errors(tales: Sequence[Tale], read: Places) -> TrackingError:
    """Return the tracking error of a row."""
    return tracking_error(read, truth_of(tales))


def recall(tales: Sequence[Tale], family: Family, read: Places) -> Recall:
    """Score the target of each scene."""
    truth = truth_of(tales)
    rows = [_recall(read, truth, index, _event(tale, family)) for index, tale in enumerate(tales)]
    recalled, shown, moved = zip(*rows, strict=True)
    return Recall(recalled=np.array(recalled), shown_hidden=np.array(shown), moved=np.array(moved))


def _event(tale: Tale, family: Family) -> Occlusion:
    event = occlusion(tale, family)
    assert event is not None  # every tale has been audited
    return event


def _recall(read: Places, truth: TruePlaces, scene: int, event: Occlusion) -> tuple[bool, float, tuple[float, float]]:
    found, xy = read.found[scene, :, event.slot], read.xy[scene, :, event.slot]
    true = truth.xy[scene, :, event.slot]
    hidden = truth.visibility[scene, event.hidden_from : event.hidden_until, event.slot] <= HIDDEN
    shown = float(found[event.hidden_from : event.hidden_until][hidden].mean())
    if event.hidden_until >= len(found):
        return shown <= FALSELY_SHOWN, shown, (0.0, 0.0)
    around = slice(max(event.hidden_until - RECALL_FRAMES, 0), event.hidden_until + RECALL_FRAMES + 1)
    near = np.linalg.norm(xy[around] - true[around], axis=-1) <= RECALL_WITHIN_M  # unread is NaN, and so not near
    last_seen = true[max(event.hidden_from - 1, 0)]
    path = true[event.hidden_until] - last_seen
    way, moved = float(np.linalg.norm(path)), 0.0
    read_at = np.flatnonzero(found[event.hidden_until : event.hidden_until + RECALL_FRAMES + 1])
    if len(read_at) and way > 0:
        moved = float((xy[event.hidden_until + read_at[0]] - last_seen) @ path / way)
    return bool(near.any()) and shown <= FALSELY_SHOWN, shown, (moved, way)
