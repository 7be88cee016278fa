"""Parts of an interrupted measurement are kept and taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.eval.parts import Parts


def test_an_interrupted_measurement_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A finished part is not measured twice, an interrupted one is, and parts of another measurement are left alone."""
    measured: list[str] = []

    def measure(name: str) -> str:
        if name == "late" and len(measured) < 2:
            measured.append("interrupted")
            raise KeyboardInterrupt
        measured.append(name)
        return name

    def whole(parts: Parts) -> list[str]:
        return [parts.get(name, lambda name=name: measure(name)) for name in ("early", "late")]

    with pytest.raises(KeyboardInterrupt):
        whole(Parts(tmp_path, {"scenes": 2}))
    assert not list(tmp_path.rglob("*.tmp"))
    parts = Parts(tmp_path, {"scenes": 2})
    assert len(parts) == 1
    assert whole(parts) == ["early", "late"]
    assert measured == ["early", "interrupted", "late"]
    assert len(Parts(tmp_path, {"scenes": 3})) == 0
    parts.clear()
    assert not list(tmp_path.iterdir())
