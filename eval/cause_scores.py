"""Scores of cause-and-effect pairs: what a cause does to its target, true and predicted. No model, no simulator.

An effect is the difference of the target's place on the floor between the two members of a pair, frame by frame. A
target that cannot be read in either member has had no effect, which costs the true effect, and `CUT_OFF_M` at least.
Effects are scored from the frame of the cause (`Effect.start`) to `WINDOW` frames after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

from worldsim.envs.state import element
from worldsim.eval.families import Measure, Reader, Scene, Scores
from worldsim.eval.statistics import quotient
from worldsim.eval.tracking import CUT_OFF_M

WINDOW = 8
"""Frames after that of the cause in which its effect is scored."""
MOVED_M = 0.05
"""A target that is farther than this from where it stood has been hit."""
NOTICED_M = 0.03
"""An effect begins where it is larger than this."""
ALIGNED = 0.87
"""Least cosine between the predicted and the true direction of an effect: within 30 degrees."""
SAME_SIDE = 0.7
"""Least cosine between predicted and true displacement of a target that leaves to the right side: within 45 degrees."""
_NO_SPREAD = 1e-12


def _centimetres(means: np.ndarray) -> np.ndarray:
    return np.asarray(100 * means[..., 0])


def _root(means: np.ndarray) -> np.ndarray:
    return np.asarray(100 * np.sqrt(means.sum(axis=-1)))


def _length(means: np.ndarray) -> np.ndarray:
    return np.asarray(100 * np.sqrt((means**2).sum(axis=-1)))


def _cosine(means: np.ndarray) -> np.ndarray:
    return np.asarray(means[..., 0] / np.sqrt(means[..., 1] * means[..., 2]))


def _correlation(means: np.ndarray) -> np.ndarray:
    """Return Pearson's r from the sums of 1, x, y, xx, xy and yy; NaN where x or y does not vary."""
    count, x, y, xx, xy, yy = np.moveaxis(means, -1, 0)
    x, y, xx, xy, yy = x / count, y / count, xx / count, xy / count, yy / count
    spread = (xx - x**2) * (yy - y**2)
    return np.asarray((xy - x * y) / np.sqrt(np.where(spread > _NO_SPREAD, spread, np.nan)))


