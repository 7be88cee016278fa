"""Figures of the probe report: errors over time, recall against hidden time, how far the hidden world went on. SVG text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from worldsim.eval.figures import COLOURS, RULE, TEXT, for_page, plain
from worldsim.eval.rows import LIMITED, MODEL, ORACLE

SIZE = 5.4, 2.5


def cost_curves(curves: Mapping[str, Sequence[float]], best_trivial: str, ylabel: str, name: str) -> str:
    """Draw the mean cost of each frame of the truth, physics begun from what can be read, the best trivial row, the model."""
    styles = {
        ORACLE: (TEXT, "-"), LIMITED: (TEXT, ":"), best_trivial: (COLOURS["copy_last"], "-"), MODEL: (COLOURS["dream"], "-"),
    }  # fmt: skip

    def draw(axes: Axes) -> None:
        for row, (colour, line) in styles.items():
            if row in curves:
                values = curves[row]
                axes.plot(np.arange(1, len(values) + 1), values, line, color=colour, linewidth=1.6, label=row)
        axes.set_ylim(0, None)
        axes.set_xlabel("frames after the context")
        axes.set_ylabel(ylabel)
        _legend(axes, 2)

    return _drawn(draw, name)


def recall_curves(memory: Mapping[str, Any], name: str) -> str:
    """Draw recall against hidden frames with 95 % intervals; what is called memory-reachable is shaded."""
    styles = {ORACLE: (TEXT, -0.2), LIMITED: (COLOURS["action"], 0.0), MODEL: (COLOURS["dream"], 0.2)}

    def draw(axes: Axes) -> None:
        first, last = memory["reachable_frames"]
        axes.axvspan(first, last + 1, color=RULE, alpha=0.35, linewidth=0)
        for row, (colour, shift) in styles.items():
            bins = memory["rows"][row]["by_hidden_frames"]
            middles = [one["from"] + 2 + shift for one in bins]
            values = np.array([one["value"] for one in bins])
            ends = np.array([[one["low"], one["high"]] for one in bins], dtype=float).T
            bars = np.where(
                np.isfinite(ends), np.abs(ends - values), 0.0
            )  # too few scenes for an interval: none is drawn
            axes.errorbar(middles, values, bars, fmt="o-", color=colour, linewidth=1.4, markersize=4, label=row)
        axes.set_ylim(-0.03, 1.05)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("frames hidden (shaded: within a model's reach)")
        axes.set_ylabel("recalled")
        _legend(axes, 3)

    return _drawn(draw, name)


def evolution(way_m: Float64[np.ndarray, " n"], went_m: Float64[np.ndarray, " n"], name: str) -> str:
    """Draw, scene by scene, how far the model let targets go while hidden against how far they went (both in m)."""

    def draw(axes: Axes) -> None:
        most = float(max(way_m.max(), 0.1))
        axes.plot([0, most], [0, most], color=TEXT, linewidth=1, label="the world went on")
        axes.plot([0, most], [0, 0], color=TEXT, linewidth=1, linestyle=":", label="it stood still")
        axes.plot(way_m, went_m, "o", color=COLOURS["dream"], markersize=4, alpha=0.7, label=MODEL)
        axes.set_xlabel("true way while hidden, m")
        axes.set_ylabel("the model's, m")
        _legend(axes, 2)

    return _drawn(draw, name)


def returns_scatter(policies: Mapping[str, Mapping[str, float]], name: str) -> str:
    """Draw every policy's dreamt against its real return (mean reward a step), and what is read of real frames."""
    real, read, dreamt = (np.array([one[way] for one in policies.values()]) for way in ("real", "read", "dreamt"))

    def draw(axes: Axes) -> None:
        least, most = (float(edge([real, read, dreamt])) for edge in (np.min, np.max))
        axes.plot([least, most], [least, most], color=TEXT, linewidth=1, label="right")
        axes.plot(real, read, "o", color=TEXT, markersize=3, alpha=0.5, label="read off true frames")
        axes.plot(real, dreamt, "o", color=COLOURS["dream"], markersize=5, alpha=0.8, label="dreamt")
        axes.set_xlabel("real return of a policy, reward a step")
        axes.set_ylabel("judged")
        _legend(axes, 3)

    return _drawn(draw, name)


def _legend(axes: Axes, columns: int) -> None:
    """Say above the curves, where it covers none, which is which."""
    axes.legend(frameon=False, fontsize=9, labelcolor=TEXT, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1))


def _drawn(draw: Any, name: str) -> str:
    """Return one SVG element in the page's colours."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11, "font.family": "sans-serif"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.grid(color=RULE, linewidth=0.6)
        draw(axes)
        plain(axes)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return for_page(buffer.getvalue(), name)
