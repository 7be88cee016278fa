"""The demo: truth and dream side by side in a few staged scenes, as one web page that needs nothing else.

Both start from the same lead-in and get the same scripted actions. Knows no training; measures only what it shows.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from worldsim.envs.state import body_slots
from worldsim.eval.clips import above_one_another, enlarged, side_by_side, webp
from worldsim.eval.colours import read_colours
from worldsim.eval.figures import data_uri, error_curves
from worldsim.eval.longrun import VISIBLE
from worldsim.eval.pixels import PixelErrors, copy_last, pixel_errors
from worldsim.eval.showcase import SHOWCASE, showcase_scripts
from worldsim.eval.trials import Script, Truth, dream, rollout_of, simulate, stack_actions
from worldsim.metrics import moving_pixels
from worldsim.provenance import describe, provenance, write_json
from worldsim.storage import write_atomically
from worldsim.world_model import WorldModel, load

DEMO_FRAMES = 48
HORIZONS = (1, 8, 32)
READ_FRAMES = 5
"""Bodies are read by colour in so many last frames."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """Where the page is, what to tell people, and everything that was measured."""

    page: Path
    summary: str
    results: Mapping[str, Any]


def demo(
    checkpoint: str | os.PathLike[str] | WorldModel = "arena-small",
    out: str | os.PathLike[str] = "runs/demo",
    scenes: tuple[str, ...] = tuple(SHOWCASE),
    *,
    num_steps: int | None = None,
    frames: int = DEMO_FRAMES,
    device: str = "cpu",
) -> Demo:
    """Dream the staged ``scenes`` beside the truth; write ``index.html``, ``demo.webp`` and ``results.json`` to ``out``.

    Args:
        checkpoint: name, folder or model; its world must be the Arena.
        out: folder to write into.
        scenes: names from `worldsim.eval.showcase.SHOWCASE`.
        num_steps: sampler steps of a frame; None for the checkpoint's default.
        frames: length of each clip, at least as long as the longest horizon of the table.
        device: where the model runs.

    """
    started = time.perf_counter()
    frames = max(frames, max(HORIZONS))
    scripts = showcase_scripts(frames, tuple(scenes))
    model = checkpoint if isinstance(checkpoint, WorldModel) else load(checkpoint, device=device)
    rollout = rollout_of(model, num_steps)
    truth = simulate(model.spec, scripts)
    start = time.perf_counter()
    dreamt = dream(rollout, truth, stack_actions(scripts), seeds=[script.seed for script in scripts])
    dream_seconds = time.perf_counter() - start

    mask = moving_pixels(truth.frames, truth.last)
    errors = {
        "dream": pixel_errors(dreamt, truth.frames, mask),
        "copy_last": pixel_errors(copy_last(truth.last, frames), truth.frames, mask),
    }
    rows = [_row(script, scene, errors, truth, dreamt) for scene, script in enumerate(scripts)]
    name = "a model in memory" if isinstance(checkpoint, WorldModel) else str(checkpoint)
    results = {
        "command": "demo",
        "checkpoint": name,
        **provenance(seed=scripts[0].seed, device=model.device),
        "n": len(scripts),
        "num_steps": rollout.num_steps,
        "frames": frames,
        "scenes": rows,
        "all_scenes": _overall(errors),
        "dream_frames_per_second": round(dreamt.shape[0] * dreamt.shape[1] / dream_seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    folder = Path(out)
    cards = [
        _card(model, row, script, i, truth, dreamt, errors)
        for i, (row, script) in enumerate(zip(rows, scripts, strict=True))
    ]
    page = folder / "index.html"
    write_atomically(page, _render(results, cards).encode())
    write_atomically(folder / "demo.webp", _picture(truth, dreamt, round(1000 / model.spec.frame_rate_hz)))
    write_json(folder / "results.json", results)
    return Demo(page=page, summary=_summary(results, page), results=results)


def _row(
    script: Script, scene: int, errors: Mapping[str, PixelErrors], truth: Truth, dreamt: np.ndarray
) -> dict[str, Any]:
    """Measure one scene: errors at the horizons, and bodies still readable in the last frames."""
    late = slice(-READ_FRAMES, None)
    visible = (body_slots(truth.states[scene, late], "present") > 0.5) & (truth.visibility[scene, late] >= VISIBLE)
    read = read_colours(dreamt[scene, late]).found & visible
    return {
        "scene": script.label,
        "seed": script.seed,
        "error": {str(h): {key: _at(e, scene, h) for key, e in errors.items()} for h in HORIZONS},
        "bodies_visible": int(visible.sum()),
        "bodies_read": int(read.sum()),
    }


def _at(errors: PixelErrors, scene: int, horizon: int) -> float | None:
    """Return the error at one frame; None where nothing moves."""
    count = errors.count[scene, horizon - 1]
    return float(errors.total[scene, horizon - 1] / count) if count else None


def _overall(errors: Mapping[str, PixelErrors]) -> dict[str, dict[str, float | None]]:
    """Return the errors at the horizons with the moving pixels of all scenes pooled."""
    pooled = {
        key: PixelErrors(total=e.total.sum(axis=0, keepdims=True), count=e.count.sum(axis=0, keepdims=True))
        for key, e in errors.items()
    }
    return {str(h): {key: _at(e, 0, h) for key, e in pooled.items()} for h in HORIZONS}


def _card(
    model: WorldModel,
    row: Mapping[str, Any],
    script: Script,
    scene: int,
    truth: Truth,
    dreamt: np.ndarray,
    errors: Mapping[str, PixelErrors],
) -> dict[str, Any]:
    """Return what the page shows of one scene: clip, curves, words."""
    last, rate = truth.last[scene][None], model.spec.frame_rate_hz
    clips = [np.concatenate([last, truth.frames[scene]]), np.concatenate([last, dreamt[scene]])]
    clip = webp(side_by_side(clips), frame_ms=round(1000 / rate))
    curves = {key: e.rows(slice(scene, scene + 1)).curve() for key, e in errors.items()}
    return {
        **row,
        "title": SHOWCASE[script.label].title,
        "watch": SHOWCASE[script.label].watch,
        "clip": data_uri(clip, "image/webp"),
        "curves": error_curves(curves, script.actions, model.spec.action_names, frame_rate_hz=rate, name=script.label),
    }


def _picture(truth: Truth, dreamt: np.ndarray, frame_ms: int) -> bytes:
    """Return all scenes in one moving picture, doubled in size: truths in the upper row, dreams in the lower."""
    upper = np.concatenate([truth.last[:, None], truth.frames], axis=1)
    lower = np.concatenate([truth.last[:, None], dreamt], axis=1)
    rows = above_one_another([side_by_side(list(upper)), side_by_side(list(lower))])
    return webp(enlarged(rows, 2), frame_ms=frame_ms)


def _render(results: Mapping[str, Any], cards: list[dict[str, Any]]) -> str:
    """Fill the page's template."""
    text = importlib.resources.files("worldsim.eval").joinpath("templates/demo.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = lambda value: "-" if value is None else f"{value:.3f}"
    return environment.from_string(text).render(
        results=results, cards=cards, horizons=HORIZONS, read_frames=READ_FRAMES, origin=describe(results)
    )


def _summary(results: Mapping[str, Any], page: Path) -> str:
    """Return a few lines for the terminal: where to look, and what the numbers mean."""
    lines = [
        f"Truth and dream side by side in {results['n']} scenes: open {page} in a browser.",
        "Error on moving pixels (squared, black -1, white 1; lower is better), all scenes pooled:",
        "  frames after the context      " + "".join(f"{h:>8}" for h in HORIZONS),
    ]
    for key, label in (("dream", "the dream"), ("copy_last", "copying the last frame")):
        values = [results["all_scenes"][str(h)][key] for h in HORIZONS]
        lines.append(f"  {label:<30}" + "".join(f"{'-' if v is None else format(v, '.3f'):>8}" for v in values))
    visible = sum(row["bodies_visible"] for row in results["scenes"])
    read = sum(row["bodies_read"] for row in results["scenes"])
    lines += [
        f"Bodies that can still be read by colour in the last {READ_FRAMES} frames: {read} of {visible}.",
        f"Dreamt at {results['dream_frames_per_second']:g} frames/s in a batch of {results['n']}, {results['num_steps']} "
        + f"sampler steps a frame; {results['seconds']:g} s in all.",
        f"All numbers: {page.parent / 'results.json'}. {describe(results)}",
    ]
    return "\n".join(lines)
