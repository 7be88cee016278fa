"""All families of probe scenes by code, and which of them each tier asks about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worldsim.errors import UsageError, suggestion
from worldsim.eval.causes import CAUSES
from worldsim.eval.composition import COMPOSITION
from worldsim.eval.control import CONTROL
from worldsim.eval.drift import DRIFT
from worldsim.eval.families import Family
from worldsim.eval.permanence import PERMANENCE
from worldsim.eval.views import VIEWS

FAMILIES: Mapping[str, Family] = {
    family.code: family for family in (*PERMANENCE, *VIEWS, *CAUSES, *COMPOSITION, *DRIFT, *CONTROL)
}
SMOKE = ("P1c", "P1d", "P2b", "P3-I1", "P6-right", "P6-orbit")
"""Families of the smoke tier: one or two of each claim."""
SCENES = {"smoke": 8, "standard": 64, "full": 512}
"""Scenes of every family by tier."""


def chosen(codes: Sequence[str] | str | None, tier: str) -> list[Family]:
    """Return the families called ``codes`` (a list, or one string with commas), or those of the tier.

    UsageError for unknown ones.
    """
    if tier not in SCENES:
        raise UsageError("tier", got=repr(tier), allowed=", ".join(SCENES), fix=suggestion(tier, tuple(SCENES)))
    codes = codes.split(",") if isinstance(codes, str) else codes
    wanted = codes or (SMOKE if tier == "smoke" else tuple(FAMILIES))
    for code in wanted:
        if code not in FAMILIES:
            raise UsageError(
                "family", got=repr(code), allowed=", ".join(FAMILIES), fix=suggestion(code, tuple(FAMILIES))
            )
    return [FAMILIES[code] for code in wanted]
