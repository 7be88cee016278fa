"""Where numbers come from, and how they are written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from worldsim.provenance import describe, provenance, write_json


def test_provenance_says_what_a_number_depends_on() -> None:
    """Device, threads, commit, versions, seed and time are there as JSON, and the line for people holds them."""
    origin = provenance(seed=7)
    assert json.loads(json.dumps(origin)) == origin
    assert origin["seed"] == 7
    assert origin["threads"] >= 1
    assert origin["versions"]["torch"]
    assert origin["commit"] is None or len(origin["commit"]) == 40
    assert "seed 7" in describe(origin)
    assert origin["cpu"] in describe(origin)


def test_numbers_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A number that JSON cannot hold is refused, the earlier file stays, and nothing half-written is left."""
    target = write_json(tmp_path / "made" / "results.json", {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"value": math.nan})
    assert json.loads(target.read_text()) == {"value": 1}
    assert [path.name for path in target.parent.iterdir()] == ["results.json"]
