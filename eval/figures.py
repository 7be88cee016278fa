"""Pictures for pages: error curves and heat maps as self-contained text. Knows no model and no world.

Curves are SVG whose colours are CSS variables of the page (``--dream``, ``--copy-last``, ``--rule``, current text colour),
so that one picture suits light and dark.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Float32
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

DARK = -0.3
"""Cells of a heat map below this are so red that they are written upon in white."""
TEXT, RULE = "#010101", "#010102"
COLOURS = {"dream": "#010103", "copy_last": "#010104", "action": "#010105"}
_CSS = {
    TEXT: "currentColor",
    RULE: "var(--rule)",
    **{stand_in: f"var(--{name.replace('_', '-')})" for name, stand_in in COLOURS.items()},
}


def data_uri(content: bytes, media_type: str) -> str:
    """Return content as a data URI, for pages that need no other file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def error_curves(
    curves: Mapping[str, Float[np.ndarray, " t"]],
    actions: Float32[np.ndarray, "t a"],
    action_names: Sequence[str],
    *,
    frame_rate_hz: float,
    name: str,
) -> str:
    """Draw errors over time (keys "dream" and "copy_last") above lanes of the actions in use; return one SVG element.

    ``name`` keeps the ids of several drawings on one page apart. NaN leaves a hole: nothing moves there.
    """
    used = [index for index in range(actions.shape[1]) if np.any(actions[:, index])]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11, "font.family": "sans-serif"}):
        figure = Figure(figsize=(4.6, 2.2 + 0.28 * len(used)))
        figure.patch.set_visible(False)
        ratios = [1.9, 0.28 * len(used)] if used else [1.9]
        axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        seconds = np.arange(1, len(actions) + 1) / frame_rate_hz
        for key, curve in curves.items():
            axes[0].plot(seconds, curve, color=COLOURS[key], linewidth=1.6)
        axes[0].set_ylim(0, None)
        axes[0].set_ylabel("error")
        axes[0].grid(color=RULE, linewidth=0.6)
        if used:
            _lanes(axes[1], actions[:, used], [action_names[index] for index in used], frame_rate_hz)
        axes[-1].set_xlabel("seconds dreamt")
        axes[-1].set_xlim(0, len(actions) / frame_rate_hz)
        for ax in axes:
            plain(ax)
        figure.subplots_adjust(left=0.25, right=0.985, top=0.97, bottom=0.5 / figure.get_figheight(), hspace=0.1)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return for_page(buffer.getvalue(), name)


def heat_map(
    cells: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    marks: Sequence[Sequence[str]],
) -> bytes:
    """Draw a matrix of skills, 0 red to 1 green, as PNG; None is left grey.

    ``marks`` says of each cell "target" (framed), "may" (plain) or "" (must not move: bold).
    """
    figure = Figure(figsize=(1.6 + 0.85 * len(columns), 1.0 + 0.3 * len(rows)))
    axes = figure.subplots()
    values = np.array([[np.nan if cell is None else cell for cell in row] for row in cells], dtype=np.float64)
    colours = mpl.colormaps["RdYlGn"].with_extremes(bad="0.85")
    axes.imshow(np.ma.masked_invalid(values), vmin=-0.5, vmax=1.25, cmap=colours, aspect="auto")
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            text = "" if cell is None else f"{cell:.2f}"
            weight = "bold" if marks[y][x] == "" else "normal"
            ink = "white" if cell is not None and cell < DARK else "black"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, weight=weight, color=ink)
            if marks[y][x] == "target":
                axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, fill=False, linewidth=1.3))
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xlabel("framed: must be noticed (at most .60); bold: must not move (within .05 of 1)", fontsize=8)
    figure.tight_layout()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _lanes(ax: Axes, actions: np.ndarray, names: Sequence[str], frame_rate_hz: float) -> None:
    """Draw one lane per action: how hard it is used, up for positive and down for negative."""
    edges = np.arange(len(actions) + 1) / frame_rate_hz
    for lane, column in enumerate(actions.T):
        ax.stairs(-lane + 0.45 * column, edges, baseline=-lane, fill=True, color=COLOURS["action"])
    ax.set_yticks([-lane for lane in range(len(names))], [name.replace("_", " ") for name in names])
    ax.set_ylim(-len(names) + 0.45, 0.55)


def plain(ax: Axes) -> None:
    """Take away box and ticks, and paint what is left in the page's colours."""
    ax.patch.set_visible(False)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)
    ax.tick_params(length=0, labelcolor=TEXT)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_color(TEXT)


def for_page(svg: str, name: str) -> str:
    """Return only the svg element, scalable, with ids of its own and the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]+", r"font: \1px system-ui, sans-serif", svg)
    for stand_in, colour in _CSS.items():
        svg = svg.replace(stand_in, colour)
    return svg
