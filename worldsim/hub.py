"""Checkpoint folders on the Hugging Face hub: fetched into its cache, and handed on. Knows no tensors.

Needs ``huggingface_hub`` (it comes with the extra ``train``). What has been fetched once is found again without a network.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldsim.errors import UsageError

PREFIX = "hf:"
FILES = ("config.json", "model.safetensors", "contexts.safetensors", "README.md")
"""All that is ever fetched or sent: settings, numbers and a page. No code."""


def fetch(name: str) -> Path:
    """Return the folder of ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``, fetched if it is not there yet.

    UsageError where there is no such repository or revision, or no network and nothing fetched before.
    """
    hub = _hub()
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    allowed = "hf:OWNER/NAME or hf:OWNER/NAME@REVISION on the Hugging Face hub"
    with _told(hub, "checkpoint", name, allowed, "check the name and the network; private ones need `hf auth login`"):
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))


def send(folder: Path, repository: str) -> str:
    """Send a checkpoint folder to the hub's ``repository`` (made if it is not there) and return its address."""
    hub = _hub()
    allowed = "OWNER/NAME on the Hugging Face hub, which you may write to"
    fix = "`hf auth login`, and check name and network; the folder itself has been written"
    with _told(hub, "hub", repository, allowed, fix):
        api = hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), commit_message="worldsim export"
        )
        return str(commit)


@contextlib.contextmanager
def _told(hub: Any, argument: str, name: str, allowed: str, fix: str) -> Iterator[None]:
    """Raise what goes wrong at the hub as a UsageError, with the first line of its reason."""
    try:
        yield
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(argument, got=f"{name!r} ({reason})", allowed=allowed, fix=fix) from error


def _hub() -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        fix = "pip install huggingface_hub"
        raise UsageError("hf:", got="no huggingface_hub", allowed="where it is installed", fix=fix) from error
    return hub
