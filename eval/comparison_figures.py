"""Pictures of `worldsim compare`: the verdict, one of every claim, errors over minutes and over compute. Knows results only."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from worldsim.eval.scaling import Law

KINDS = {"dit": "transformer", "unet": "U-Net with attention over time"}
NAMES = {"unet": "U-Net with attention over time", "unet-stacked": "U-Net over stacked frames"}
SETTLED = 8
"""Dreamt frames after which errors are drawn over minutes of training."""


def pictures(results: Mapping[str, Any]) -> dict[str, bytes]:
    """Return all pictures that the results have numbers for, as PNG by file name."""
    drawn = {"verdict.png": verdict_figure(results), "minutes.png": minutes_figure(results)}
    drawn |= {claim_file(code): claim_figure(results, code) for code, arm in results["arms"].items() if arm["values"]}
    if results["scaling"] is not None:
        drawn["scaling.png"] = scaling_figure(results["scaling"])
    return drawn


def claim_file(code: str) -> str:
    """Return the file name of a claim's picture."""
    return f"claim-{code}.png"


def claim_figure(results: Mapping[str, Any], code: str) -> bytes:
    """Draw every training of every arm on one line an arm, with the arm's mean, for one claim, as PNG."""
    arm = results["arms"][code]
    words = [
        f"{one[code]['outcome']} against the {NAMES[rival]}" for rival, one in results["answers"].items() if code in one
    ]
    drawn = Figure(figsize=(7.2, 1.3 + 0.34 * len(arm["values"])), layout="constrained")
    axis = drawn.subplots()
    for row, (name, each) in enumerate(arm["values"].items()):
        ink = _ink(name)
        axis.scatter(each, [row] * len(each), color=ink, alpha=0.6, s=22)
        axis.plot([np.mean(each)] * 2, [row - 0.3, row + 0.3], color=ink, linewidth=2)
    if arm["unit"] == "skill":
        axis.axvline(0, color="0.5", linewidth=0.8)
    axis.set_yticks(range(len(arm["values"])), list(arm["values"]), fontsize=8)
    axis.set_ylim(len(arm["values"]) - 0.5, -0.5)
    axis.set_xlabel(arm["unit"] + (", less is better" if arm["sign"] < 0 else ""), fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title("\n".join([f"{code} {arm['claim']}", *words]), fontsize=9, loc="left")
    return _png(drawn)


def minutes_figure(results: Mapping[str, Any]) -> bytes:
    """Draw the error of held-out dreams over minutes of training, a point a finished training of any size, as PNG."""
    drawn = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = drawn.subplots()
    named: set[str] = set()
    for name, one in results["trainings"].items():
        size = name.rpartition("-")[0]
        error = one["validation"].get(f"error_{SETTLED}")
        if error is None or not one["minutes"]:
            continue
        label = None if size in named else size
        named.add(size)
        marker = "o" if "unet" not in size else "^" if "stacked" in size else "s"
        small = not name.rpartition("-")[2].startswith("seed")
        axis.scatter(
            one["minutes"], error, marker=marker, color=_ink(size), label=label, s=16 if small else 44, alpha=0.8
        )
    _logarithmic(axis)
    axis.set(xlabel="minutes of training", ylabel=f"error of held-out dreams after {SETTLED} frames")
    axis.set_title("One point a training with a decay of its own; small ones are those of the ladder.", fontsize=9)
    if named:
        axis.legend(fontsize=7)
    return _png(drawn)


def _logarithmic(axis: Axes) -> None:
    """Scale both directions by logarithms, with plain numbers beside them."""
    axis.set(xscale="log", yscale="log")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        one.set_major_formatter(StrMethodFormatter("{x:g}"))
        one.set_minor_formatter(NullFormatter())


def _ink(arm: str) -> str:
    """Return the colour of an arm; rungs of the ladder have that of the arm they are small forms of."""
    place = 0 if "unet" not in arm else 4 if "stacked" in arm else 2
    return f"C{place + arm.endswith('-flops')}"


def verdict_figure(results: Mapping[str, Any]) -> bytes:
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
    _logarithmic(axis)
    axis.set(xlabel="operations of training, Tflop", ylabel="error of held-out dreams")
    axis.set_title("Filled: none with less compute is better. Star: measured, not fitted.", fontsize=9)
    axis.legend(fontsize=8)
    return _png(drawn)


def _png(drawn: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
