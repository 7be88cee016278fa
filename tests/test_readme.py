"""The code blocks of the README and of guides, run as pasted, in their order, in an empty folder.

A comment ``<!-- test: skip, REASON -->`` before a block says why it is not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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


WARM = """
import os, sys
import gymnasium, numpy, torch
for line in sys.stdin:
    if not (child := os.fork()):
        os.dup2(2, 1)
        exec(compile(open(line.strip()).read(), "block", "exec"), {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs each Python block in a process of its own, forked where torch has been imported: that would take seconds every time."""


@pytest.mark.pages
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_as_pasted(page: Path, tmp_path: Path) -> None:
    """Every Python and shell block that is not marked ends well, without a warning; later ones may use what earlier ones made."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "error"}
    folder = tmp_path / "reader"
    folder.mkdir()
    assert len(blocks(page)) >= 5
    with (tmp_path / "said").open("a+b") as said:
        where: dict[str, Any] = {"cwd": folder, "env": environment, "stderr": said}
        warm = [sys.executable, "-c", WARM]
        with subprocess.Popen(warm, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **where) as python:
            assert python.stdin is not None and python.stdout is not None
            for number, (language, code) in enumerate(blocks(page)):
                if language == "python":
                    block = tmp_path / f"{number}.py"
                    block.write_text(code)
                    print(block, file=python.stdin, flush=True)
                    ended = int(python.stdout.readline())
                else:
                    ended = subprocess.run(
                        ["bash", "-e", "-u", "-c", code], stdout=said, check=False, **where
                    ).returncode
                said.seek(0)
                assert ended == 0, f"{code}\n{said.read().decode()}"


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
