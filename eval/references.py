"""The rows of a probe's table that know no model, drawn and scored once and kept for every further model.

Beside a model stand the truth (also in another light), physics begun from what can be read, and the trivial predictors.
They are the same for all models, and dearer than most: scores are kept on disk by what made them, frames are not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from worldsim.envs.painter import Painter
from worldsim.envs.workers import in_processes
from worldsim.eval import rows
from worldsim.eval.families import PROTOCOL, Family, Scene, Scores, each_tale, films
from worldsim.eval.parts import Parts
from worldsim.eval.perception import perception_limited
from worldsim.eval.pixels import constant_frame, mean_frame
from worldsim.eval.reading import Rows, read_all_ways
from worldsim.eval.registry import FAMILIES
from worldsim.eval.rows import CLIMATOLOGY, LIMITED, MEAN, ORACLE, RELIT
from worldsim.eval.sources import networks_hash, sources_hash
from worldsim.eval.tales import Tale
from worldsim.spec import WorldSpec

SEED = 1
"""Decides which other scene each one is answered with from habit."""
ENSEMBLE = 2
"""Members of the perception-limited oracle that are drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class References:
    """Draws and scores what stands beside every model, in a folder that keeps the scores."""

    folder: Path
    spec: WorldSpec
    split: str
    workers: int

    def scores(self, family: Family, scenes: Sequence[Scene]) -> dict[str, dict[str, Scores]]:
        """Return the scores by read-out and row, as they were kept, or drawn and read now."""
        return self._kept({}, family, scenes, lambda: self.rows(family, scenes))

    def of_untrained(
        self, family: Family, scenes: Sequence[Scene], ask: Callable[[Sequence[Scene]], Rows]
    ) -> dict[str, dict[str, Scores]]:
        """Return the scores of an untrained network, which is the same beside every model; ``ask`` asks it about scenes."""
        return self._kept({"networks": networks_hash()}, family, scenes, lambda: ask(scenes))

    def _kept(
        self, hangs_on: Mapping[str, str], family: Family, scenes: Sequence[Scene], make: Callable[[], Rows]
    ) -> dict[str, dict[str, Scores]]:
        """Return scores as they were kept, or made and read now; ``hangs_on`` tells what else they depend on."""
        world = hashlib.sha256(json.dumps(self.spec.to_json(), sort_keys=True).encode()).hexdigest()
        key = {"protocol": PROTOCOL, "code": sources_hash(__name__), "world": world, **hangs_on}
        name = f"{family.code}-{self.split}-{len(scenes)}"
        return Parts(self.folder, key).get(name, lambda: read_all_ways(family, scenes, make(), self.workers))

    def rows(self, family: Family, scenes: Sequence[Scene]) -> Rows:
        """Return the frames of the rows."""
        truth = films(scenes)
        mean = mean_frame(truth.reshape(-1, *truth.shape[2:]))
        flat = constant_frame(mean, len(truth) * truth.shape[1], truth.shape[2])
        return {ORACLE: [truth], **self._drawn(family, scenes), MEAN: [flat.reshape(truth.shape)]}

    def _drawn(self, family: Family, scenes: Sequence[Scene]) -> Rows:
        """Return the rows that are the true scenes drawn again, in processes that share the scenes."""
        count = len(scenes)
        size = max(1, -(-count // (2 * self.workers)))
        chunks = [slice(first, first + size) for first in range(0, count, size)]
        others = rows.other_scenes(count, np.random.default_rng([SEED, count]))
        courses = [[rows.courses(tale) for tale in scene] for scene in scenes]
        tasks = [
            joblib.delayed(_draw)(
                family.code, scenes[chunk], [[courses[scene] for scene in order[chunk]] for order in others], self.spec
            )
            for chunk in chunks
        ]
        parts = list(in_processes(tasks, min(self.workers, len(chunks))))
        return {
            name: [np.concatenate(members) for members in zip(*(part[name] for part in parts), strict=True)]
            for name in parts[0]
        }


def _draw(code: str, scenes: Sequence[Scene], others: Sequence[Any], spec: WorldSpec) -> dict[str, list[np.ndarray]]:
    """Draw some scenes again in every way; ``others`` holds the courses of other scenes, several times over."""
    painter, dim = painter_of(spec), painter_of(spec, relit=True)

    def drawn(draw: Callable[[Sequence[Tale]], np.ndarray]) -> np.ndarray:
        return each_tale(scenes, lambda tales: {"row": draw(tales)})["row"]

    try:
        made = {
            LIMITED: [drawn(lambda tales, k=k: perception_limited(tales, painter, k)) for k in range(ENSEMBLE)],
            RELIT: [drawn(lambda tales: np.stack([tale.redraw(dim, lambda *_: None) for tale in tales]))],
            CLIMATOLOGY: [
                drawn(lambda tales, c=courses: rows.climatology(tales, [x for scene in c for x in scene], painter))
                for courses in others
            ],
        }
        trivial = FAMILIES[code].trivial(scenes, painter)
    finally:
        painter.close()
        dim.close()
    return {**{name: row for name, row in made.items() if row}, **{name: [row] for name, row in trivial.items()}}


def painter_of(spec: WorldSpec, *, relit: bool = False) -> Painter:
    """Return what draws the scenes of a world: as it looks, or ``relit``, with its shadows off (on where it has none)."""
    height, width, _ = spec.frame_shape
    shadows = bool(spec.env_kwargs.get("shadows", True))
    return Painter(height=height, width=width, shadows=shadows != relit)
