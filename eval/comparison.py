"""`worldsim compare`: transformer and U-Nets trained alike, probed alike, and the article's claims answered in fixed words.

Arms are matched in two ways, by parameters and by operations, at the same number of steps on the same clips. Everything
that is finished is kept: a killed comparison goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldsim import checkpoint as checkpoints
from worldsim.config import preset
from worldsim.envs.record import record
from worldsim.errors import UsageError, suggestion
from worldsim.eval.comparison_report import figure, markdown
from worldsim.eval.comparison_scores import Probed, asked, contrast, values
from worldsim.eval.hypotheses import HYPOTHESES, NOT_TESTED, Contrast, Hypothesis, holm, outcome
from worldsim.eval.probe import called, probe
from worldsim.eval.sizes import presets
from worldsim.provenance import provenance, write_json
from worldsim.storage import write_atomically
from worldsim.train import TrainConfig, train

RIVALS = ("unet", "unet-stacked")
MATCHINGS = {"parameters": "", "operations": "-flops"}
"""How arms are matched, and what their presets are called."""
RECORDED = "worldsim/Arena-v0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a comparison trains, and how it asks. Saved with the results."""

    base: str = "nano"
    """Preset of the transformer; the U-Nets are those beside it."""
    seeds: int
    """Trainings of every arm. Below three nothing is known of how trainings differ; below five all is exploratory."""
    steps: int
    """Optimisation steps of every training."""
    episodes: int
    """Episodes recorded to train on, where no recording is given."""
    tier: str
    """Scenes a family, as in `worldsim probe`."""
    families: tuple[str, ...] = tuple(code for one in HYPOTHESES for code in one.families)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "episodes"):
            if getattr(self, name) < 1:
                raise UsageError(name, got=getattr(self, name), allowed="1 or more", fix=f"{name}: 3")
        for rival in RIVALS:
            preset(f"{self.base}-{rival}")
        called(self.families, self.tier)


PLANS = {
    "quick": Plan(
        seeds=1, steps=150, episodes=100, tier="smoke", families=("P1c", "P1d", "P2b", "P3-I1"),
        train=TrainConfig(clip_frames=(8, 16), clip_shares=(0.6, 0.4), validate_minutes=60.0),
    ),
    "nano": Plan(seeds=3, steps=4000, episodes=3000, tier="standard"),
}  # fmt: skip
"""`quick` takes minutes and shows the path; `nano` is the comparison, hours on two cores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of the comparison."""

    preset: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folders."""
        return f"{self.preset}-seed{self.seed}"


def compare(
    plan: str = "quick", out: str | os.PathLike[str] = "runs/compare", data: str | None = None
) -> dict[str, Any]:
    """Train a transformer and U-Nets alike, probe them alike, and say which of the article's claims hold.

    Args:
        plan: "quick" (minutes: the whole path, no conclusions), "nano" (hours), or a JSON file with fields of `Plan`.
        out: folder for the trainings, the probes, ``results.json``, ``report.md`` and ``verdict.png``.
        data: recording to train on; by default the Arena is recorded into ``out``.

    Finished trainings and probes are kept: run the same command again after an interruption and it goes on. Inside ``with
    worldsim.envs.cluster.on_cluster(...)`` recording and probes work in a cluster's processes, and ``out`` must be a folder
    that all its machines see under the same path; trainings stay on this machine.

    Returns what is written to ``results.json``; UsageError for unknown plans and for folders of another plan.

    """
    started = time.perf_counter()
    chosen, folder = read_plan(plan), Path(out)
    settings = json.loads(json.dumps(dataclasses.asdict(chosen)))
    _claim(folder, {"plan": settings, "data": data})
    recording = Path(data) if data is not None else _recorded(folder / "recording", chosen)
    trials = trials_of(chosen)
    probed: dict[str, Probed] = {}
    with tqdm(total=2 * len(trials), desc="compare", unit="part") as bar:
        for trial in trials:
            bar.set_postfix_str(f"training {trial.name}")
            run = _trained(folder / "runs" / trial.name, recording, chosen, trial)
            bar.update()
            bar.set_postfix_str(f"probing {trial.name}")
            probed[trial.name] = _probed(folder, run, chosen, trial)
            bar.update()
    records = {trial.name: _record(folder / "runs" / trial.name) for trial in trials}
    results = {
        "command": "compare", "plan": settings, "data": data, **provenance(seed=0),
        "sizes": presets(list(dict.fromkeys(trial.preset for trial in trials))),
        "trainings": records, **answers(chosen, probed), "not_tested": dict(NOT_TESTED),
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    write_atomically(folder / "verdict.png", figure(results))
    write_json(folder / "results.json", results)
    write_atomically(folder / "report.md", markdown(results).encode())
    return results


def read_plan(plan: str) -> Plan:
    """Return a plan by its name, or read from a JSON file; UsageError says what is wrong with it."""
    if plan in PLANS:
        return PLANS[plan]
    path, allowed = Path(plan), f"{', '.join(PLANS)}, or a JSON file with fields of {Plan.__name__}"
    if not path.is_file():
        raise UsageError("plan", got=repr(plan), allowed=allowed, fix=suggestion(plan, tuple(PLANS)))
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["families"] = tuple(fields.get("families", PLANS["nano"].families))
        fields["train"] = TrainConfig.from_json(fields.get("train", {}))
        return Plan(**fields)
    except (ValueError, TypeError, AttributeError) as error:
        fix = f"{error}; begin with what results.json of another comparison has under plan"
        raise UsageError("plan", got=str(path), allowed=allowed, fix=fix) from error


def trials_of(plan: Plan) -> list[Trial]:
    """Return all trainings of a plan, seed by seed, so that whatever is finished first can be compared."""
    names = [plan.base, *(f"{plan.base}-{rival}{suffix}" for suffix in MATCHINGS.values() for rival in RIVALS)]
    return [Trial(preset=name, seed=seed) for seed in range(plan.seeds) for name in names]


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


def _trained(run: Path, recording: Path, plan: Plan, trial: Trial) -> Path:
    """Train, or go on training; a finished run is left alone."""
    record_of = _record(run)
    if not record_of or record_of["steps"] < record_of["steps_planned"]:
        config = dataclasses.replace(plan.train, seed=trial.seed)
        train(recording, run, preset=trial.preset, steps=plan.steps, config=config, progress=False)
    return run


def _record(run: Path) -> dict[str, Any]:
    """Return the training record of a run: steps, minutes, validation scores; nothing if there is no checkpoint yet."""
    if not (run / "checkpoint").is_dir():
        return {}
    training = checkpoints.load(run).training
    return {name: training[name] for name in ("steps", "steps_planned", "minutes", "parameters", "validation")}


def _probed(folder: Path, run: Path, plan: Plan, trial: Trial) -> Probed:
    """Probe a trained model, or read what is there."""
    out = folder / "probes" / trial.name
    if not (out / "results.json").is_file():
        probe(str(run), out, plan.tier, list(plan.families), truth=folder / "truth")
    return Probed.read(out, trial.seed)
