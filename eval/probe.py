"""`worldsim probe`: physics probes of any predictor against the true world.

For every family of scenes the model and all rows beside it are asked the same questions (`worldsim.eval.lab`), read by
the same read-outs and scored alike. Writes ``results.json``, ``report.md``, the scores of every scene (``scenes.npz``) and
film strips chosen by rule.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from worldsim.errors import UsageError
from worldsim.eval.families import PROTOCOL, SPLITS, Family
from worldsim.eval.lab import MODEL, PROBE_SEED, READERS, Lab, Rows, score_rows, world_of
from worldsim.eval.parts import Parts, weights_hash
from worldsim.eval.predictors import Predictor, load_predictor
from worldsim.eval.probe_report import markdown
from worldsim.eval.probe_strips import frames_by_rule, save_strips
from worldsim.eval.probe_tables import Measured, family_table
from worldsim.eval.registry import SCENES, chosen
from worldsim.eval.truths import Truths, code_hash
from worldsim.provenance import provenance, write_json
from worldsim.world_model import WorldModel


def probe(
    predictor: str | os.PathLike[str] = "arena-small",
    out: str | os.PathLike[str] = "runs/probe",
    tier: str = "smoke",
    family: Sequence[str] | None = None,
    *,
    split: str = "dev",
    truth: str | os.PathLike[str] = "runs/probe-truth",
    workers: int | None = None,
) -> dict[str, Any]:
    """Probe what a predictor knows of the physics of the Arena, and write the report into the folder ``out``.

    Args:
        predictor: an embedded name, a checkpoint or run folder, or ``package.module:Class`` (`worldsim.eval.predictors`).
        out: folder for ``results.json``, ``report.md``, ``scenes.npz`` and ``strip_*.png``; files of
            these names are replaced.
        tier: how many scenes of each family: smoke 8 (of some families), standard 64, full 512.
        family: which families of scenes; None for those of the tier.
        split: "dev" while anything is still being chosen; "test" once, for a finished model.
        truth: folder that keeps the true scenes for further models.
        workers: processes for the true world; None for one per core.

    Finished parts are kept in a hidden folder inside ``out`` until the report is written: run the same command again
    after an interruption and it goes on where it stopped.

    Returns what is written to ``results.json``; UsageError for unknown tiers, families or splits, and for predictors
    that answer wrongly.

    """
    started = time.perf_counter()
    families = chosen(family, tier)
    if split not in SPLITS:
        raise UsageError("split", got=repr(split), allowed=" or ".join(SPLITS), fix="dev, until the model is finished")
    asked = load_predictor(str(predictor))
    spec = world_of(asked)
    origin = provenance(seed=PROBE_SEED)
    key = {"predictor": _fingerprint(asked, str(predictor)), "tier": tier, "split": split, "scenes": code_hash()}
    parts = Parts(Path(out), {**key, "code": [origin["commit"], origin["dirty"], origin["versions"]]})
    count = workers or joblib.cpu_count()
    truths = Truths(Path(truth), spec, split, count)
    tables: dict[str, Any] = {}
    columns: dict[str, np.ndarray] = {}
    with tqdm(total=3 * len(families), desc="probe", unit="part") as bar:
        for one in families:
            bar.set_postfix_str(one.code)
            lab = Lab(predictor=str(predictor), spec=spec, workers=count, samples=one.samples if tier != "smoke" else 1)
            tables[one.code], scored = _measure(lab, one, SCENES[tier], truths, parts, Path(out), bar)
            columns |= {f"{one.code}/{row}/{name}": column for row, name, column in scored}
    results = {
        "command": "probe", "predictor": str(predictor), "protocol": PROTOCOL, "scenes_hash": code_hash(),
        "weights": key["predictor"], "tier": tier, "split": split, **origin, "families": tables,
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    _save_columns(Path(out) / "scenes.npz", columns)
    write_json(Path(out) / "results.json", results)
    (Path(out) / "report.md").write_text(markdown(results), encoding="utf-8")
    parts.clear()
    return results


def _save_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write every row's per-scene columns, named family/row/column, for whoever wants to reckon otherwise."""
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez_compressed(temporary, allow_pickle=False, **columns)
    temporary.replace(path)


def _fingerprint(predictor: Predictor, name: str) -> str:
    """Return what tells predictors apart: the weights of ours, the name of others'."""
    return weights_hash(predictor) if isinstance(predictor, WorldModel) else name


def _measure(
    lab: Lab, family: Family, count: int, truths: Truths, parts: Parts, out: Path, bar: tqdm[Any]
) -> tuple[dict[str, Any], list[tuple[str, str, np.ndarray]]]:
    """Return the table of a family and every row's columns, and save its strips."""
    scenes = truths.scenes(family, min(count, family.most_scenes or count))
    bar.update()
    made: Rows = {}

    def measure() -> tuple[Measured, dict[str, Any]]:
        made.update(lab.rows(family, scenes))
        bar.update()
        scored = {name: score_rows(family, scenes, made, name, lab.workers) for name in READERS}
        measured = Measured(family=family.code, by_reader=scored)
        return measured, frames_by_rule(measured.scores[MODEL], made)

    measured, shown = parts.get(f"{family.code}_scores", measure)
    bar.update(1 if made else 2)
    strips = save_strips(out, family, scenes, measured.scores[MODEL], shown)
    columns = [
        (row, name, column) for row, scores in measured.scores.items() for name, column in scores.columns.items()
    ]
    return {**family_table(family, measured), "strips": strips}, columns
