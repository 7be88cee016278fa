"""Checkpoints to choose from, each loaded once and shared by all players. Knows no world."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from worldsim import checkpoint as checkpoints
from worldsim.errors import UsageError, suggestion
from worldsim.world_model import WorldModel, load


class Shelf:
    """The checkpoints a server was started with, then the embedded ones. Players choose by name, never by path."""

    def __init__(self, names: Sequence[str], device: str = "cpu") -> None:
        self._folders = {str(name): checkpoints.resolve(name) for name in names}
        for name, folder in checkpoints.embedded().items():
            self._folders.setdefault(name, folder)
        self._device = device
        self._models: dict[str, WorldModel] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """What can be chosen; the first is what a player begins with."""
        return tuple(self._folders)

    def folder(self, name: str) -> Path:
        """Return where a checkpoint lies; UsageError for an unknown name."""
        if name not in self._folders:
            raise UsageError("checkpoint", got=repr(name), allowed=f"{len(self.names)} names",
                             fix=suggestion(name, self.names))  # fmt: skip
        return self._folders[name]

    def model(self, name: str) -> WorldModel:
        """Return a checkpoint's model, loaded at its first use; UsageError for an unknown name or a broken folder."""
        folder = self.folder(name)
        with self._lock:
            if name not in self._models:
                self._models[name] = load(folder, device=self._device)
            return self._models[name]
