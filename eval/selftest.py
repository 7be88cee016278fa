"""`worldsim selftest`: the probes probed. Corrupted oracles x families, without any model.

Every family scores the truth, its trivial rows, and truths with one thing wrong. A probe may be believed if the truth
has skill 1, if harmless changes hardly lower it, if every corruption that it is meant to notice lowers it much, and if
nothing else moves it. What each corruption targets, and what it may also move, is registered beforehand
(`worldsim.eval.selftest_register`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldsim.envs.workers import number_of_workers
from worldsim.eval.families import PROTOCOL
from worldsim.eval.figures import heat_map
from worldsim.eval.lab import arena_world
from worldsim.eval.registry import SCENES, chosen
from worldsim.eval.selftest_checks import broken_bands, check, role
from worldsim.eval.selftest_record import keep, made_by
from worldsim.eval.selftest_register import CHECKED, LEAST_NUISANCE, MOST_SIDE_EFFECT, MOST_TARGETED, REGISTERED
from worldsim.eval.truths import Truths
from worldsim.provenance import provenance, write_json
from worldsim.storage import write_atomically


def selftest(
    out: str | os.PathLike[str] = "runs/selftest",
    tier: str = "smoke",
    family: Sequence[str] | str | None = None,
    *,
    truth: str | os.PathLike[str] = "runs/probe-truth",
    workers: int | None = None,
    record: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Score corrupted truths with every probe, and write the matrix into the folder ``out``.

    Args:
        out: folder for ``results.json`` and the heat map ``matrix.png``; files of these names are replaced.
        tier: how many scenes of each family: smoke 8, standard 64, full 512.
        family: which families, separated by commas; None for all.
        truth: folder that keeps the true scenes.
        workers: processes; None for one per core.
        record: file that notes which families passed, as the package's own does (``eval/selftest.json``); None for none.

    Returns what is written to ``results.json``; UsageError for unknown tiers and families.

    """
    started = time.perf_counter()
    families = chosen(family or CHECKED, tier)
    count = number_of_workers(workers)
    truths = Truths(Path(truth), arena_world(), "dev", count)
    matrix: dict[str, Any] = {}
    with tqdm(total=len(families), desc="selftest", unit="probe") as bar:
        for one in families:
            bar.set_postfix_str(one.code)
            scenes = truths.scenes(one, SCENES[tier])
            matrix[one.code] = check(one.code, scenes, count)
            bar.update()
    broken = {code: broken_bands(code, column) for code, column in matrix.items()}
    results = {
        "command": "selftest", "protocol": PROTOCOL, **made_by(), "tier": tier, **provenance(),
        "bands": {"nuisance at least": LEAST_NUISANCE, "targeted at most": MOST_TARGETED, "side effect": MOST_SIDE_EFFECT},
        "matrix": matrix, "failures": {code: words for code, words in broken.items() if words},
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    write_json(Path(out) / "results.json", results)
    write_atomically(Path(out) / "matrix.png", picture(matrix))
    if record is not None:
        tested = {code: {"broken": broken[code], "skill": column["skill"]} for code, column in matrix.items()}
        keep(tested, tier, Path(record))
    return results


def picture(matrix: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the matrix as a heat map, PNG: ``skill`` of every corruption by family."""
    names = [name for name in REGISTERED if any(name in column["skill"] for column in matrix.values())]
    cells = [[column["skill"].get(name) for column in matrix.values()] for name in names]
    return heat_map(cells, names, list(matrix), [[role(name, code) for code in matrix] for name in names])
