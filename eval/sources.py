"""What tells versions of measuring code apart: a hash over the sources that a result depends on. Knows no probe.

Docstrings, comments and empty lines do not count: a better word must not throw measurements away.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import worldsim

FOLLOWED = ("worldsim.eval.", "worldsim.envs.")
"""Packages whose modules are followed from import to import: those that make worlds and measure, not the models."""
_ROOT = Path(worldsim.__file__).parent


@dataclasses.dataclass(frozen=True)
class _Module:
    """What a module is judged by."""

    runs: bytes
    imports: tuple[str, ...]
    """What it may import: for ``from a import b`` both a and a.b."""


@functools.cache
def sources_hash(*modules: str) -> str:
    """Return a hash over the sources of modules and of all of `FOLLOWED` that they import, and MuJoCo's version."""
    digest = hashlib.sha256(importlib.metadata.version("mujoco").encode())
    for _, module in sorted(_closure(*modules).items()):
        digest.update(module.runs)
    return digest.hexdigest()[:16]


@functools.cache
def networks_hash() -> str:
    """Return a hash over the sources of the models, and torch's version: what an untrained network answers hangs on them."""
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    for path in sorted(_ROOT.glob("*.py")):
        digest.update(_module(path).runs)
    return digest.hexdigest()[:16]


def what_runs(source: bytes) -> bytes:
    """Return the lines of a module that do something: all but docstrings, lines that are comments, and empty ones."""
    return _judged(source).runs


@functools.cache
def _module(path: Path) -> _Module:
    return _judged(path.read_bytes())


def _judged(source: bytes) -> _Module:
    lines, imports = source.splitlines(), []
    for node in _statements(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                lines[first - 1 : last] = [b""] * (last - first + 1)
            case ast.Import(names=names):
                imports += [alias.name for alias in names]
            case ast.ImportFrom(module=str(name), names=names):
                imports += [name, *(f"{name}.{alias.name}" for alias in names)]
    runs = b"\n".join(line for line in lines if line.strip() and not line.lstrip().startswith(b"#"))
    return _Module(runs, tuple(imports))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walk all statements below a node, and no expressions, of which there are many more."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield child
            yield from _statements(child)


def _closure(*modules: str) -> dict[str, _Module]:
    """Return modules and those they import, by name."""
    found: dict[str, _Module] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or not name.startswith(FOLLOWED):
            continue
        path = _ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py")
        if not path.is_file():  # something that was imported from a module, not a module
            continue
        found[name] = _module(path)
        waiting += found[name].imports
    return found
