"""`worldsim compare`: transformer and U-Nets trained alike, probed alike, and the article's claims answered in fixed words.

Arms are matched in two ways, by parameters and by operations, at the same number of steps on the same clips. Everything
that is finished is kept: a killed comparison goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldsim.envs.record import record
from worldsim.envs.workers import LOCAL, backend_in_use, number_of_workers
from worldsim.errors import UsageError
from worldsim.eval.comparison_figures import pictures
from worldsim.eval.comparison_ladder import scaling
from worldsim.eval.comparison_plan import MATCHINGS, RIVALS, Plan, Trial, ladder_of, read_plan, searches_of, trials_of
from worldsim.eval.comparison_report import markdown
from worldsim.eval.comparison_scores import Probed, asked, contrast, values
from worldsim.eval.comparison_trainings import Trainings, best_rates
from worldsim.eval.hypotheses import HYPOTHESES, NOT_TESTED, Contrast, Hypothesis, holm, outcome
from worldsim.eval.other_sizes import skill_at_sizes
from worldsim.eval.probe import probe
from worldsim.eval.sizes import presets
from worldsim.provenance import provenance, write_json
from worldsim.storage import write_atomically
from worldsim.world_model import load

RECORDED = "worldsim/Arena-v0"
Ladder = Mapping[str, Sequence[Trial]]


def compare(
    plan: str = "quick",
    out: str | os.PathLike[str] = "runs/compare",
    data: str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Train a transformer and U-Nets alike, probe them alike, and say which of the article's claims hold.

    Args:
        plan: "quick" (minutes: the whole path, no conclusions), "nano" (hours), or a JSON file with fields of `Plan`.
        out: folder for the trainings, the probes, ``results.json``, ``report.md`` and its pictures.
        data: recording to train on; by default the Arena is recorded into ``out``.
        workers: trainings at a time, each in a process of its own with its share of the cores; on two cores 2 takes less
            time than 1, but minutes of training are then those beside another. None: one here, all that a cluster has there.

    Finished trainings and probes are kept: run the same command again after an interruption and it goes on. All arms are
    trained and probed with one seed after the other, and the report of those that are done is there after each. What has been
    probed needs its weights no more: ``out`` without ``runs`` can be taken to another machine, and goes on there. Inside ``with
    worldsim.envs.cluster.on_cluster(...)`` recording, trainings and probes work in a cluster's processes, and ``out`` must be
    a folder that all its machines see under the same path.

    Returns what is written to ``results.json``; UsageError for unknown plans and for folders of another plan.
    """
    started = time.perf_counter()
    chosen, folder = read_plan(plan), Path(out)
    at_once = number_of_workers(1 if workers is None and backend_in_use() == LOCAL else workers)
    settings = json.loads(json.dumps(dataclasses.asdict(chosen)))
    _claim(folder, {"plan": settings, "data": data})
    recording = Path(data) if data is not None else _recorded(folder / "recording", chosen)
    trainings = Trainings(plan=chosen, recording=recording, folder=folder, workers=at_once)
    searches, trials, ladder = searches_of(chosen), trials_of(chosen), ladder_of(chosen)
    probed: dict[str, Probed] = {}

    def written(done: int) -> dict[str, Any]:
        known = {"plan": settings, "data": data, "rates_tried": tried, "trainings_an_arm": done}
        before_all = {} if done < chosen.seeds else ladder
        results = known | _results(dataclasses.replace(chosen, seeds=done), trainings, probed, before_all)
        results["seconds"] = round(time.perf_counter() - started, 1)
        _write(folder, results)
        return results

    parts = len(searches) + 2 * len(trials) + sum(map(len, ladder.values()))
    with tqdm(total=parts, desc="compare", unit="part") as bar:
        trainings.finish(searches, bar)
        tried = trainings.tried(searches)
        rates = best_rates(chosen, tried)
        for done, some in rounds(chosen, trials, at_once):
            _probe_all(trainings, [dataclasses.replace(trial, rate=rates[trial.preset]) for trial in some], probed, bar)
            if done < chosen.seeds:
                written(done)
        rungs = [dataclasses.replace(trial, rate=rates[chosen.base + end]) for end in ladder for trial in ladder[end]]
        trainings.finish(rungs, bar)
    return written(chosen.seeds)


