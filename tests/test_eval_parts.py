"""Parts of an interrupted measurement are kept and taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.eval.parts import Parts
from worldsim.eval.sources import what_runs


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


def test_only_what_runs_tells_code_apart() -> None:
    """Other words change nothing, another number does, and so does a text that is no docstring."""
    code = '''"""A module."""\n\nFAR = 1  # m\n"""Far."""\n\n\ndef f():\n    """Say.\n\n    More.\n    """\n    return "far"\n'''

    def same(old: str, new: str) -> bool:
        assert old in code
        return what_runs(code.encode()) == what_runs(code.replace(old, new).encode())

    assert same("A module.", "Two\nlines.")
    assert same("Say.", "Said.")
    assert same("\n\n\n", "\n# why\n")
    assert not same("FAR = 1", "FAR = 2")
    assert not same('return "far"', 'return "near"')
