"""The read-outs, and how rows of a probe are read and scored with them. Knows no model.

Two read-outs that have nothing in common but the camera: by colour (`worldsim.eval.places`) and by a small frozen network
(`worldsim.eval.decoder`). What holds by one only is no finding.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import joblib
import numpy as np
from jaxtyping import Float32, UInt8

from worldsim.envs.workers import in_processes
from worldsim.eval.decoder import FRAME_SIZE, Decoder, load_decoder
from worldsim.eval.families import Family, Reader, Scene, Scores
from worldsim.eval.places import Places, read_places
from worldsim.eval.registry import FAMILIES
from worldsim.eval.rows import CLIMATOLOGY, LIMITED, MODEL, NOT_TRIVIAL, ORACLE

Frames = UInt8[np.ndarray, "n m t h w 3"]
Rows = dict[str, list[Frames]]
"""Predictions by row: several where a row is an ensemble or a draw; some rows are of the first scenes only."""
MAIN, SECOND = "colour", "network"
ENSEMBLES, APART = (MODEL, LIMITED), "apart"
"""Rows whose predictions of a scene are several futures, and the column that says how far they are apart."""
SECOND_SCENES, SECOND_DRAWS = 32, 2
"""Scenes, and draws of climatology, that are read the second way too: it takes ten times as long."""


def read_by_network(frames: UInt8[np.ndarray, "*batch h w 3"], states: Float32[np.ndarray, "*batch s"]) -> Places:
    """Read all palette colours off all frames with the network that comes with the package."""
    return _decoder().read_places(frames, states)


@functools.cache
def _decoder() -> Decoder:
    return load_decoder()


READERS: Mapping[str, Reader] = {MAIN: read_places, SECOND: read_by_network}


def read_all_ways(
    family: Family, scenes: Sequence[Scene], made: Mapping[str, Sequence[Frames]], workers: int
) -> dict[str, dict[str, Scores]]:
    """Return the scores of rows by read-out and row.

    The second read-out reads what a model's skill is reckoned from, on the first scenes, where the family has a skill, its
    error is one of places, and frames have the network's size.
    """
    by_reader = {MAIN: score_rows(family, scenes, made, MAIN, workers)}
    if family.error.unit and family.headline is None and scenes[0][0].frames.shape[1:3] == (FRAME_SIZE, FRAME_SIZE):
        few = {
            name: [row[:SECOND_SCENES] for row in (rows[:SECOND_DRAWS] if name == CLIMATOLOGY else rows)]
            for name, rows in made.items()
            if name in (ORACLE, MODEL) or name not in NOT_TRIVIAL
        }
        by_reader[SECOND] = score_rows(family, scenes[:SECOND_SCENES], few, SECOND, workers)
    return by_reader


def score_rows(
    family: Family, scenes: Sequence[Scene], made: Mapping[str, Sequence[Frames]], reader: str, workers: int
) -> dict[str, Scores]:
    """Read and score every row, in processes; rows of several predictions are averaged, scene by scene."""
    jobs = [(name, frames) for name, predictions in made.items() for frames in predictions]
    tasks = [joblib.delayed(_score)(family.code, scenes[: len(frames)], frames, reader) for _, frames in jobs]
    by_row: dict[str, list[Scores]] = {}
    for (name, _), scores in zip(jobs, in_processes(tasks, workers), strict=True):
        by_row.setdefault(name, []).append(scores)
    table = {name: _mean(parts) for name, parts in by_row.items()}
    for name in ENSEMBLES if family.samples > 1 and reader == MAIN else ():
        if len(made.get(name, ())) > 1:
            table[name] = _spread(family, scenes, made[name], table[name])
    return table


def _score(code: str, scenes: Sequence[Scene], frames: np.ndarray, reader: str) -> Scores:
    return FAMILIES[code].score(scenes, frames, READERS[reader])


def _spread(family: Family, scenes: Sequence[Scene], futures: Sequence[Frames], scores: Scores) -> Scores:
    """Add, where the family can tell, how far the futures of every scene are apart: the mean over pairs."""
    found = [family.apart(scenes, one, other, READERS[MAIN]) for one, other in itertools.combinations(futures, 2)]
    pairs = [distance for distance in found if distance is not None]
    if not pairs:
        return scores
    return dataclasses.replace(scores, columns={**scores.columns, APART: np.mean(pairs, axis=0)})


def _mean(parts: Sequence[Scores]) -> Scores:
    columns = {name: np.mean([part.columns[name] for part in parts], axis=0) for name in parts[0].columns}
    frame_cost = np.mean([part.frame_cost for part in parts], axis=0)
    return Scores(columns=columns, frame_cost=frame_cost, floor=parts[0].floor)
