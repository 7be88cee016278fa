"""The table of factors of variation, with what recordings may show and what is held out. Knows no MuJoCo and no pixels.

Held out from every recording, from the first day: ranges (at the edges and in the middle), one wedge of the camera's
azimuth, one band of its elevation, and pairs of colour, shape and motion (each value alone is seen). A held-out value
is taken when an option names it or asks for it, and never drawn otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldsim.envs.scene import COLOURS, HALF_FLOOR, POST_SHAPES, SHAPES
from worldsim.errors import UsageError, suggestion

HELD_OUT_WEDGE = (30.0, 70.0)  # deg of camera azimuth: no recording starts in it or orbits into it
MOTIONS = ("still", "slow", "fast")  # the initial speed, as a class


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """A closed interval of values drawn with the given ``weight`` among its factor's spans; an atom if low == high."""

    low: float
    high: float
    weight: float = 1.0

    def holds(self, value: float) -> bool:
        """Return whether the value lies in the span."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}..{self.high:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor:
    """One way in which scenes differ.

    ``scope`` says whether a scene has one value ("scene") or one for each body or post. Values are numbers within the
    spans ``train`` and ``held_out`` (whole ones if ``whole``), or one of ``names``. An empty ``held_out`` means that
    nothing of this factor alone is held out (`HELD_OUT_PAIRS` holds out pairs of names).
    """

    name: str
    unit: str
    scope: str
    doc: str
    train: tuple[Span, ...] = ()
    held_out: tuple[Span, ...] = ()
    names: tuple[str, ...] = ()
    whole: bool = False

    def allowed(self) -> str:
        """Return the allowed values in words."""
        if self.names:
            return ", ".join(self.names)
        kinds = (("train", self.train), ("held out", self.held_out))
        texts = [f"{label} {', '.join(str(span) for span in spans)}" for label, spans in kinds if spans]
        return f"{'; '.join(texts)} ({self.unit})"

    def accepts(self, value: Any) -> bool:
        """Return whether the value is in the train or in the held-out values."""
        if self.names:
            return isinstance(value, str) and value in self.names
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            return False
        if self.whole and value != int(value):
            return False
        return any(span.holds(float(value)) for span in (*self.train, *self.held_out))

    def draw(self, rng: np.random.Generator, held_out: bool = False) -> Any:
        """Return one value from the train values, or from the held-out ones where there are any."""
        if self.names:
            return str(rng.choice(self.names))
        spans = self.held_out if held_out and self.held_out else self.train
        weights = np.array([span.weight for span in spans])
        span = spans[rng.choice(len(spans), p=weights / weights.sum())]
        if self.whole:
            return int(rng.integers(int(span.low), int(span.high) + 1))
        return float(rng.uniform(span.low, span.high))


def _spans(*bounds: tuple[float | int, ...]) -> tuple[Span, ...]:
    """Return spans from (low, high) or (low, high, weight)."""
    numbers = (map(float, bound) for bound in bounds)
    return tuple(Span(low=low, high=high, weight=rest[0] if rest else 1.0) for low, high, *rest in numbers)


_REACH = HALF_FLOOR - 0.065
_TABLE = (
    Factor(name="count", unit="1", scope="scene", train=_spans((1, 3)), held_out=_spans((4, 5)), whole=True,
           doc="number of coloured bodies"),
    Factor(name="posts", unit="1", scope="scene", train=_spans((0, 0, 2), (1, 1), (2, 2)), whole=True,
           doc="number of grey posts and barriers, or a list of dictionaries with keys shape, x, y, half_x, half_y, angle"),
    Factor(name="damping", unit="1/s", scope="scene", train=_spans((0, 0, 0.15), (0.35, 0.35, 0.15), (1.2, 1.8, 0.7)),
           held_out=_spans((0.6, 1.0), (2.2, 3.0)), doc="rate at which sliding bodies lose speed"),
    Factor(name="friction", unit="1", scope="scene", train=_spans((0, 0, 3), (0.005, 0.02)),
           held_out=_spans((0.03, 0.05)), doc="Coulomb friction coefficient between the bodies and the floor"),
    Factor(name="curtain_x", unit="m", scope="scene", train=_spans((-0.3, 0.3)), held_out=_spans((-0.4, -0.3), (0.3, 0.4)),
           doc="place of the curtain's middle"),
    Factor(name="curtain_y", unit="m", scope="scene", train=_spans((-0.3, 0.3)), held_out=_spans((-0.4, -0.3), (0.3, 0.4)),
           doc="place of the curtain's middle"),
    Factor(name="curtain_half_width", unit="m", scope="scene", train=_spans((0.2, 0.2), (0.3, 0.3), (0.42, 0.42)),
           held_out=_spans((0.24, 0.26), (0.35, 0.37), (0.48, 0.52)), doc="half of the curtain's width"),
    Factor(name="curtain_angle", unit="deg", scope="scene", train=_spans((-90, 40, 13), (60, 90, 3)),
           held_out=_spans((40, 60)), doc="direction of the curtain along its width, counter-clockwise from +x"),
    Factor(name="curtain_height", unit="1", scope="scene", train=_spans((0, 0)), held_out=_spans((0.25, 1)),
           doc="share of its full height that the curtain has risen when the lead-in begins"),
    Factor(name="camera_azimuth", unit="deg", scope="scene",
           train=_spans((0, HELD_OUT_WEDGE[0], HELD_OUT_WEDGE[0]), (HELD_OUT_WEDGE[1], 360, 360 - HELD_OUT_WEDGE[1])),
           held_out=_spans(HELD_OUT_WEDGE), doc="where the camera starts on its ring, counter-clockwise from +x"),
    Factor(name="camera_elevation", unit="deg", scope="scene", train=_spans((26, 33, 7), (38, 46, 8)),
           held_out=_spans((33, 38)), doc="height of the camera's ring as an angle"),
    Factor(name="light_azimuth", unit="deg", scope="scene", train=_spans((0, 360)), doc="where the light comes from"),
    Factor(name="light_elevation", unit="deg", scope="scene", train=_spans((52, 70)), held_out=_spans((40, 48)),
           doc="height of the light as an angle"),
    Factor(name="light_strength", unit="1", scope="scene", train=_spans((0.44, 0.56)),
           held_out=_spans((0.32, 0.4), (0.6, 0.66)), doc="diffuse level of the light"),
    Factor(name="pusher_x", unit="m", scope="scene", train=_spans((-0.62, 0.62)), doc="where the pusher starts"),
    Factor(name="pusher_y", unit="m", scope="scene", train=_spans((-0.62, 0.62)), doc="where the pusher starts"),
    Factor(name="colour", unit="name", scope="body", names=COLOURS, doc="the body's identity; each at most once"),
    Factor(name="shape", unit="name", scope="body", names=SHAPES, doc="the body's shape"),
    Factor(name="radius", unit="m", scope="body", train=_spans((0.08, 0.1)),
           held_out=_spans((0.065, 0.075), (0.105, 0.115)), doc="half of the body's width"),
    Factor(name="mass", unit="kg", scope="body", train=_spans((0.4, 0.6)), held_out=_spans((0.25, 0.35), (0.7, 0.9)),
           doc="the body's mass"),
    Factor(name="speed", unit="m/s", scope="body", train=_spans((0, 0), (0.2, 0.3), (0.5, 0.6)),
           held_out=_spans((0.05, 0.2), (0.3, 0.5, 2), (0.6, 0.8)), doc="speed when the lead-in begins"),
    Factor(name="direction", unit="deg", scope="body", train=_spans((0, 360)),
           doc="direction of that speed, counter-clockwise from +x"),
    Factor(name="x", unit="m", scope="body", train=_spans((-_REACH, _REACH)), doc="place when the lead-in begins"),
    Factor(name="y", unit="m", scope="body", train=_spans((-_REACH, _REACH)), doc="place when the lead-in begins"),
    Factor(name="post_shape", unit="name", scope="post", names=POST_SHAPES, doc="cylinder or barrier"),
    Factor(name="post_x", unit="m", scope="post", train=_spans((-0.5, 0.5)), held_out=_spans((-0.62, -0.5), (0.5, 0.62)),
           doc="place of the post"),
    Factor(name="post_y", unit="m", scope="post", train=_spans((-0.5, 0.5)), held_out=_spans((-0.62, -0.5), (0.5, 0.62)),
           doc="place of the post"),
    Factor(name="post_half_x", unit="m", scope="post", train=_spans((0.05, 0.07, 0), (0.1, 0.18)),
           held_out=_spans((0.02, 0.05), (0.07, 0.1), (0.18, 0.3)),
           doc="a cylinder's radius (drawn from its first span), or half of a barrier's length (from its second)"),
    Factor(name="post_half_y", unit="m", scope="post", train=_spans((0.03, 0.03)), held_out=_spans((0.02, 0.3)),
           doc="half of a barrier's thickness; a cylinder's radius again"),
    Factor(name="post_angle", unit="deg", scope="post", train=_spans((-90, 90)), doc="direction of a barrier's length"),
)  # fmt: skip
FACTORS: Mapping[str, Factor] = {factor.name: factor for factor in _TABLE}

# About a quarter of the pairs of each kind; every single value stays in sight.
HELD_OUT_PAIRS: Mapping[tuple[str, str], frozenset[tuple[str, str]]] = {
    ("colour", "shape"): frozenset(
        {("red", "sphere"), ("magenta", "sphere"), ("yellow", "box"), ("blue", "cylinder"), ("cyan", "box")}
    ),
    ("colour", "motion"): frozenset({("green", "fast"), ("blue", "slow"), ("cyan", "fast"), ("yellow", "slow")}),
    ("shape", "motion"): frozenset({("box", "slow"), ("cylinder", "fast")}),
}


def motion_of(speed: float) -> str:
    """Return the motion class of an initial speed in m/s."""
    return "still" if speed == 0 else "slow" if speed < 0.4 else "fast"


def is_held_out_pair(colour: str, shape: str, motion: str) -> bool:
    """Return whether the body holds a pair of values that recordings never show together."""
    values = {"colour": colour, "shape": shape, "motion": motion}
    return any((values[first], values[second]) in pairs for (first, second), pairs in HELD_OUT_PAIRS.items())


def check_value(name: str, value: Any) -> None:
    """Raise UsageError unless the value is one of the factor's train or held-out values."""
    factor = FACTORS[name]
    if not factor.accepts(value):
        raise UsageError(
            f"option {name!r}",
            got=repr(value),
            allowed=factor.allowed(),
            fix=f"{name} is {factor.doc}: choose a value in range",
        )


def check_name(name: str, known: tuple[str, ...], what: str) -> None:
    """Raise UsageError, with the closest known name, unless ``name`` is known."""
    if name not in known:
        raise UsageError(what, got=repr(name), allowed=f"{len(known)} names", fix=suggestion(name, known))
