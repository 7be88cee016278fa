"""The ledger of test evaluations: who was asked about test scenes, when, and what came out. Lines are only ever added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "ledger.jsonl"


def enter(folder: Path, results: Mapping[str, Any]) -> int:
    """Add a test evaluation to the ledger of a folder, and return how many there were of the same weights before.

    Test scenes are for one evaluation of a finished model: a choice made by them is no longer tested by them.
    """
    path = folder / NAME
    earlier = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    line = {
        **{key: results[key] for key in ("time_utc", "predictor", "weights", "tier", "protocol", "scenes_hash", "commit", "dirty")},
        "outcomes": {code: family["outcome"] for code, family in results["families"].items()},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as ledger:
        ledger.write(json.dumps(line, sort_keys=True) + "\n")
    return sum(one["weights"] == results["weights"] for one in earlier)
