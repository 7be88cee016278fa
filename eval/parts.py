"""Finished parts of a long measurement, kept on disk until the whole is done, so that Ctrl-C loses one part at most."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import joblib

from worldsim.world_model import WorldModel

_T = TypeVar("_T")


def weights_hash(model: WorldModel) -> str:
    """Return what tells the weights of models apart, whatever number type they are held in."""
    return str(joblib.hash({name: value.cpu().float().numpy() for name, value in model.denoiser.state_dict().items()}))


class Parts:
    """Parts of one measurement, by name, in a hidden folder inside ``folder``.

    ``key`` says what is measured (JSON-able: settings, fingerprint of the weights, commit). Parts of another key are
    never taken up.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = folder / f".parts-{digest}"

    def __len__(self) -> int:
        """Number of parts at hand."""
        return len(list(self.folder.glob("*.joblib")))

    def get(self, name: str, measure: Callable[[], _T]) -> _T:
        """Return the part called ``name`` as it was kept, or measure it now and keep it."""
        path = self.folder / f"{name}.joblib"
        if path.is_file():
            return joblib.load(path)
        part = measure()
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        joblib.dump(part, temporary, compress=1)
        temporary.replace(path)
        return part

    def clear(self) -> None:
        """Remove every part, once the whole is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
