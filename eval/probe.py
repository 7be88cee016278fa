"""`worldsim probe`: physics probes of any predictor against the true world.

For every family of scenes the model and all rows beside it are asked the same questions (`worldsim.eval.lab`), read by
the same read-outs and scored alike. Writes ``results.json``, ``report.md``, the scores of every scene (``scenes.npz``) and
film strips chosen by rule.
"""

from __future__ import annotations

import dataclasses
import io
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.envs.workers import number_of_workers
from worldsim.errors import UsageError
from worldsim.eval.expectation import SurpriseScorer
from worldsim.eval.expectation_probe import CODES, NETWORKS, PREFIX, QUADRUPLETS, Study, chosen_concepts, expectation
from worldsim.eval.families import PROTOCOL, SPLITS, Family, Scores
from worldsim.eval.fidelity import CODES as FIDELITY_CODES
from worldsim.eval.fidelity import PREFIX as FIDELITY
from worldsim.eval.fidelity import STARTS, fidelity
from worldsim.eval.lab import PROBE_SEED, Lab, world_of
from worldsim.eval.ledger import enter
from worldsim.eval.parts import Parts, weights_hash
from worldsim.eval.permanence_memory import memory
from worldsim.eval.predictors import Predictor, load_predictor
from worldsim.eval.probe_page import page
from worldsim.eval.probe_report import markdown
from worldsim.eval.probe_strips import frames_by_rule, save_strips
from worldsim.eval.probe_tables import Measured, family_table
from worldsim.eval.reading import MAIN, read_all_ways
from worldsim.eval.references import References
from worldsim.eval.registry import FAMILIES, SCENES, chosen
from worldsim.eval.rows import MODEL
from worldsim.eval.selftest_record import record
from worldsim.eval.truths import Truths, code_hash
from worldsim.provenance import provenance, write_json
from worldsim.storage import write_atomically
from worldsim.world_model import WorldModel

ALL = "all"
"""Calls every family and every concept."""


