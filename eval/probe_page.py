"""The probe report as one self-contained HTML page: verdicts, why to trust them, then every family. Decides nothing.

``python -m worldsim.eval.probe_page runs/probe docs/results/arena-small/probe`` copies a report in a form that is light enough
to be committed: of the film strips only the median scenes', in few colours.

Outcomes and verdicts are printed as `worldsim.eval.probe_tables` words them. Only the bars of the first screen are
clipped, and say so.
"""

from __future__ import annotations

import importlib.resources
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from worldsim.eval.figures import data_uri
from worldsim.eval.probe_figures import cost_curves, evolution, recall_curves, returns_scatter
from worldsim.eval.probe_report import (
    FIDELITY,
    MEANING,
    agreement,
    expectation_rows,
    family_rows,
    few,
    fidelity_rows,
    half_life,
    markdown,
    notes,
)
from worldsim.eval.quality_report import number
from worldsim.eval.rows import LIMITED, MODEL
from worldsim.eval.selftest import picture
from worldsim.provenance import describe
from worldsim.storage import write_atomically

CLIP = (-0.5, 1.1)
"""Range of the bars of the first screen."""
ALWAYS_SHOWN = "median"
"""Strip of each family that is not folded away."""
FEW_COLOURS = 64
"""Colours of the strips of a light copy."""


def page(results: Mapping[str, Any], folder: Path) -> str:
    """Return the report of ``results`` as HTML; strips and per-scene columns are taken from the ``folder`` they lie in."""
    columns = _columns(folder / "scenes.npz")
    claims: dict[str, list[dict[str, Any]]] = {}
    for code, table in results["families"].items():
        claims.setdefault(table["claim"], []).append(_family(code, table, folder, columns))
    memory = results["memory"]
    tested = {code: one for code, one in results["selftest"]["families"].items() if code in results["families"]}
    text = importlib.resources.files("worldsim.eval").joinpath("templates/probe.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = lambda value: number(value, 2)
    return environment.from_string(text).render(
        results=results,
        claims=claims,
        meaning=MEANING,
        memory=memory,
        matrix=data_uri(picture(tested), "image/png") if tested else None,
        recall=None if memory is None else recall_curves(memory, "recall"),
        origin=describe(results),
        few=few(results),
        ticks={label: _percent(value) for label, value in (("best trivial row", 0.0), ("the truth", 1.0))},
        half_life=half_life,
        fidelity=_fidelity(results["fidelity"]),
        fidelity_meaning=FIDELITY,
        expectation=None if results["expectation"] is None else expectation_rows(results["expectation"]),
    )


def _fidelity(tables: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return what the page says of policies in truth and in the dream, task by task."""
    return [
        {
            "code": code,
            "title": one["title"],
            "starts": one["starts"],
            "table": fidelity_rows(one),
            "figure": returns_scatter(one["policies"], code),
        }
        for code, one in (tables or {}).items()
    ]


def _family(code: str, table: Mapping[str, Any], folder: Path, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what the page says of one family."""
    unit = table["error"]["unit"]
    strips = {rule: data_uri((folder / name).read_bytes(), "image/png") for rule, name in table["strips"].items()}
    way, went = (columns.get(f"{code}/{MODEL}/{name}") for name in ("way", "went"))
    header, rows = family_rows(table)
    return {
        "code": code,
        "id": code.lower(),
        "table": table,
        "bar": _bar(table),
        "shown": {rule: strip for rule, strip in strips.items() if rule == ALWAYS_SHOWN},
        "folded": {rule: strip for rule, strip in strips.items() if rule != ALWAYS_SHOWN},
        "curves": cost_curves(
            table["curves"], table["rows"][MODEL]["best_trivial"], f"error, {unit}" if unit else "squared error", code
        ),
        "evolution": evolution(way, went, f"{code}-way")
        if way is not None and went is not None and way.any()
        else None,
        "agreement": agreement(table),
        "notes": notes(table),
        "header": header,
        "rows": rows,
    }


def _bar(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return where the model's skill and its interval lie on the first screen, in percent; None where there is none."""
    skill = table["rows"][MODEL]["skill"]
    if skill is None or table["headline"] is not None:
        return None
    limited = table["rows"][LIMITED]["skill"]
    low, high = (CLIP[i] if skill[end] is None else skill[end] for i, end in enumerate(("low", "high")))
    return {
        "dot": _percent(skill["value"]),
        "low": _percent(low),
        "high": _percent(high),
        "limited": None if limited is None else _percent(limited["value"]),
        "clipped": skill["value"] < CLIP[0],
    }


def _percent(value: float) -> float:
    """Return where a skill lies within `CLIP`, 0 .. 100."""
    return round(100 * (min(max(value, CLIP[0]), CLIP[1]) - CLIP[0]) / (CLIP[1] - CLIP[0]), 2)


def _columns(path: Path) -> dict[str, np.ndarray]:
    """Return the per-scene columns of the model, or none where the file is not there."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files if f"/{MODEL}/" in name}


def light_copy(report: Path, out: Path) -> None:
    """Copy the report of a folder into ``out``: all numbers, and of the film strips the median scenes', in few colours."""
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    families = {
        code: table | {"strips": {rule: name for rule, name in table["strips"].items() if rule == ALWAYS_SHOWN}}
        for code, table in results["families"].items()
    }
    with tempfile.TemporaryDirectory() as folder:
        for table in families.values():
            for name in table["strips"].values():
                with Image.open(report / name) as strip:
                    strip.convert("RGB").quantize(FEW_COLOURS, dither=Image.Dither.NONE).save(Path(folder) / name)
        if (report / "scenes.npz").is_file():
            (Path(folder) / "scenes.npz").symlink_to((report / "scenes.npz").resolve())
        text = page(results | {"families": families}, Path(folder))
    bare = {code: table | {"strips": {}} for code, table in families.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "results.json", (report / "results.json").read_bytes())
    write_atomically(out / "report.md", markdown(results | {"families": bare}).encode())
    write_atomically(out / "report.html", text.encode())


if __name__ == "__main__":
    light_copy(Path(sys.argv[1]), Path(sys.argv[2]))
