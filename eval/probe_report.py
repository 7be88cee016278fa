"""Puts a probe's results into words. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.eval.quality_report import number, table
from worldsim.provenance import describe

_HEADER = ["row", "n", "tracking error, cm", "skill", "recall", "shown while hidden", "went on"]
_MEANING = (
    "Tracking error: how far the bodies are from their true places, 20 cm at most and where one is missed or shown though "
    "it is hidden. Skill: 0 is the best trivial row, 1 the true frames read by the same read-out. Recall: the target is "
    "not shown while hidden, and back within 10 cm and two frames. Went on: its way behind the curtain over the true "
    "way; 0 is a world that stood still, 1 one that went on. Rows of wrong actions and of no training must fail."
)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole report as Markdown."""
    parts = [
        f"# Probes of {results['predictor']}",
        (
            f"{results['n']} {results['split']} scenes of each family, 95 % intervals by bootstrap over scenes, protocol "
            f"{results['protocol']}. {describe(results)}. {results['seconds']} s."
        ),
        _MEANING,
    ]
    for code, family in results["families"].items():
        parts += [f"## {code}: the target {family['title']}", _verdict(family), _table(family)]
        parts += [f"![{code}, {rule}]({name})" for rule, name in family["strips"].items()]
    return "\n\n".join(parts) + "\n"


def _verdict(family: Mapping[str, Any]) -> str:
    """Say in a sentence what the model's row means, or that the probe says nothing."""
    row = family["rows"]["model"]
    if row["skill"] is None:
        return (
            f"Void: the best trivial row ({row['best_trivial']}) is worse than the truth by only "
            f"{row['gap_in_floors']:.1f} times the read-out's floor ({family['floor_cm']} cm). Nothing is claimed."
        )
    verdict = (
        "better than" if row["skill"]["low"] > 0 else "worse than" if row["skill"]["high"] < 0 else "not told from"
    )
    return f"Skill {number(row['skill'], 2)}: {verdict} the best trivial row ({row['best_trivial']})."


def _table(family: Mapping[str, Any]) -> str:
    rows = []
    for name, row in family["rows"].items():
        mark = " (reference)" if name in family["references"] else ""
        skill = "void" if row["skill"] is None else number(row["skill"], 2)
        numbers = [number(row["tracking_error_cm"], 1), skill, number(row["recall"], 2)]
        rows.append(
            [name + mark, str(row["n"]), *numbers, f"{row['shown_while_hidden']:.2f}", number(row["went_on"], 2)]
        )
    return table(_HEADER, rows)