ERROR = Measure(
    name="effect error", columns=("squared",), statistic=_root, unit="cm", perfect=0.0,
    meaning="root of the mean squared distance between predicted and true effect (PEHE), all pairs and frames of the window",
)  # fmt: skip
MEASURES = (
    Measure(
        name="mean effect error", columns=("distance",), statistic=_centimetres, unit="cm", perfect=0.0,
        meaning="mean distance between predicted and true effect",
    ),
    Measure(
        name="effect slope", columns=("product", "true_square"), statistic=quotient, perfect=1.0,
        meaning="predicted on true effect, through the origin: 0 is a cause that does nothing, 1 the true effect",
    ),
    Measure(
        name="effect r", columns=("product", "true_square", "predicted_square"), statistic=_cosine, perfect=1.0,
        meaning="correlation of predicted and true effect about the origin; undefined where nothing is predicted",
    ),
    Measure(
        name="direction", columns=("aligned", "effective"), statistic=quotient, perfect=1.0,
        meaning="share of the effects that are predicted above 3 cm and within 30 degrees of the true direction",
    ),
    Measure(
        name="mean effect off by", columns=("along", "across"), statistic=_length, unit="cm", perfect=0.0,
        meaning="difference of mean predicted and mean true effect (ATE error), along and across the way of the cause",
    ),
    Measure(
        name="effect of no cause", columns=("imagined", "ineffective"), unit="cm", perfect=0.0,
        statistic=lambda means: 100 * quotient(means),
        meaning="mean predicted effect where there is none (specificity)",
    ),
    Measure(
        name="pair accuracy", columns=("right", "effective"), statistic=quotient, perfect=1.0,
        meaning="pairs with an effect where both members have the target hit or not, to the right side, and apart by > 3 cm",
    ),
    Measure(
        name="pair accuracy, no effect", columns=("null_right", "ineffective"), statistic=quotient, perfect=1.0,
        meaning="pairs without one where both members have the target hit or not, to the right side, and not apart",
    ),
    Measure(
        name="anticipation", columns=("early", "frames_before"), unit="cm", perfect=0.0,
        statistic=lambda means: 100 * quotient(means),
        meaning="mean predicted effect before the cause",
    ),
    Measure(
        name="effect begins off by", columns=("mistimed", "effective"), statistic=quotient, unit="frames", perfect=0.0,
        meaning="difference of the first frames with an effect above 3 cm, 9 where there is none",
    ),
    Measure(
        name="dose-response", statistic=_correlation,
        columns=("dosed", "dose", "response", "dose_square", "dose_response", "response_square"),
        meaning="correlation of the push's rate and the size of the predicted effect at the end of the window",
    ),
    Measure(
        name="missed", columns=("missed", "frames"), statistic=quotient, perfect=0.0,
        meaning="share of the window's frames in which the target is not read in both members",
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """What is scored of a pair."""

    slot: int
    """The target's palette slot."""
    start: int
    """Frame of the cause (0 is the first after the context)."""
    effective: bool
    """Whether the members differ in the target's place within the window."""
    heading: Float64[np.ndarray, " xy=2"]
    """Unit vector of the way the cause comes."""
    dose: float
    """Rate of the cause's push where the family asks for its strength, else 0."""

    @property
    def window(self) -> slice:
        """Return the scored frames."""
        return slice(self.start, self.start + WINDOW + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetPlaces:
    """Where the target is in both members of a pair (m), and where it can be read there."""

    xy: Float64[np.ndarray, "m=2 t 2"]
    """NaN where not found."""
    found: Bool[np.ndarray, "m=2 t"]

    @property
    def both(self) -> Bool[np.ndarray, " t"]:
        """Return the frames in which it is found in both members."""
        return np.asarray(self.found.all(axis=0))

    @property
    def effect(self) -> Float64[np.ndarray, "t 2"]:
        """Return the place under the cause minus that of the reference, 0 where either is not found."""
        return np.where(self.both[:, None], self.xy[0] - self.xy[1], 0.0)


def parties(scene: Scene) -> tuple[str, tuple[str, ...]]:
    """Return the target's colour and the agents (colours or the pusher) of a pair, as the scripts' label has them."""
    target, agents = scene[0].script.label.split(" by ")
    return target, tuple(agents.split("+"))


def true_places(scene: Scene, colour: str) -> TargetPlaces:
    """Return where a colour's body truly is in both members of a pair."""
    states = np.stack([tale.states for tale in scene]).astype(np.float64)
    xy = np.stack([element(states, f"{colour}/{axis}") for axis in "xy"], axis=-1)
    return TargetPlaces(xy=xy, found=np.ones(xy.shape[:2], dtype=np.bool_))


def score(
    scenes: Sequence[Scene],
    effects: Sequence[Effect],
    frames: UInt8[np.ndarray, "n m t h w 3"],
    reader: Reader,
) -> Scores:
    """Score a row of frames of pairs that have these ``effects``."""
    places = reader(frames, np.stack([[tale.states for tale in scene] for scene in scenes]))
    rows, costs, distances = [], [], []
    for index, (scene, effect) in enumerate(zip(scenes, effects, strict=True)):
        true = true_places(scene, parties(scene)[0])
        read = TargetPlaces(xy=places.xy[index, :, :, effect.slot], found=places.found[index, :, :, effect.slot])
        cost = _errors(true, read)
        rows.append(_effects(effect, true, read, cost) | _outcomes(effect, true, read))
        costs.append(100 * cost)
        off = np.linalg.norm(read.xy - true.xy, axis=-1)[:, effect.window]
        distances.append(off[read.found[:, effect.window]])
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    distance = np.concatenate(distances)
    floor = 100 * float(np.median(distance)) if len(distance) else None
    return Scores(columns=columns, frame_cost=np.stack(costs), floor=floor)


def _errors(true: TargetPlaces, read: TargetPlaces) -> Float64[np.ndarray, " t"]:
    """Return the distance of predicted and true effect in each frame; never less than the cut-off where unread."""
    distance = np.linalg.norm(read.effect - true.effect, axis=-1)
    return np.where(read.both, distance, np.maximum(distance, CUT_OFF_M))


def _effects(effect: Effect, true: TargetPlaces, read: TargetPlaces, cost: np.ndarray) -> dict[str, float]:
    """Return the columns of a pair that come from its effect in the window."""
    got, wanted, both = read.effect[effect.window], true.effect[effect.window], read.both[effect.window]
    largest = int(np.linalg.norm(wanted, axis=-1).argmax())
    off = (got - wanted).mean(axis=0)
    across = np.array([-effect.heading[1], effect.heading[0]])
    size = np.linalg.norm(got, axis=-1)
    response, dosed = float(size[-1]) * effect.effective, float(effect.effective)
    return {
        "squared": float((cost[effect.window] ** 2).mean()),
        "distance": float(cost[effect.window].mean()),
        "product": float((got * wanted).sum(axis=-1).mean()),
        "true_square": float((wanted**2).sum(axis=-1).mean()),
        "predicted_square": float((got**2).sum(axis=-1).mean()),
        "along": float(off @ effect.heading),
        "across": float(off @ across),
        "aligned": float(
            effect.effective and size[largest] > NOTICED_M and _alike(got[largest], wanted[largest], ALIGNED)
        ),
        "effective": float(effect.effective),
        "ineffective": float(not effect.effective),
        "imagined": float(np.where(both, size, CUT_OFF_M).mean()) * (not effect.effective),
        "dosed": dosed,
        "dose": dosed * effect.dose,
        "response": response,
        "dose_square": dosed * effect.dose**2,
        "dose_response": effect.dose * response,
        "response_square": response**2,
        "missed": float((~both).sum()),
        "frames": float(len(both)),
    }


def _outcomes(effect: Effect, true: TargetPlaces, read: TargetPlaces) -> dict[str, float]:
    """Return the columns of a pair that come from what is to be seen before, when and after something happens."""
    before = np.linalg.norm(read.effect[: effect.start], axis=-1)
    early = np.where(read.both[: effect.start], before, CUT_OFF_M)
    right = all(_outcome(effect, true, read, member) for member in range(2)) and _differ(effect, true, read)
    lag = abs(_begins(read, effect) - _begins(true, effect))
    return {
        "early": float(early.sum()),
        "frames_before": float(effect.start),
        "right": float(right and effect.effective),
        "null_right": float(right and not effect.effective),
        "mistimed": float(min(lag, WINDOW + 1)) * effect.effective,
    }


def _outcome(effect: Effect, true: TargetPlaces, read: TargetPlaces, member: int) -> bool:
    """Return whether a member's target is where it should be at the end: left where it was, or gone to the right side."""
    end = effect.start + WINDOW
    stood = true.xy[member, effect.start - 1]
    wanted, got = true.xy[member, end] - stood, read.xy[member, end] - stood
    if not read.found[member, end]:
        return False
    hit = bool(np.linalg.norm(wanted) > MOVED_M)
    if hit != bool(np.linalg.norm(got) > MOVED_M):
        return False
    return not hit or _alike(got, wanted, SAME_SIDE)


def _differ(effect: Effect, true: TargetPlaces, read: TargetPlaces) -> bool:
    """Return whether the targets of the two members come apart, and to the right side, or do not, as they should."""
    wanted, got = true.effect[effect.window], read.effect[effect.window]
    largest = int(np.linalg.norm(wanted, axis=-1).argmax()) if effect.effective else WINDOW
    apart = bool(np.linalg.norm(got[largest]) > NOTICED_M)
    return apart and _alike(got[largest], wanted[largest], SAME_SIDE) if effect.effective else not apart


def _begins(places: TargetPlaces, effect: Effect) -> int:
    """Return the first frame with an effect, or one well after the window if there is none."""
    noticed = np.linalg.norm(places.effect[: effect.window.stop], axis=-1) > NOTICED_M
    return int(noticed.argmax()) if noticed.any() else effect.window.stop + WINDOW + 1


def _alike(one: Float[np.ndarray, " 2"], other: Float[np.ndarray, " 2"], least_cosine: float) -> bool:
    """Return whether two vectors point the same way."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return lengths > 0 and float(one @ other) > least_cosine * lengths
