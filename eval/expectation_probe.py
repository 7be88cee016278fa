"""Violation of expectation (P8) as a part of `worldsim probe`: quadruplets that are kept, surprises asked in processes.

What is told apart, and how that is scored, is in `worldsim.eval.expectation`. Writes no report.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import joblib
import numpy as np
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from worldsim.envs.controls import CONTEXT_STEPS
from worldsim.envs.workers import in_processes
from worldsim.errors import UsageError, suggestion
from worldsim.eval.expectation import (
    CONCEPTS,
    CONTROLS,
    MODEL,
    OTHERS,
    UNTRAINED,
    Quadruplet,
    SurpriseScorer,
    concept_of,
    concept_table,
    quadruplet,
    surprises,
    with_contexts_of_others,
)
from worldsim.eval.parts import Parts
from worldsim.eval.predictors import load_predictor
from worldsim.eval.registry import SCENES
from worldsim.eval.sources import networks_hash, sources_hash
from worldsim.eval.trials import make_arena
from worldsim.eval.truths import Keeper, makers
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel, untrained

PREFIX = "P8-"
CODES = {PREFIX + concept.replace(" ", "-"): concept for concept in (*CONCEPTS, *CONTROLS)}
"""Concepts and controls by the codes that the command knows them by."""
CONCEPTS_OF = {
    "smoke": (),
    "standard": ("persistence", "continuity", "unchangeableness", "solidity", "inertia", *CONTROLS),
    "full": (*CONCEPTS, *CONTROLS),
}
"""What each tier asks about by itself. Standard: the five of PLATO (Piloto et al. 2022), and the control."""
QUADRUPLETS = {"smoke": 8, "standard": 32, "full": 512}
NETWORKS = {"smoke": 1, "standard": 3, "full": 20}
"""Quadruplets of a concept, and networks with random weights, by tier."""
UNCONDITIONED = "model, no actions"
"""Row of concepts that are of actions alone, which a model that is told of none cannot tell apart."""
STRETCH = 32
"""Quadruplets of one row that are kept as one part: what an interruption may lose."""
AT_ONCE = 4
"""Quadruplets that a process is asked about at once."""


def chosen_concepts(codes: Sequence[str] | str | None, tier: str) -> tuple[str, ...]:
    """Return the concepts called by ``codes`` (a list, or one string with commas), or those of the tier for None.

    Codes of other probes are passed over; UsageError for unknown tiers and for unknown codes that begin as ours do.
    """
    if tier not in SCENES:
        raise UsageError("tier", got=repr(tier), allowed=", ".join(SCENES), fix=suggestion(tier, tuple(SCENES)))
    if codes is None:
        return CONCEPTS_OF[tier]
    wanted = [code for code in (codes.split(",") if isinstance(codes, str) else codes) if code.startswith(PREFIX)]
    for code in wanted:
        if code not in CODES:
            raise UsageError("family", got=repr(code), allowed=", ".join(CODES), fix=suggestion(code, tuple(CODES)))
    return tuple(CODES[code] for code in wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked of a predictor, and where what is finished is kept."""

    concepts: tuple[str, ...]
    quadruplets: int
    """Quadruplets of each concept: 2 or more."""
    networks: int
    """Networks with random weights beside the model: 1 or more."""
    split: str
    truth: Path
    """Folder that keeps the quadruplets, and what untrained networks make of them, for further models."""
    parts: Parts
    """Keeps finished rows of the predictor. Its key must tell predictors and versions of the code apart."""
    workers: int

    def rows(self, concept: str, predictor: SurpriseScorer) -> tuple[tuple[str, int], ...]:
        """Return which rows are asked for, each with the seed of its network (0 but for the untrained ones)."""
        blind = concept_of(concept).of_actions and isinstance(predictor, WorldModel)
        fresh = tuple((UNTRAINED, seed) for seed in range(self.networks))
        return ((MODEL, 0), (OTHERS, 0), *(((UNCONDITIONED, 0),) if blind else ()), *fresh)