def probe(
    predictor: str | os.PathLike[str] = "arena-small",
    out: str | os.PathLike[str] = "runs/probe",
    tier: str = "smoke",
    family: Sequence[str] | str | None = None,
    *,
    split: str = "dev",
    truth: str | os.PathLike[str] = "runs/probe-truth",
    workers: int | None = None,
    scenes: int | None = None,
) -> dict[str, Any]:
    """Probe what a predictor knows of the physics of the Arena, and write the report into the folder ``out``.

    Args:
        predictor: an embedded name, a checkpoint or run folder, or ``package.module:Class`` (`worldsim.eval.predictors`).
        out: folder for ``results.json``, ``report.*``, ``scenes.npz`` and ``strip_*.png``; files of these names are replaced.
        tier: how many scenes of each family: smoke 8 (of some families), standard 64, full 512.
        family: which families of scenes, separated by commas; None for those of the tier, "all" for all of any tier.
            Concepts of the violation of expectation are called P8-persistence and so on; P7-reach and P7-push ask
            whether policies rank in the dream as they rank in truth, and are asked only when they are called.
        split: "dev" while anything is still being chosen; "test" once, for a finished model.
        truth: folder that keeps the true scenes for further models.
        workers: processes for the true world; None for one per core, of the machine or the cluster.
        scenes: how many scenes of each family instead of the tier's, for a first look at a few (not on the test split).

    On a cluster (`worldsim.envs.cluster.on_cluster`) scores are the same to the bit; all machines must find the predictor.
    Interrupted, the same command goes on where it stopped: finished parts lie in a hidden folder inside ``out``.

    Returns what is written to ``results.json``; UsageError for unknown names, and for predictors that answer wrongly.
    """
    started = time.perf_counter()
    families, concepts, tasks = called(family, tier)
    asked = load_predictor(str(predictor))
    _check_scenes(split, scenes)
    _check(asked, (concepts, tasks) if family not in (None, ALL) else ((), ()))
    origin = provenance(seed=PROBE_SEED)
    weights = _fingerprint(asked, str(predictor))
    key = {"predictor": weights, "tier": tier, "split": split, "scenes": code_hash(), "number": scenes}
    parts = Parts(Path(out), {**key, "code": [origin["commit"], origin["dirty"], origin["versions"]]})
    run = _Run(
        predictor=str(predictor), tier=tier, number=scenes or SCENES[tier], out=Path(out), parts=parts,
        truths=Truths(Path(truth), world_of(asked), split, number_of_workers(workers)),
    )  # fmt: skip
    with tqdm(total=3 * len(families), desc="probe", unit="part") as bar:
        scored = {one.code: run.measure(one, bar) for one in families}
        ranked = fidelity(asked, tasks, STARTS[tier], parts, bar)
        expected = run.expectation(concepts, bar)
    measured = {code: one for code, (one, _) in scored.items()}
    results = {
        "command": "probe", "predictor": str(predictor), "protocol": PROTOCOL, "scenes_hash": code_hash(),
        "weights": weights, "tier": tier, "scenes_of_each": scenes, "split": split, **origin,
        "families": {one.code: family_table(one, measured[one.code]) | {"strips": scored[one.code][1]} for one in families},
        "memory": memory({code: one.scores for code, one in measured.items()}), "fidelity": ranked, "expectation": expected,
        "selftest": {"families": record()}, "earlier_test_evaluations": 0, "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    if split == "test":
        results["earlier_test_evaluations"] = enter(Path(truth), results)
    _write(Path(out), results, measured)
    parts.clear()
    return results


def _check(asked: Predictor, wanted: tuple[Sequence[str], Sequence[str]]) -> None:
    """Raise UsageError for concepts and tasks called by name that a predictor cannot answer."""
    concepts, tasks = wanted
    kind, fix = type(asked).__name__, "call other families; docs/your-model.md says what each of them asks"
    if concepts and not isinstance(asked, SurpriseScorer):
        needed = "a predictor with surprise(frames, actions, seeds)"
        raise UsageError("family", got=f"{PREFIX}{concepts[0]} of {kind}", allowed=needed, fix=fix)
    if tasks and not isinstance(asked, WorldModel):
        needed = "a checkpoint of worldsim, whose dreams tell reward and state"
        raise UsageError("family", got=f"{FIDELITY}{tasks[0]} of {kind}", allowed=needed, fix=fix)


def _check_scenes(split: str, scenes: int | None) -> None:
    """Raise UsageError for an unknown split, for too few scenes, and for a number chosen on the split of finished models."""
    if split not in SPLITS:
        raise UsageError("split", got=repr(split), allowed=" or ".join(SPLITS), fix="dev, until the model is finished")
    if scenes is not None and scenes < 2:
        raise UsageError("scenes", got=str(scenes), allowed="2 or more", fix="leave it out for those of the tier")
    if scenes is not None and split == "test":
        raise UsageError("scenes", got=f"{scenes} of the test split", allowed="the tier's", fix="choose a --tier")


def _write(out: Path, results: Mapping[str, Any], measured: Mapping[str, Measured]) -> None:
    """Write the numbers and the reports; of the strips, which are there already, the page takes copies."""
    _save_columns(out / "scenes.npz", measured)
    write_json(out / "results.json", results)
    write_atomically(out / "report.md", markdown(results).encode())
    write_atomically(out / "report.html", page(results, out).encode())


def called(codes: Sequence[str] | str | None, tier: str) -> tuple[list[Family], tuple[str, ...], tuple[str, ...]]:
    """Return the families, the concepts of expectation and the tasks of fidelity called by ``codes``, or the tier's."""
    wanted = codes.split(",") if isinstance(codes, str) else codes
    if wanted == [ALL]:
        wanted = [*FAMILIES, *CODES, *FIDELITY_CODES]
    tasks = tuple(code.removeprefix(FIDELITY) for code in wanted or () if code in FIDELITY_CODES)
    others = wanted and [code for code in wanted if code not in FIDELITY_CODES]
    if tasks and not others:
        return [], (), tasks
    concepts = chosen_concepts(others, tier)
    scenes = others and [code for code in others if not code.startswith(PREFIX)]
    return [] if concepts and scenes == [] else chosen(scenes, tier), concepts, tasks


def _save_columns(path: Path, measured: Mapping[str, Measured]) -> None:
    """Write every row's per-scene columns, named family/row/column, for whoever wants to reckon otherwise."""
    columns: dict[str, Any] = {
        f"{code}/{row}/{name}": column
        for code, one in measured.items()
        for row, scores in one.scores.items()
        for name, column in scores.columns.items()
    }
    content = io.BytesIO()
    np.savez_compressed(content, **columns)
    write_atomically(path, content.getvalue())


def _fingerprint(predictor: Predictor, name: str) -> str:
    """Return what tells predictors apart: the weights of ours, the name of others'."""
    return weights_hash(predictor) if isinstance(predictor, WorldModel) else name


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What all parts of a run of probes share."""

    predictor: str
    tier: str
    number: int
    out: Path
    truths: Truths
    parts: Parts

    def measure(self, family: Family, bar: tqdm[Any]) -> tuple[Measured, dict[str, str]]:
        """Return the scores of a family's rows and the file names of its strips, which are saved."""
        bar.set_postfix_str(family.code)
        truths = self.truths
        scenes = truths.scenes(family, min(self.number, family.most_scenes or self.number))
        bar.update()
        shared = {"spec": truths.spec, "workers": truths.workers}
        references = References(folder=truths.folder, split=truths.split, **shared)
        beside = references.scores(family, scenes)
        bar.update()
        lab = Lab(predictor=self.predictor, samples=family.samples if self.tier != "smoke" else 1, **shared)

        fresh = references.of_untrained(family, scenes, lab.untrained)

        def ask_and_read() -> tuple[dict[str, dict[str, Scores]], dict[str, Any]]:
            asked = lab.rows(scenes)
            own = read_all_ways(family, scenes, asked, lab.workers)
            return own, frames_by_rule({**beside[MAIN], **own[MAIN]}, scenes, asked, lab.spec)

        own, shown = self.parts.get(f"{family.code}_scores", ask_and_read)
        bar.update()
        measured = Measured(
            family=family.code, by_reader={name: {**beside[name], **fresh.get(name, {}), **own[name]} for name in own}
        )
        return measured, save_strips(self.out, family, scenes, measured.scores[MODEL], shown)

    def expectation(self, concepts: tuple[str, ...], bar: tqdm[Any]) -> dict[str, Any] | None:
        """Return what the predictor is surprised by."""
        bar.set_postfix_str("expectation" if concepts else "")
        study = Study(
            concepts=concepts, quadruplets=QUADRUPLETS[self.tier], networks=NETWORKS[self.tier], split=self.truths.split,
            truth=self.truths.folder, parts=self.parts, workers=self.truths.workers,
        )  # fmt: skip
        return expectation(self.predictor, self.truths.spec, study, bar)
