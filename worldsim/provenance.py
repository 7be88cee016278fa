"""Where a number comes from: versions, commit, machine and time, as JSON. Knows no model and imports nothing heavy."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGES = ("worldsim", "torch", "mujoco", "numpy", "gymnasium")


def provenance(seed: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Return what every ``results.json`` says about its origin.

    Keys: ``seed``, ``device``, ``threads`` (torch's if torch is loaded, else the usable cores), ``cores``, ``cpu``,
    ``commit`` (of the checkout this package runs from, None for an installed wheel), ``dirty`` (whether tracked files
    differ from that commit, None without a commit), ``python``, ``platform``, ``versions`` (by package, None where
    one is not installed) and ``time_utc``.
    """
    commit = _git("rev-parse", "--verify", "HEAD")
    status = None if commit is None else _git("status", "--porcelain", "--untracked-files=no")
    return {
        "seed": seed,
        "device": str(device),
        "threads": _threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_name(),
        "commit": commit,
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in _PACKAGES},
        "time_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe(origin: Mapping[str, Any]) -> str:
    """Return one line for people from what `provenance` returned: device, threads, commit, versions, time."""
    commit = origin["commit"]
    place = "no commit" if commit is None else commit[:10] + ("+changes" if origin["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items() if version is not None)
    return (
        f"{origin['device']} ({origin['cpu']}), {origin['threads']} threads, seed {origin['seed']}, {place}, "
        f"{versions}, {origin['time_utc']}"
    )


def write_json(path: str | os.PathLike[str], data: Any) -> Path:
    """Write ``data`` as strict JSON under a temporary name, then rename it into place; parent folders are made.

    NaN and infinity raise ValueError: an undefined number must be said as such by its writer. Returns the path.
    """
    target = Path(path)
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _threads() -> int:
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Return git's answer about the checkout this file is part of, or None if it is not part of one."""
    root = Path(__file__).resolve().parent.parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    command = [git, "--no-optional-locks", "-C", str(root), *arguments]  # a kill leaves no lock in the checkout
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
