"""What each corrupted truth is meant for, written down before it was scored: targets, and what else it may move.

Every entry follows from what a corruption does and from what a family scores, not from a run. A family whose bands do
not hold stays broken and claims nothing; where an entry was wrong, `docs/decisions.md` says what was changed and why.
Knows no scene and no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

CURTAIN = ("P1a", "P1b", "P1c", "P1d", "P1e", "P1f")
"""Bodies go behind a curtain, or are covered by it, and come back."""
RETURNS = (*CURTAIN, "P1h")
PERMANENCE = (*CURTAIN, "P1g", "P1h")
VIEWS = ("P2a", "P2b", "P2c", "P2d", "P2e")
EFFECTS = ("P3-I1", "P3-I2", "P3-I3", "P3-I4", "P3-I5", "P3-I6", "P3-I7")
"""Causes that have an effect in every other pair."""
CAUSES = (*EFFECTS, "P3-I8")
COMPOSITION = ("P4-C1", "P4-C2")
"""Pairs in which a body slides in sight, and nothing is done."""
DRIFT = ("P5a", "P5b")
PUSHES = ("P6-right", "P6-forward")
CONTROL = (*PUSHES, "P6-orbit", "P6-tilt", "P6-curtain")
CHECKED = (*PERMANENCE, *VIEWS, *CAUSES, *COMPOSITION, *DRIFT, *CONTROL)
"""Families of the matrix."""

NUISANCES = ("noise .03", "blur", "gamma 1.2")
LEAST_NUISANCE, MOST_TARGETED, MOST_SIDE_EFFECT = 0.95, 0.60, 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByMeasure:
    """How a family is checked that has no skill by design, since a trivial row is as good as the truth there."""

    measure: str
    """The measure that the family is for; how far it is from perfect is the error."""
    at_stake: float
    """Error, in the measure's unit, that counts as wholly wrong, like a skill of nothing."""


BY_MEASURE: Mapping[str, ByMeasure] = {
    "P1g": ByMeasure(measure="shown while hidden", at_stake=1.0),  # who deletes what was hidden is right
    "P3-I8": ByMeasure(measure="effect of no cause", at_stake=10.0),  # no effect is the truth; 10 cm is a body's radius
    "P5a": ByMeasure(measure="still whole", at_stake=1.0),  # copying is right
}


@dataclasses.dataclass(frozen=True)
class Registered:
    """What a corruption is meant for: the probes that must notice it, and those that it may also move."""

    targets: tuple[str, ...]
    may_move: tuple[str, ...] = ()


def _but(codes: tuple[str, ...], *without: str) -> tuple[str, ...]:
    return tuple(code for code in codes if code not in without)


_SCORED_WITH_CURTAIN = ("P6-right", "P6-forward", "P6-tilt")
"""Every other scene of these has the curtain, too, at work in both films."""
REGISTERED: Mapping[str, Registered] = {
    # Nothing is hidden in P2 and P4 but by a body that moves, nothing before the effect is scored in P3, nothing in P5a.
    "deleted behind": Registered((*RETURNS, "P2d"), ("P2c", *COMPOSITION, "P5b", *_SCORED_WITH_CURTAIN, "P6-curtain")),
    # What rests where it was seen last is right where all is at rest (P1f, P2d), and may be where some is (P1h).
    "freeze": Registered(
        ("P1a", "P1b", "P1c", "P1e"), ("P1d", "P1g", "P1h", "P2c", *COMPOSITION, "P5b", *_SCORED_WITH_CURTAIN, "P6-curtain")
    ),
    # In P1g the other colour is hidden as well. Where nothing is hidden the colour changes in the middle.
    "colour swap": Registered((*RETURNS, *COMPOSITION, "P5a"), (*VIEWS, *CAUSES, "P5b", *CONTROL)),
    "shape swap": Registered((), CHECKED),
    "early 4": Registered((), CHECKED),
    "late 4": Registered((), CHECKED),
    # 15 cm cost three quarters of a miss; only one of the bodies of P1e, P1f and P2 is moved.
    "teleport 15 cm": Registered(
        ("P1a", "P1b", "P1c"), ("P1d", "P1e", "P1f", "P1g", "P1h", *VIEWS, *CAUSES, *COMPOSITION, *DRIFT, *CONTROL)
    ),
    "always redrawn": Registered((*CURTAIN, "P1g", "P6-curtain"), ("P5b", *_SCORED_WITH_CURTAIN, "P6-orbit")),
    # What is hidden or still whole is so in a mirror too, and no effect has no mirror image.
    "mirrored": Registered(
        (*RETURNS, *VIEWS, "P3-I4", *COMPOSITION, "P5b", *PUSHES),
        (*_but(EFFECTS, "P3-I4"), "P6-orbit", "P6-tilt", "P6-curtain"),
    ),
    # At full speed all the time (P2a) the camera is a step behind in every frame.
    "camera lags 1": Registered(
        ("P2a", "P6-orbit"), ("P1h", *_but(VIEWS, "P2a"), "P5b", *_but(CONTROL, "P6-orbit"))
    ),
    "camera gain .8": Registered(("P2a", "P2b"), ("P1h", *_but(VIEWS, "P2a", "P2b"), "P5b", *CONTROL)),
    # Every view is off by the same share of its distance from the middle, whatever the camera does.
    "wrong lens": Registered(VIEWS, _but(CHECKED, *VIEWS)),
    "bystander jiggles": Registered((), CHECKED),
    # The disc stands near the middle, where targets of P3 rest; it may cover them.
    "ghost": Registered(
        ("P5a",), (*RETURNS, *VIEWS, *_but(CAUSES, "P3-I1", "P3-I4"), *COMPOSITION, "P5b", *CONTROL)
    ),
    # Nothing is done in I2, I8, P4 and P5a that matters to what is scored; half the pairs of I6 are driven, by chance.
    "action ignored": Registered(
        _but(CHECKED, "P3-I2", "P3-I6", "P3-I8", *COMPOSITION, "P5a"), ("P3-I6",)
    ),
    "noise .03": Registered(()),
    "noise .08": Registered((), CHECKED),
    "blur": Registered(()),
    "gamma 1.2": Registered(()),
    "flicker": Registered((), CONTROL),
    # Who never sees the target's colour never shows it while hidden (P1g).
    "other scene": Registered(_but(CHECKED, "P1g"), ("P1g",)),
    "mean frame": Registered(_but(CHECKED, "P1g"), ("P1g",)),
    # An effect of nothing is nothing however it is changed (I8).
    "effect x 0.5": Registered(EFFECTS),
    "effect x 1.5": Registered(EFFECTS),
    "effect 4 late": Registered(EFFECTS),
    "effect 4 early": Registered(EFFECTS),
    "mirrored effect": Registered(_but(EFFECTS, "P3-I1"), ("P3-I1",)),
    "contacts off": Registered(EFFECTS),
    "effect of nothing": Registered(CAUSES),
}  # fmt: skip
"""Of P1c, P1d, P1e, P1h, P2b, P3-I1, P3-I4 and P6-orbit as it was written before the first matrix of these eight; of all
others, and all of "effect of nothing", as it was written before the first matrix of all."""
