"""Puts a probe's results into words, as Markdown. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.eval.quality_report import number, table
from worldsim.provenance import describe

MEANING = (
    "Skill: 0 is the best trivial row, 1 the true frames read by the same read-out; in the next column 1 is the true "
    "physics begun from what can be read off the context. Rows of other actions, no actions and no training must fail."
)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole report as Markdown."""
    parts = [
        f"# Probes of {results['predictor']}",
        (
            f"Tier {results['tier']}{few(results)}, {results['split']} scenes, 95 % intervals by bootstrap over scenes, protocol "
            f"{results['protocol']}, scenes {results['scenes_hash']}. {describe(results)}. {results['seconds']} s."
        ),
        table(["probe", "a scene in which", "outcome"], verdicts(results)),
        MEANING,
        _trust(results),
    ]
    for code, family in results["families"].items():
        parts += [f"## {code}: {family['title']}", family["verdict"] + ".", notes(family), table(*family_rows(family))]
        parts += [f"![{code}, {rule}]({name})" for rule, name in family["strips"].items()]
    parts += [_memory(results["memory"]), _fidelity(results["fidelity"]), _expectation(results["expectation"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def few(results: Mapping[str, Any]) -> str:
    """Say of how many scenes a family has here, where not of as many as its tier has."""
    number = results.get("scenes_of_each")
    return f" with {number} scenes of each family" if number else ""


def _trust(results: Mapping[str, Any]) -> str:
    """Say what each probe's self-test found and how well its read-outs read true frames."""
    tested = results["selftest"]["families"]
    rows = []
    for code, family in results["families"].items():
        held = "not run on this code" if code not in tested else "held" if tested[code]["held"] else "not held"
        floors = (
            f"{reader} {floor:.2f} {family['error']['unit']}"
            for reader, floor in family["floors"].items()
            if floor is not None
        )
        rows.append([code, held, ", ".join(floors) or "reads no places", agreement(family)])
    return "## Can these probes be trusted?\n\n" + table(
        ["probe", "self-test", "read-out floor", "skill by read-out"], rows
    )


def agreement(family: Mapping[str, Any]) -> str:
    """Return the model's skill by read-out; nothing of a probe that is void by the main one, or has no skill by design."""
    if family["rows"]["model"]["skill"] is None or family["headline"] is not None:
        return "-"
    return ", ".join(f"{reader} {number(skill, 2)}" for reader, skill in family["readers"].items())


def _memory(memory: Mapping[str, Any] | None) -> str:
    """Say how long what is hidden is remembered."""
    if memory is None:
        return ""
    first, last = memory["reachable_frames"]
    header = ["row", f"recalled, {first} to {last} frames hidden", "beyond", "half-life, frames"]
    rows = [
        [name, number(row["reachable"], 2), number(row["beyond"], 2), half_life(row["half_life"])]
        for name, row in memory["rows"].items()
    ]
    habit = ", ".join(f"{code} {number(value, 2)}" for code, value in memory["beyond_habit"].items())
    said = f"Pooled over {', '.join(memory['families'])}. Recall beyond habit (kappa over climatology): {habit}."
    return "\n\n".join(["## How long is what is hidden remembered?", said, table(header, rows)])


def half_life(value: Mapping[str, Any] | None) -> str:
    """Return a half-life in words: unbounded where nothing is seen to be lost."""
    if value is None:
        return "nothing is recalled"
    ends = [f"{value[end]:.1f}" if value[end] is not None else "unbounded" for end in ("value", "low", "high")]
    return f"{ends[0]} [{ends[1]}, {ends[2]}]"


FIDELITY = (
    "Sixteen policies from good to bad, played from the same starts in truth and in the dream, judged by the same function "
    "of the state. Spearman 1: they rank alike; mmrv: mean maximum rank violation, regret: what is lost by taking the one "
    "that looks best (both in reward a step); bias: dreamt less real; slope 1: differences are of the right size."
)


def _fidelity(table_of: Mapping[str, Any] | None) -> str:
    """Say whether policies rank in the dream as in truth."""
    if table_of is None:
        return ""
    parts = ["## Do policies rank in the dream as they rank in truth?", FIDELITY]
    for code, one in table_of.items():
        parts += [f"### {code}: {one['title']}, {one['starts']} starts", table(*fidelity_rows(one))]
    return "\n\n".join(parts)


def fidelity_rows(one: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a task's table of agreement, in words."""
    measures = list(next(iter(one["agreement"].values())))
    rows = [[row, *(number(values[name], 2) for name in measures)] for row, values in one["agreement"].items()]
    return ["judged by", *measures], rows


def _expectation(table_of: Mapping[str, Any] | None) -> str:
    """Say what the model is surprised by."""
    title = "## Violation of expectation"
    if table_of is None:
        return f"{title}\n\nNot tested: the tier asks for none, or the predictor has no surprise()."
    header, rows = expectation_rows(table_of)
    said = "Share of quadruplets in which the impossible clips surprise more (chance .5)."
    return "\n\n".join([title, said, table(header, rows)])


def expectation_rows(table_of: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of concepts, in words."""
    names = list(dict.fromkeys(name for concept in table_of.values() for name in concept["rows"]))
    rows = []
    for code, concept in table_of.items():
        outcome = "control" if concept["legal"] else "claimed" if concept["claimed"] else "not claimed"
        cells = [number(concept["rows"][name]["accuracy"], 2) if name in concept["rows"] else "-" for name in names]
        share = number(concept["trained_share_of_accuracy"], 2)
        rows.append([f"{code}: {concept['title']}", str(concept["quadruplets"]), *cells, share, outcome])
    return ["concept", "n", *names, "share learnt", "outcome"], rows


def verdicts(results: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table of verdicts: code, title, verdict."""
    return [[code, family["title"], family["verdict"]] for code, family in results["families"].items()]


def notes(family: Mapping[str, Any]) -> str:
    """Say what the table's columns mean, and what is not reported."""
    said = [f"{family['error']['name']} ({family['error']['unit']}): {family['error']['meaning']}."]
    said += [f"{name}: {measure['meaning']}." for name, measure in family["measures"].items() if measure["meaning"]]
    gate = family["gate"]
    if gate is not None and not gate["passed"]:
        gated = [name for name, measure in family["measures"].items() if measure["gated"]]
        said.append(
            f"Not reported, since {gate['measure']} is not in {gate['low']} .. {gate['high']}: {', '.join(gated)}."
        )
    if family["horizon"] is not None:
        said.append(f"From frame {family['horizon']} on even physics begun from what can be read is off by a radius.")
    if family["futures"] is not None:
        score, spread = (number(family["futures"][name], 2) for name in ("energy_score", "spread_ratio"))
        said.append(
            f"Several futures a scene: energy score {score} {family['error']['unit']}, spread {spread} times that of physics"
            " begun from what can be read (1 is ideal, less is too sure of itself)."
        )
    return " ".join(said)


def family_rows(family: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a family's table, in words."""
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
    return header, rows
