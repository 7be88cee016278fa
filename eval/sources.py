"""What tells versions of measuring code apart: a hash over the sources that a result depends on. Knows no probe.

Docstrings, comments and empty lines do not count: a better word must not throw measurements away.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
from pathlib import Path

import worldsim

FOLLOWED = ("worldsim.eval.", "worldsim.envs.")
"""Packages whose modules are followed from import to import: those that make worlds and measure, not the models."""
_ROOT = Path(worldsim.__file__).parent


@functools.cache
def sources_hash(*modules: str) -> str:
    """Return a hash over the sources of modules and of all of `FOLLOWED` that they import, and MuJoCo's version."""
    digest = hashlib.sha256(importlib.metadata.version("mujoco").encode())
    for _, source in sorted(_closure(*modules).items()):
        digest.update(what_runs(source))
    return digest.hexdigest()[:16]


@functools.cache
def networks_hash() -> str:
    """Return a hash over the sources of the models, and torch's version: what an untrained network answers hangs on them."""
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    for source in sorted(_ROOT.glob("*.py")):
        digest.update(what_runs(source.read_bytes()))
    return digest.hexdigest()[:16]


def what_runs(source: bytes) -> bytes:
    """Return the lines of a module that do something: all but docstrings, lines that are comments, and empty ones."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [b""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    return b"\n".join(line for line in lines if line.strip() and not line.lstrip().startswith(b"#"))


def _closure(*modules: str) -> dict[str, bytes]:
    """Return the sources of modules and of those they import, by name."""
    found: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or not name.startswith(FOLLOWED):
            continue
        path = _ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py")
        if not path.is_file():  # something that was imported from a module, not a module
            continue
        found[name] = path.read_bytes()
        waiting += _imported(ast.parse(found[name]))
    return found


def _imported(tree: ast.Module) -> list[str]:
    """Return what a module may import: for ``from a import b`` both a and a.b."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
