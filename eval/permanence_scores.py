"""Scores of permanence scenes: tracking error, strict recall of the targets, how far the hidden world went on. No model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from worldsim.eval.families import Measure, Reader, Scores
from worldsim.eval.places import Places
from worldsim.eval.statistics import quotient
from worldsim.eval.tales import Tale, truth_of
from worldsim.eval.tracking import CUT_OFF_M, HIDDEN, TruePlaces, tracking_error

RECALL_WITHIN_M = 0.10
RECALL_FRAMES = 2
"""So many frames before and after the true reappearance count as in time."""
FARTHEST_M = 1.5
"""Ways are not counted beyond the size of the floor."""
FALSELY_SHOWN = 0.25
"""A target shown in a larger share of its hidden frames was never hidden, and cannot come back."""

ERROR = Measure(
    name="tracking error",
    columns=("cost", "scored"),
    statistic=lambda means: 100 * quotient(means),
    unit="cm",
    meaning="how far the bodies are from their true places, 20 cm at most and where one is missed or wrongly shown",
)


MISSED = Measure(
    name="missed", columns=("missed", "scored"), statistic=quotient, perfect=0.0,
    meaning="share of the scored bodies that are to be seen and cannot be read",
)  # fmt: skip
MEASURES = (
    Measure(
        name="recall", columns=("recalled", "targets"), statistic=quotient, perfect=1.0,
        meaning="targets not shown while hidden, and back within 10 cm and two frames",
    ),
    Measure(
        name="identity", columns=("identified", "returning"), statistic=quotient, perfect=1.0,
        meaning="of the targets that come back, those where the nearest colour within 10 cm of the true place is theirs",
    ),
    Measure(
        name="shown while hidden", columns=("shown", "targets"), statistic=quotient, perfect=0.0,
        meaning="share of its hidden frames in which a target is shown",
    ),
    Measure(
        name="went on", columns=("went", "way"), statistic=quotient, perfect=1.0,
        meaning="way behind the curtain over the true way: 0 is a world that stood still, 1 one that went on",
    ),
    MISSED,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Occlusion:
    """What happens to a target: its palette slot, the first hidden frame and the first one after (T if none)."""

    slot: int
    hidden_from: int
    hidden_until: int

    @property
    def hidden_frames(self) -> int:
        """Number of frames between being seen and being seen again."""
        return self.hidden_until - self.hidden_from


def score(
    tales: Sequence[Tale],
    events: Sequence[Sequence[Occlusion]],
    frames: UInt8[np.ndarray, "n t h w 3"],
    reader: Reader,
) -> Scores:
    """Score a row of frames of tales in which ``events`` happen to the targets."""
    read, truth = reader(frames, np.stack([tale.states for tale in tales])), truth_of(tales)
    error = tracking_error(read, truth)
    by_scene = error.by_scene()
    columns = {
        "cost": by_scene[:, 0],
        "scored": by_scene[:, 1],
        "missed": error.miss.sum(axis=(1, 2)) / CUT_OFF_M,
        "hidden_frames": np.array([np.mean([event.hidden_frames for event in row]) for row in events]),
    }
    per_scene = [
        np.sum([_target(read, truth, scene, event) for event in row], axis=0) for scene, row in enumerate(events)
    ]
    names = ("recalled", "targets", "shown", "identified", "returning", "went", "way")
    columns |= dict(zip(names, np.array(per_scene, dtype=np.float64).T, strict=True))
    return Scores(columns=columns, frame_cost=error.frame_cost_cm, floor=error.floor_cm)


def _target(read: Places, truth: TruePlaces, scene: int, event: Occlusion) -> tuple[float, ...]:
    """Return recalled, 1, share shown while hidden, identified, whether it returns, way made and true way (m)."""
    found, xy = read.found[scene, :, event.slot], read.xy[scene, :, event.slot]
    true = truth.xy[scene, :, event.slot]
    hidden = truth.visibility[scene, event.hidden_from : event.hidden_until, event.slot] <= HIDDEN
    shown = float(found[event.hidden_from : event.hidden_until][hidden].mean())
    if event.hidden_until >= len(found):
        return float(shown <= FALSELY_SHOWN), 1.0, shown, 0.0, 0.0, 0.0, 0.0
    around = slice(max(event.hidden_until - RECALL_FRAMES, 0), event.hidden_until + RECALL_FRAMES + 1)
    near = np.linalg.norm(xy[around] - true[around], axis=-1) <= RECALL_WITHIN_M  # unread is NaN, and so not near
    last_seen = true[max(event.hidden_from - 1, 0)]
    later = event.hidden_until + RECALL_FRAMES  # by then enough of it is in view for its middle to be read
    path = true[later] - last_seen
    way = float(np.linalg.norm(path))
    went = (
        float(np.clip((xy[later] - last_seen) @ path / way, -FARTHEST_M, FARTHEST_M))
        if found[later] and way > 0
        else 0.0
    )
    recalled = bool(near.any()) and shown <= FALSELY_SHOWN
    named = nearest(read, true[later], scene, later)
    return float(recalled), 1.0, shown, float(named == event.slot), 1.0, went, way


def nearest(read: Places, place: np.ndarray, scene: int, frame: int) -> int | None:
    """Return the colour read nearest to a place in a frame, or None where none is within `RECALL_WITHIN_M`."""
    distance = np.linalg.norm(read.xy[scene, frame] - place, axis=-1)
    distance = np.where(read.found[scene, frame], distance, np.inf)
    best = int(distance.argmin())
    return best if distance[best] <= RECALL_WITHIN_M else None
