"""Checkpoint folders on the Hugging Face hub: fetched into its cache, and handed on. Knows no tensors.

Needs ``huggingface_hub`` (it comes with the extra ``train``). What has been fetched once is found again without a network.
"""

from __future__ import annotations

import importlib
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
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise UsageError(
            "checkpoint",
            got=f"{name!r} ({str(error).strip().splitlines()[0]})",
            allowed="hf:OWNER/NAME or hf:OWNER/NAME@REVISION on the Hugging Face hub",
            fix="check the name and the network; private ones need `hf auth login`",
        ) from error


def send(folder: Path, repository: str) -> str:
    """Send a checkpoint folder to the hub's ``repository`` (made if it is not there) and return its address."""
    hub = _hub()
    try:
        api = hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), commit_message="worldsim export"
        )
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise UsageError(
            "hub",
            got=f"{repository!r} ({str(error).strip().splitlines()[0]})",
            allowed="OWNER/NAME on the Hugging Face hub, which you may write to",
            fix="`hf auth login`, and check name and network; the folder itself has been written",
        ) from error
    return str(commit)


def _hub() -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        fix = "pip install huggingface_hub"
        raise UsageError("hf:", got="no huggingface_hub", allowed="where it is installed", fix=fix) from error
    return hub
