"""The report of `worldsim compare`: one word a claim, the numbers behind it, and one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldsim.eval.hypotheses import FASTER, LEAST_TRAININGS
from worldsim.eval.quality_report import table
from worldsim.eval.registry import SCENES
from worldsim.eval.scaling import Law
from worldsim.provenance import describe

VALIDATED = (1, 8)
"""Dreamt frames after which the errors of trained arms are shown."""
KINDS = {"dit": "transformer", "unet": "U-Net with attention over time"}
NAMES = {"unet": "U-Net with attention over time", "unet-stacked": "U-Net over stacked frames"}
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
    parts += [MEANING, "## Every arm", _arms(results), "## What each arm costs", _sizes(results)]
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


def figure(results: Mapping[str, Any]) -> bytes:
    """Draw the differences of all claims that are measured in skill, with intervals, one panel a rival, as PNG."""
    panels = {
        rival: {code: one for code, one in answers.items() if results["arms"][code]["unit"] == "skill"}
        for rival, answers in results["answers"].items()
    }
    count = max(1, *map(len, panels.values()))
    drawn = Figure(figsize=(9.0, 1.6 + 0.7 * count), layout="constrained")
    axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (rival, answers) in zip(axes, panels.items(), strict=True):
        for row, answer in enumerate(answers.values()):
            for shift, one in enumerate(answer["contrasts"].values()):
                low, high = (one["value"] if one[end] is None else one[end] for end in ("low", "high"))
                place, ink = row + 0.24 * (shift - 0.5), f"C{shift}"
                axis.plot([low, high], [place, place], color=ink)
                axis.plot([one["value"]], [place], marker="os"[shift], color=ink)
        axis.axvline(0, color="0.5", linewidth=0.8)
        axis.set_yticks(range(len(answers)), [f"{code} {results['arms'][code]['claim']}" for code in answers])
        axis.set_title(f"against the {NAMES[rival]}", fontsize=10)
        axis.set_xlabel("difference in skill, 95 % interval")
    axes[0].set_ylim(count - 0.5, -0.5)
    first = next(iter(next(iter(panels.values())).values()), {"contrasts": {}})
    keys = [
        Line2D([], [], color=f"C{i}", marker="os"[i], label=f"equal {name}")
        for i, name in enumerate(first["contrasts"])
    ]
    drawn.legend(handles=keys, fontsize=8, loc="outside lower center", ncols=len(keys))
    return _png(drawn)


def scaling_figure(found: Mapping[str, Any]) -> bytes:
    """Draw the errors of a ladder of trainings over their compute, the laws through them, and what these foretold, as PNG."""
    drawn = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = drawn.subplots()
    for place, (kind, one) in enumerate(found["kinds"].items()):
        ink, law, following = f"C{place}", Law(**one["law"]), one["next"]
        for on_front in (True, False):
            points = [point for point in one["points"] if point["on_front"] == on_front]
            places = [point["tflop"] for point in points], [point["error"] for point in points]
            axis.scatter(*places, marker="os"[place], edgecolors=ink, facecolors=ink if on_front else "none")
        compute = np.geomspace(min(point["tflop"] for point in one["points"]), following["tflop"], 100)
        axis.plot(compute, law(compute), color=ink, label=f"{KINDS[kind]}: C^-{law.b:.2f}")
        axis.plot([following["tflop"]] * 2, [following["low"], following["high"]], color=ink, marker="_")
        axis.scatter(following["tflop"], following["measured"], marker="*", s=140, color=ink)
    axis.set(xscale="log", yscale="log", xlabel="operations of training, Tflop", ylabel="error of held-out dreams")
    axis.set_title("Filled: none with less compute is better. Star: measured, not fitted.", fontsize=9)
    axis.legend(fontsize=8)
    return _png(drawn)


def _png(drawn: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
