"""The report of `worldsim compare`: one word a claim, the numbers behind it, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.eval.comparison_figures import KINDS, NAMES, claim_file
from worldsim.eval.hypotheses import FASTER, LEAST_TRAININGS
from worldsim.eval.quality_report import table
from worldsim.eval.registry import SCENES
from worldsim.provenance import describe

VALIDATED = (1, 8)
"""Dreamt frames after which the errors of trained arms are shown."""
MEANING = (
    "A difference is transformer less U-Net, with its 95 % interval; matched by *parameters* (within 2 %) and by *operations* of "
    "training (within 5 %), at equal steps on equal clips. *Supported* and *reversed* need both intervals on one side of 0 and p < .05 "
    "after Holm's correction; *equivalent* needs both within the margin; all else is *inconclusive*."
)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    plan = results["plan"]
    fewest = results["trainings_an_arm"]
    standing = (
        f"Fewer than {LEAST_TRAININGS} trainings an arm tell little of how trainings differ: **this shows the path, and answers nothing.**"
        if fewest < LEAST_TRAININGS
        else "Below five trainings an arm all of this is exploratory."
        if fewest < 5
        else ""
    )
    if fewest < plan["seeds"]:
        standing += f" This is what is finished of {plan['seeds']} trainings an arm."
    how = (
        f"Transformer `{plan['base']}` and the U-Nets beside it, {fewest} training{'s' * (fewest > 1)} of {plan['steps']} steps an "
        f"arm, probes of {plan['scenes'] or SCENES[plan['tier']]} dev scenes a family. {describe(results)}"
    )
    parts = ["# Transformer and U-Net as world simulators", how, standing.strip(), "![verdict](verdict.png)"]
    for rival, answers in results["answers"].items():
        parts += [f"## Against the {NAMES[rival]}", _answers(results, answers)]
    shown = [f"![{code}]({claim_file(code)})" for code, arm in results["arms"].items() if arm["values"]]
    parts += [MEANING, "## Every arm", _arms(results), *shown, "## What each arm costs", _sizes(results)]
    parts += ["![minutes](minutes.png)"]
    if results["rates_tried"]:
        parts += ["## Learning rates", _rates(results)]
    if results["scaling"]:
        parts += ["## Error and compute", "![scaling](scaling.png)", _scaling(results)]
    parts += ["## Claims that are not tested here", _not_tested(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _answers(results: Mapping[str, Any], answers: Mapping[str, Any]) -> str:
    if not answers:
        return "No family that was asked can tell: all are void."
    rows = []
    for code, answer in answers.items():
        arm = results["arms"][code]
        numbers = [_interval(one) for one in answer["contrasts"].values()]
        less = ", less is better" if arm["sign"] < 0 else ""
        claim = f"{code} {arm['claim']} ({arm['unit']}{less})"
        rows.append([claim, ", ".join(arm["families"]), *numbers, f"{answer['p']:.3f}", f"**{answer['outcome']}**"])
    matchings = next(iter(answers.values()))["contrasts"]
    return table(["claim", "families", *(f"equal {name}" for name in matchings), "p", "outcome"], rows)


def _interval(one: Mapping[str, Any]) -> str:
    low, high = ("unbounded" if one[end] is None else f"{one[end]:+.3f}" for end in ("low", "high"))
    return f"{one['value']:+.3f} [{low}, {high}]"


def _arms(results: Mapping[str, Any]) -> str:
    codes = [code for code, arm in results["arms"].items() if arm["values"]]
    rows = []
    for preset in results["arms"][codes[0]]["values"] if codes else ():
        cells = []
        for code in codes:
            each = results["arms"][code]["values"][preset]
            spread = f" (sd {np.std(each, ddof=1):.3f})" if len(each) > 1 else ""
            cells.append(f"{np.mean(each):.3f}{spread}")
        rows.append([preset, *cells])
    return table(["arm", *codes], rows)


def _sizes(results: Mapping[str, Any]) -> str:
    rows = []
    for preset, size in results["sizes"].items():
        own = [one for name, one in results["trainings"].items() if name.rpartition("-seed")[0] == preset]
        if not own:
            continue  # a rung of the ladder
        minutes = np.mean([one["minutes"] for one in own])
        cost = [
            f"{size['parameters']:,}",
            f"{size['training_mflop']:.0f}",
            f"{size['dream_mflop']:.0f}",
            f"{minutes:.1f}",
        ]
        rows.append([preset, *cost, *(_validated(own, f"error_{frames}") for frames in VALIDATED)])
    errors = [f"error after {frames}" for frames in VALIDATED]
    columns = ["arm", "parameters", "Mflop a training frame", "Mflop a dreamt frame", "minutes of training", *errors]
    return table(columns, rows) + (
        "\n\nErrors are those of dreams of held-out episodes of the recording at the end of training, on moving pixels, after so "
        "many frames (squared, range -1 .. 1): what an arm has learnt for its minutes."
    )


def _validated(trainings: Sequence[Mapping[str, Any]], score: str) -> str:
    """Return the mean of a validation score over trainings, with its spread; a dash where one has not got it."""
    each = [one["validation"].get(score) for one in trainings]
    if None in each:
        return "-"
    return f"{np.mean(each):.3f}" + (f" (sd {np.std(each, ddof=1):.3f})" if len(each) > 1 else "")


def _rates(results: Mapping[str, Any]) -> str:
    """Return the errors of every arm at every learning rate that was tried, the least in bold."""
    rows = []
    for arm, errors in results["rates_tried"].items():
        least = min(error for error in errors.values() if error is not None)
        shown = ["learnt nothing" if error is None else f"{error:.4f}" for error in errors.values()]
        marks = ["**" if error == least else "" for error in errors.values()]
        rows.append([arm, *(f"{mark}{one}{mark}" for mark, one in zip(marks, shown, strict=True))])
    columns = ["arm", *(f"{rate} times" for rate in next(iter(results["rates_tried"].values())))]
    steps = results["plan"]["search_steps"]
    return table(columns, rows) + (
        f"\n\nErrors of held-out dreams (mean over 1, 2, 4, ... frames) after {steps} steps with so many times the learning rates of "
        "the plan, one training each, with a seed that is not compared. Every arm was then trained with its best."
    )


def _scaling(results: Mapping[str, Any]) -> str:
    """Return the laws of both kinds, and what they foretold of a training that they were not fitted to."""
    found, rows = results["scaling"], []
    for kind, one in found["kinds"].items():
        law, following, (low, high) = one["law"], one["next"], one["exponent"]
        rows.append([
            KINDS[kind], f"{law['a']:.3g} C^-{law['b']:.2f} + {law['c']:.3g}", f"[{low:.2f}, {high:.2f}]",
            f"{following['foretold']:.4f} [{following['low']:.4f}, {following['high']:.4f}]", f"{following['measured']:.4f}",
            f"{following['measured'] / following['foretold'] - 1:+.1%}",
        ])  # fmt: skip
    columns = ["kind", "error after C Tflop", "exponent", "foretold of the largest", "measured", "off by"]
    return (
        f"H6 {FASTER.claim}: exponent of the transformer less that of the U-Net {_interval(found['difference'])}, p {found['p']:.3f}: "
        f"**{found['outcome']}**. One training a point, with a decay of its own; intervals allow for errors of other seeds "
        f"(sd {found['spread']:.1%}). Laws go through the points that none with less compute beats.\n\n"
    ) + table(columns, rows)


def _not_tested(results: Mapping[str, Any]) -> str:
    return table(["claim", "why"], [[f"{code}", why] for code, why in results["not_tested"].items()])