def expectation(predictor: str, spec: WorldSpec, study: Study, bar: tqdm[Any] | None = None) -> dict[str, Any] | None:
    """Return the table of every concept (`worldsim.eval.expectation.concept_table`), JSON-able.

    None where there is no concept to ask about, or the predictor has no ``surprise`` (`SurpriseScorer`). ``predictor`` is
    a name or path that every process loads for itself, ``spec`` its world. The total of ``bar`` grows by the parts of
    this study, and each is shown as it is done. UsageError for kept quadruplets that are damaged or made by other code,
    and for surprises that are no finite numbers.
    """
    asked = load_predictor(predictor)
    if not study.concepts or not isinstance(asked, SurpriseScorer):
        return None
    stretches = [
        range(first, min(first + STRETCH, study.quadruplets)) for first in range(0, study.quadruplets, STRETCH)
    ]
    rows = {concept: study.rows(concept, asked) for concept in study.concepts}
    if bar is not None and bar.total is not None:
        bar.total += len(stretches) * sum(len(row) for row in rows.values())
    tables, of_all = {}, parts_of_all(spec, study)
    for concept in study.concepts:
        quadruplets = kept_quadruplets(concept, spec, study)
        made: dict[str, list[Float32[np.ndarray, "n 4 t"]]] = {}
        for row, seed in rows[concept]:
            shown = with_contexts_of_others(quadruplets) if row == OTHERS else quadruplets
            parts = []
            for stretch in stretches:
                name = f"{PREFIX}{concept}_{row}_{seed}_{len(quadruplets)}_{stretch.start}".replace(" ", "-")
                ask = functools.partial(
                    _asked, (row, seed), predictor, spec, shown[stretch.start : stretch.stop], study
                )
                parts.append((of_all if row == UNTRAINED else study.parts).get(name, ask))
                if bar is not None:
                    bar.update()
            made.setdefault(row, []).append(np.concatenate(parts))
        tables[concept] = concept_table(concept, quadruplets, made)
    return tables


def kept_quadruplets(concept: str, spec: WorldSpec, study: Study) -> list[Quadruplet]:
    """Return a concept's quadruplets in the world of ``spec``, as the study's folder keeps them or played now."""
    keeper = Keeper(study.truth, makers(spec, sources_hash("worldsim.eval.expectation")), study.workers)
    name = f"{PREFIX}{concept}-{study.split}".replace(" ", "-")
    return keeper.first(name, study.quadruplets, functools.partial(_play, spec, concept, study.split))


def parts_of_all(spec: WorldSpec, study: Study) -> Parts:
    """Return the parts of untrained networks, which serve all predictors of a world: the study's folder keeps them."""
    key = {**makers(spec, sources_hash(__name__)), "networks": networks_hash(), "split": study.split}
    return Parts(study.truth, key)


def _play(spec: WorldSpec, concept: str, split: str, indices: range) -> list[Quadruplet]:
    env: gym.Env[Any, Any] = make_arena(spec)
    try:
        return [quadruplet(env, concept, split, index) for index in indices]
    finally:
        env.close()


def _asked(
    row: tuple[str, int], predictor: str, spec: WorldSpec, quadruplets: Sequence[Quadruplet], study: Study
) -> Float32[np.ndarray, "n 4 t"]:
    """Return the surprises of one row, asked in processes, some quadruplets at once."""
    chunks = [quadruplets[first : first + AT_ONCE] for first in range(0, len(quadruplets), AT_ONCE)]
    tasks = [joblib.delayed(_surprises)(row, predictor, spec, chunk) for chunk in chunks]
    return np.concatenate(list(in_processes(tasks, min(study.workers, len(chunks)))))


def _surprises(
    row: tuple[str, int], predictor: str, spec: WorldSpec, quadruplets: Sequence[Quadruplet]
) -> Float32[np.ndarray, "n 4 t"]:
    name, seed = row
    scorer = _AfterContext(untrained(spec, seed=seed)) if name == UNTRAINED else _scorer(name, predictor)
    return surprises(scorer, quadruplets)


@functools.lru_cache(maxsize=2)
def _scorer(row: str, name: str) -> SurpriseScorer:
    """Load what is asked for a row, once a process."""
    asked = load_predictor(name)
    if isinstance(asked, WorldModel):
        return _AfterContext(asked.unconditioned() if row == UNCONDITIONED else asked)
    assert isinstance(asked, SurpriseScorer), f"{name} was asked for its surprise, and has none"
    return asked


@dataclasses.dataclass(frozen=True)
class _AfterContext:
    """A world model that is only asked about the frames after the context, which are all that is scored."""

    model: WorldModel

    def surprise(
        self,
        frames: UInt8[np.ndarray, "b t1 h w 3"],
        actions: Float32[np.ndarray, "b t a"],
        seeds: Sequence[int],
    ) -> Float32[np.ndarray, "b t"]:
        """Return the model's surprise, 0 within the context."""
        return self.model.surprise(frames, actions, seeds, after=CONTEXT_STEPS)
