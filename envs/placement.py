"""Free room on the floor: where a disc or a turned rectangle can stand without touching another. Knows no factors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from worldsim.envs.scene import HALF_FLOOR
from worldsim.errors import UsageError

GAP = 0.02  # m kept free around what is placed at random
_TRIES = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Outline:
    """A disc (``half`` = its radius, twice) or a rectangle turned by ``angle`` degrees."""

    name: str
    x: float
    y: float
    half: tuple[float, float]
    angle: float
    is_round: bool

    def distance(self, other: _Outline) -> float:
        """Return the clear distance in m, negative if they overlap; between rectangles a lower bound."""
        if self.is_round and not other.is_round:
            return other.distance(self)
        dx, dy = other.x - self.x, other.y - self.y
        if self.is_round:
            return math.hypot(dx, dy) - self.half[0] - other.half[0]
        if not other.is_round:
            return max(_gap_along_axes(self, other), _gap_along_axes(other, self))
        turn = math.radians(self.angle)
        along = abs(dx * math.cos(turn) + dy * math.sin(turn)) - self.half[0]
        across = abs(-dx * math.sin(turn) + dy * math.cos(turn)) - self.half[1]
        outside = math.hypot(max(along, 0.0), max(across, 0.0))
        return outside + min(max(along, across), 0.0) - other.half[0]


def _gap_along_axes(first: _Outline, second: _Outline) -> float:
    """Return the widest gap between two rectangles along the axes of the first (separating axis theorem)."""
    turn = math.radians(first.angle)
    lean = math.radians(second.angle) - turn
    dx, dy = second.x - first.x, second.y - first.y
    along = abs(dx * math.cos(turn) + dy * math.sin(turn))
    across = abs(-dx * math.sin(turn) + dy * math.cos(turn))
    reach_x = second.half[0] * abs(math.cos(lean)) + second.half[1] * abs(math.sin(lean))
    reach_y = second.half[0] * abs(math.sin(lean)) + second.half[1] * abs(math.cos(lean))
    return max(along - first.half[0] - reach_x, across - first.half[1] - reach_y)


class Room:
    """The floor as it fills up, thing by thing."""

    def __init__(self) -> None:
        self._outlines: list[_Outline] = []

    @staticmethod
    def reach(radius: float) -> float:
        """Return how far from the floor's middle, along x or y, a thing of this half-width may be placed (m)."""
        return HALF_FLOOR - radius - GAP / 2

    def place(
        self,
        name: str,
        draw: Callable[[], tuple[float, float]],
        *,
        half: tuple[float, float],
        angle: float = 0.0,
        is_round: bool,
        pinned: bool,
        moves: bool = True,
    ) -> tuple[float, float]:
        """Take the first drawn place that is free, or the pinned one, and return it (m).

        ``half`` and ``angle`` (degrees) describe the outline, a disc of radius ``half[0]`` if ``is_round``. What
        ``moves`` must stand clear of the walls; a post may stand in one.

        Raises:
            UsageError: a pinned thing overlaps another or a wall, or no drawn place is free.
        """
        rivals, x, y = "the walls", math.nan, math.nan
        for _ in range(1 if pinned else _TRIES):
            x, y = draw()
            outline = _Outline(name=name, x=x, y=y, half=half, angle=angle, is_round=is_round)
            margin = 0.0 if pinned else GAP
            touching = [other.name for other in self._outlines if outline.distance(other) < margin]
            inside = not moves or max(abs(x), abs(y)) <= HALF_FLOOR - half[0] + 1e-9
            if inside and not touching:
                self._outlines.append(outline)
                return x, y
            rivals = ", ".join(touching) or rivals
        raise UsageError(
            f"place of the {name}",
            got=f"({x:.3f}, {y:.3f}), which overlaps {rivals}",
            allowed="places where things do not overlap",
            fix="move what is pinned apart, or pin less",
        )
