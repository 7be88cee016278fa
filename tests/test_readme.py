"""The code blocks of the README and of guides, run as pasted, in their order, in an empty folder.

A comment ``<!-- test: skip, REASON -->`` before a block says why it is not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
DOCS = README.parent / "docs"
PAGES = (README, DOCS / "your-environment.md", DOCS / "your-model.md", DOCS / "your-planner.md")
BLOCK = re.compile(
    r"(?:<!-- test: skip, (?P<skip>[^>]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, code) of a page's blocks that are run."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(block["language"], block["code"]) for block in found if block["skip"] is None]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_as_pasted(page: Path, tmp_path: Path) -> None:
    """Every Python and shell block that is not marked ends well, without a warning; later ones may use what earlier ones made."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "error"}
    assert len(blocks(page)) >= 5
    for language, code in blocks(page):
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-e", "-u", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_commands_are_known() -> None:
    """The README speaks of every command, and of no other."""
    from worldsim.cli import COMMANDS

    written = set(re.findall(r"`worldsim ([a-z]+)[` ]", README.read_text()))
    assert written == set(COMMANDS)


def test_numbers_are_those_of_the_committed_results() -> None:
    """The tables of results and speed are made from the reports beside them: no number was typed by hand."""
    from worldsim.eval.readme_tables import FOLDER, filled

    text = README.read_text(encoding="utf-8")
    assert filled(text, README.parent / FOLDER) == text
    assert "<!-- results: quality -->" in text and "<!-- results: bench -->" in text
