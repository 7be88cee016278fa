"""The trainings of a comparison: some at a time, each finished one kept, and the learning rates chosen from the short ones.

What a training says of itself is kept beside its weights and outlives them: who only needs the numbers can remove the runs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from worldsim import checkpoint as checkpoints
from worldsim.envs.workers import LOCAL, backend_in_use, in_processes
from worldsim.errors import UsageError
from worldsim.eval.comparison_plan import Plan, Trial
from worldsim.provenance import write_json
from worldsim.train import CHECKPOINT, train

KEPT = ("steps", "steps_planned", "minutes", "parameters", "validation")
"""What is kept of a training's own record."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainings:
    """Where the trainings of a plan are, and what they learn from."""

    plan: Plan
    recording: Path
    folder: Path
    """``runs`` has a folder for each training, by its name, ``records`` what each said of itself."""
    workers: int
    """Trainings at a time."""

    def run(self, trial: Trial) -> Path:
        """Return the folder of a training."""
        return self.folder / "runs" / trial.name

    def record(self, trial: Trial) -> dict[str, Any]:
        """Return what a training says of itself: steps, minutes, validation scores; nothing if there is no checkpoint yet."""
        kept = self._kept(trial)
        if kept.is_file():
            return json.loads(kept.read_text(encoding="utf-8"))
        if not self._has_weights(trial):
            return {}
        training = checkpoints.load(self.run(trial)).training
        return {"rate": trial.rate, **{name: training[name] for name in KEPT}}

    def finish(self, trials: Sequence[Trial], bar: tqdm[Any] | None = None, *, weights: bool = False) -> None:
        """Train all of ``trials``, or go on training them; finished ones are left alone, and ``bar`` moves with each.

        One at a time they are trained here, with all cores; several in processes, with a share of the cores each, which
        takes less time in all: small products keep one core busy, not many. On a cluster they go to its processes.
        With ``weights`` those whose weights were removed are trained again.
        """
        waiting = [trial for trial in trials if not self._finished(trial) or (weights and not self._has_weights(trial))]
        if bar is not None:
            bar.update(len(trials) - len(waiting))
        workers = max(1, min(self.workers, len(waiting)))
        if workers == 1 and backend_in_use() == LOCAL:
            done = (self.train(trial) for trial in waiting)
        else:
            tasks = [joblib.delayed(self.train)(trial) for trial in waiting]
            done = in_processes(tasks, workers, order="generator_unordered")
        for trial in done:
            if bar is not None:
                bar.set_postfix_str(f"trained {trial.name}")
                bar.update()

    def _finished(self, trial: Trial) -> bool:
        record = self.record(trial)
        return bool(record) and record["steps"] >= record["steps_planned"]

    def _has_weights(self, trial: Trial) -> bool:
        return (self.run(trial) / CHECKPOINT).is_dir()

    def _kept(self, trial: Trial) -> Path:
        return self.folder / "records" / f"{trial.name}.json"

    def train(self, trial: Trial) -> Trial:
        """Train one to its end, and keep what it says of itself."""
        config, kept = trial.config(self.plan), self._kept(trial)
        kept.unlink(missing_ok=True)
        train(self.recording, self.run(trial), preset=trial.preset, steps=trial.steps, config=config, progress=False)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, self.record(trial))
        return trial

    def tried(self, searches: Sequence[Trial]) -> dict[str, dict[str, float | None]]:
        """Return per arm and learning rate (a multiple, as text) the `mean_error`; None where it is no number."""
        said: dict[str, dict[str, float | None]] = {}
        for trial in searches:
            error = mean_error(self.record(trial))
            said.setdefault(trial.preset, {})[f"{trial.rate:g}"] = error if np.isfinite(error) else None
        return said


def mean_error(record: Mapping[str, Any]) -> float:
    """Return the error of held-out dreams at the end of a training, the mean over those after 1, 2, 4, ... frames."""
    return float(np.mean([value for name, value in record["validation"].items() if name.startswith("error_")]))


def best_rates(plan: Plan, tried: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Return the learning rate of least error of every arm, the only one where none were tried; UsageError if an arm learnt at none."""
    best = dict.fromkeys(plan.arms, plan.rates[0])
    for arm, errors in tried.items():
        learnt = {rate: error for rate, error in errors.items() if error is not None}
        if not learnt:
            got, allowed = f"{', '.join(errors)}: {arm} learnt at none of them", "rates at which every arm learns"
            raise UsageError("rates", got=got, allowed=allowed, fix="try smaller ones")
        best[arm] = float(min(learnt, key=lambda rate: learnt[rate]))
    return best
