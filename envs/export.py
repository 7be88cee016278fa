"""Export: a trained run as one small checkpoint folder to hand on, with lead-ins for machines that cannot draw."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from worldsim import checkpoint as checkpoints
from worldsim.envs.dream_context import CONTEXTS, bundle_contexts
from worldsim.errors import UsageError
from worldsim.hub import send
from worldsim.sampler import check_num_steps


def export(
    checkpoint: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    contexts: int = 32,
    data: str | None = None,
    num_steps: int | None = None,
    hub: str | None = None,
) -> Path:
    """Copy a checkpoint into a folder to hand on, bfloat16 weights, card and true lead-ins in it, and return the folder.

    Args:
        checkpoint: an embedded name, a checkpoint folder or a training run's folder.
        out: the new folder; a checkpoint that is there is replaced as a whole.
        contexts: lead-ins of the true world to bundle (seeds 0, 1, ...), so that dreams begin without OpenGL; 0 for none.
        data: recording whose episodes' beginnings to bundle instead, for a world that cannot be made, as an imported one.
        num_steps: sampler steps of a frame that the copy's dreams take by default; None for the checkpoint's own default.
        hub: OWNER/NAME on the Hugging Face hub to send the folder to as well; `hf:OWNER/NAME` then names the checkpoint.

    """
    if contexts < 0:
        raise UsageError("contexts", got=contexts, allowed="0 or more", fix="32 is the default")
    loaded = checkpoints.load(checkpoint)
    if num_steps is not None:
        check_num_steps(num_steps, loaded.model.max_steps)
        loaded = dataclasses.replace(loaded, sampler_steps=num_steps)
    target = checkpoints.save(loaded, out, card=checkpoints.card(loaded), dtype=torch.bfloat16)
    if contexts:
        bundle_contexts(target, loaded.world, contexts, data)
    else:
        (target / CONTEXTS).unlink(missing_ok=True)
    if hub is not None:
        send(target, hub)
    return target
