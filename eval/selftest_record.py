"""Which probes passed their self-test on this very code: the record that ships with the package. Tests nothing itself.

`worldsim selftest --record eval/selftest.json` writes it. A record made by other code, that is, by other sources of what makes
scenes and what scores them, says nothing: then no probe counts as tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldsim.eval.registry import FAMILIES
from worldsim.eval.sources import sources_hash
from worldsim.eval.truths import code_hash
from worldsim.provenance import write_json

RECORD = Path(__file__).with_name("selftest.json")
COMMAND = "worldsim selftest --record eval/selftest.json"
UNTESTED = f"not self-tested on this code: run `{COMMAND}`"
_SCORES = "worldsim.eval.selftest_checks"
"""Imports all that scores, and all that makes what is scored."""


def made_by() -> dict[str, str]:
    """Return what a record must have been made by to say anything about the present code."""
    return {"scenes_hash": code_hash(), "scoring_hash": sources_hash(_SCORES)}


def record(path: Path = RECORD) -> Mapping[str, Mapping[str, Any]]:
    """Return, by family, whether its bands ``held``, in words which are ``broken``, and its column of the matrix (``skill``).

    Only families that were tested.

    Empty where there is no record, or one that other code made.
    """
    if not path.is_file():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["families"] if {name: kept.get(name) for name in made_by()} == made_by() else {}


def objection(code: str) -> str | None:
    """Return, in words, why a family's numbers may not be claimed as far as its self-test goes; None if they may."""
    tested = record().get(code)
    if tested is None:
        return UNTESTED
    return None if tested["held"] else f"self-test not passed: {'; '.join(tested['broken'])}"


def keep(tested: Mapping[str, Mapping[str, Any]], tier: str, path: Path) -> None:
    """Write into ``path`` what is ``broken`` and which ``skill`` was found; what else this code's record holds stays."""
    made = {
        code: {"tier": tier, "held": not one["broken"], "broken": one["broken"], "skill": one["skill"]}
        for code, one in tested.items()
    }
    families: dict[str, Any] = {**record(path), **made}
    ordered = {code: families[code] for code in FAMILIES if code in families}
    write_json(path, {**made_by(), "families": ordered})
