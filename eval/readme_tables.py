"""Puts committed results into the README, so that its numbers live in one place. Measures nothing.

``python -m worldsim.eval.readme_tables`` rewrites README.md from ``docs/results/arena-small``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldsim.eval.bench import report as bench_report
from worldsim.eval.probe_report import verdicts
from worldsim.eval.quality_report import claims_table, table
from worldsim.provenance import describe
from worldsim.storage import write_atomically

FOLDER = Path("docs/results/arena-small")
"""Where the embedded checkpoint's reports are kept, from the top of the repository."""


def blocks(folder: Path) -> dict[str, str]:
    """Return the README's generated blocks by name, from the results in ``folder``."""
    quality = json.loads((folder / "quality" / "results.json").read_text(encoding="utf-8"))
    bench = json.loads((folder / "bench" / "results.json").read_text(encoding="utf-8"))
    probe = json.loads((folder / "probe" / "results.json").read_text(encoding="utf-8"))
    return {"quality": _quality(quality), "probe": _probe(probe), "bench": _bench(bench)}


def _quality(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    origin = f"{results['n']} scenes, {settings['num_steps']} sampler steps; {describe(results)}."
    return f"{origin}\n\n{claims_table(results['claims'])}"


def _probe(results: Mapping[str, Any]) -> str:
    """Return how many probes of each claim came out how, and all verdicts folded away."""
    families, outcomes = results["families"].values(), {one["outcome"]: None for one in results["families"].values()}
    rows = [
        [
            claim,
            *(str(sum((one["claim"], one["outcome"]) == (claim, outcome) for one in families)) for outcome in outcomes),
        ]
        for claim in dict.fromkeys(one["claim"] for one in families)
    ]
    origin = f"Tier {results['tier']}, {results['split']} scenes, self-test held in {_held(results)} probes; {describe(results)}."
    every = table(["probe", "a scene in which", "verdict"], verdicts(results))
    folded = f"<details><summary>All verdicts</summary>\n\n{every}\n\n</details>"
    return "\n\n".join([origin, table(["probes of", *outcomes], rows), folded])


def _held(results: Mapping[str, Any]) -> str:
    tested = results["selftest"]["families"]
    return (
        f"{sum(tested[code]['held'] for code in results['families'] if code in tested)} of {len(results['families'])}"
    )


def _bench(results: Mapping[str, Any]) -> str:
    return bench_report(results).split("\n\n", 1)[1].strip()


def filled(text: str, folder: Path) -> str:
    """Return the README ``text`` with every block between result markers made anew."""
    for name, block in blocks(folder).items():
        pattern = rf"(<!-- results: {name} -->\n).*?(<!-- /results -->)"
        text = re.sub(pattern, lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    page = Path("README.md")
    write_atomically(page, filled(page.read_text(encoding="utf-8"), FOLDER).encode())