def rounds(plan: Plan, trials: Sequence[Trial], at_once: int) -> Iterator[tuple[int, list[Trial]]]:
    """Yield trainings that are finished and probed before the next are begun, with the number of seeds done by then.

    A seed at a time, so that there is soon something to look at; more where so many trainings can run at once.
    """
    seeds = -(-at_once // len(plan.arms))
    for first in range(0, plan.seeds, seeds):
        done = min(first + seeds, plan.seeds)
        yield done, [trial for trial in trials if first <= trial.seed < done]


def _probe_all(trainings: Trainings, trials: Sequence[Trial], probed: dict[str, Probed], bar: tqdm[Any]) -> None:
    """Train and probe ``trials``, but for what is there, and add what the probes said; ``bar`` moves twice with each."""
    there = [trial for trial in trials if trainings.record(trial) and _is_probed(trainings.folder, trial)]
    bar.update(len(there))
    trainings.finish([trial for trial in trials if trial not in there], bar, weights=True)
    for trial in trials:
        bar.set_postfix_str(f"probing {trial.name}")
        probed[trial.name] = _probed(trainings, trial)
        bar.update()


def _results(plan: Plan, trainings: Trainings, probed: Mapping[str, Probed], ladder: Ladder) -> dict[str, Any]:
    """Return what is known once all seeds of ``plan`` are probed, and all of ``ladder`` is trained."""
    trials = [*trials_of(plan), *(trial for rungs in ladder.values() for trial in rungs)]
    records = {trial.name: trainings.record(trial) for trial in trials}
    sizes = presets(list(dict.fromkeys(trial.preset for trial in trials)))
    mflop = {name: size["training_mflop"] for name, size in sizes.items()}
    return {
        "command": "compare", **provenance(seed=0), "sizes": sizes, "trainings": records,
        "scaling": scaling(plan, ladder, records, mflop) if ladder else None,
        **answers(plan, probed), "not_tested": dict(NOT_TESTED),
    }  # fmt: skip


def _write(folder: Path, results: dict[str, Any]) -> None:
    """Write results, pictures and the report."""
    for name, picture in pictures(results).items():
        write_atomically(folder / name, picture)
    write_json(folder / "results.json", results)
    write_atomically(folder / "report.md", markdown(results).encode())


def answers(plan: Plan, probed: Mapping[str, Probed]) -> dict[str, Any]:
    """Return every hypothesis with its numbers and its word, against each rival."""

    def arm(name: str) -> list[Probed]:
        return [probed[trial.name] for trial in trials_of(plan) if trial.preset == name]

    said: dict[str, Any] = {}
    for rival in RIVALS:
        contrasts: dict[str, dict[str, Contrast]] = {}
        for hypothesis in HYPOTHESES:
            codes = asked(hypothesis, list(probed.values()))
            if codes:
                contrasts[hypothesis.code] = {
                    matching: contrast(hypothesis, codes, arm(plan.base), arm(f"{plan.base}-{rival}{suffix}"))
                    for matching, suffix in MATCHINGS.items()
                }
        said[rival] = _worded(contrasts)
    return {"answers": said, "arms": _arms(plan, arm, list(probed.values()))}


def _worded(contrasts: Mapping[str, Mapping[str, Contrast]]) -> dict[str, Any]:
    """Return contrasts as JSON with the outcome of each; p of a claim is its largest under any matching."""
    worst = {code: max(one.p for one in by.values()) for code, by in contrasts.items()}
    by_code = {one.code: one for one in HYPOTHESES}
    corrected = holm({code: p for code, p in worst.items() if by_code[code].primary})
    return {
        code: {
            "p": corrected.get(code, worst[code]),
            "outcome": outcome(by_code[code], list(by.values()), corrected.get(code, worst[code])),
            "contrasts": {
                matching: {**one.difference.to_json(), "p": one.p, "trainings": one.trainings, "method": one.method}
                for matching, one in by.items()
            },
        }
        for code, by in contrasts.items()
    }


def _arms(plan: Plan, arm: Callable[[str], list[Probed]], everyone: Sequence[Probed]) -> dict[str, Any]:
    """Return the number of every arm for every hypothesis, training by training."""

    def numbers(hypothesis: Hypothesis) -> dict[str, list[float]]:
        codes = asked(hypothesis, everyone)
        names = dict.fromkeys(trial.preset for trial in trials_of(plan))
        return {name: [float(x) for x in values(hypothesis, codes, arm(name))[0]] for name in names} if codes else {}

    return {
        one.code: {
            "claim": one.claim, "families": list(asked(one, everyone)), "unit": one.unit, "sign": one.sign,
            "primary": one.primary, "values": numbers(one),
        }
        for one in HYPOTHESES
    }  # fmt: skip


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write what the folder is for, or refuse it if it is another comparison's."""
    path = folder / "plan.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != identity:
            fix = f"give another folder with --out, or remove {folder}"
            raise UsageError("out", got=f"{folder}, a comparison of another plan", allowed="a new folder", fix=fix)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(identity))


def _recorded(folder: Path, plan: Plan) -> Path:
    record(RECORDED, out=folder, episodes=plan.episodes)
    return folder


def _is_probed(folder: Path, trial: Trial) -> bool:
    return all(path.is_file() for path in (_probe_folder(folder, trial) / "results.json", _sizes_file(folder, trial)))


def _probe_folder(folder: Path, trial: Trial) -> Path:
    return folder / "probes" / trial.name


def _sizes_file(folder: Path, trial: Trial) -> Path:
    return folder / "sizes" / f"{trial.name}.json"


def _probed(trainings: Trainings, trial: Trial) -> Probed:
    """Probe a trained model and dream at other frame sizes, or read what is there."""
    folder, plan, run = trainings.folder, trainings.plan, trainings.run(trial)
    out, sizes = _probe_folder(folder, trial), _sizes_file(folder, trial)
    if not (out / "results.json").is_file():
        probe(str(run), out, plan.tier, list(plan.families), truth=folder / "truth", scenes=plan.scenes)
    if not sizes.is_file():
        sizes.parent.mkdir(exist_ok=True)
        write_json(sizes, skill_at_sizes(load(run)))
    numbers = {**trainings.record(trial)["validation"], **json.loads(sizes.read_text(encoding="utf-8"))}
    return Probed.read(out, trial.seed, numbers)
