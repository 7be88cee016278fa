"""Puts a probe's results into words, as Markdown. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.eval.quality_report import number, table
from worldsim.provenance import describe

_MEANING = (
    "Skill: 0 is the best trivial row, 1 the true frames read by the same read-out; in the next column 1 is the true "
    "physics begun from what can be read off the context. Rows of other actions, no actions and no training must fail."
)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole report as Markdown."""
    parts = [
        f"# Probes of {results['predictor']}",
        (
            f"Tier {results['tier']}, {results['split']} scenes, 95 % intervals by bootstrap over scenes, protocol "
            f"{results['protocol']}, scenes {results['scenes_hash']}. {describe(results)}. {results['seconds']} s."
        ),
        table(["probe", "a scene in which", "outcome"], _verdicts(results)),
        _MEANING,
    ]
    for code, family in results["families"].items():
        parts += [f"## {code}: {family['title']}", family["verdict"] + ".", _notes(family), _table(family)]
        parts += [f"![{code}, {rule}]({name})" for rule, name in family["strips"].items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdicts(results: Mapping[str, Any]) -> list[list[str]]:
    return [[code, family["title"], family["verdict"]] for code, family in results["families"].items()]


def _notes(family: Mapping[str, Any]) -> str:
    """Say what the table's columns mean, and what is not reported."""
    notes = [f"{family['error']['name']} ({family['error']['unit']}): {family['error']['meaning']}."]
    notes += [f"{name}: {measure['meaning']}." for name, measure in family["measures"].items() if measure["meaning"]]
    gate = family["gate"]
    if gate is not None and not gate["passed"]:
        gated = [name for name, measure in family["measures"].items() if measure["gated"]]
        notes.append(
            f"Not reported, since {gate['measure']} is not in {gate['low']} .. {gate['high']}: {', '.join(gated)}."
        )
    if family["horizon"] is not None:
        notes.append(f"From frame {family['horizon']} on even physics begun from what can be read is off by a radius.")
    return " ".join(notes)


def _table(family: Mapping[str, Any]) -> str:
    names = list(family["measures"])
    shut = family["gate"] is not None and not family["gate"]["passed"]
    units = {name: family["measures"][name]["unit"] for name in names}
    header = ["row", "n", f"{family['error']['name']}, {family['error']['unit']}", "skill", "skill to perception"]
    header += [f"{name}, {units[name]}" if units[name] else name for name in names]
    rows = []
    for label, row in family["rows"].items():
        mark = " (reference)" if label in family["references"] else ""
        skills = ["void" if row[key] is None else number(row[key], 2) for key in ("skill", "skill_to_perception")]
        measures = [
            "gated"
            if label == "model" and shut and family["measures"][name]["gated"]
            else number(row["measures"][name], 2)
            for name in names
        ]
        rows.append([label + mark, str(row["n"]), number(row["error"], 2), *skills, *measures])
    return table(header, rows)
