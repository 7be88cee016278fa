"""What a training begins with: its first weights, and the number type it computes in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from worldsim import checkpoint as checkpoints
from worldsim import config as configs
from worldsim.config import ModelConfig
from worldsim.dataset import EpisodeDataset
from worldsim.denoiser import Denoiser
from worldsim.distributed import agreed
from worldsim.errors import UsageError
from worldsim.precision import TYPES, fast_dtype
from worldsim.spec import WorldSpec
from worldsim.training_config import TrainConfig


def first_model(preset: str, start: checkpoints.Checkpoint | None, world: WorldSpec) -> ModelConfig:
    """Return what is trained: a preset, or a checkpoint's model with the parts that came later where it can gain them.

    In another world what is read off a frame is learnt anew: as it is read today. A camera is added if the preset has one.
    """
    wanted = configs.preset(preset)
    if start is None:
        return wanted
    reads_action = start.model.reads_action or start.world != world
    return dataclasses.replace(start.model, reads_action=reads_action, camera=start.model.camera or wanted.camera)


def first_weights(model: ModelConfig, start: checkpoints.Checkpoint | None, world: WorldSpec, seed: int) -> Denoiser:
    """Return what a training begins with: chance, a world learnt before, or of another world what serves here too."""
    if start is not None and start.world == world and start.model == model:
        return start.denoiser()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = checkpoints.build(model, world)
    if start is not None:
        denoiser.take_over(start.denoiser(), readouts=start.world == world)
    return denoiser


def check_kept(model: ModelConfig, start: checkpoints.Checkpoint | None, world: WorldSpec) -> None:
    """Raise UsageError unless what a training of readouts alone begins with has learnt this world, and is trained as it is."""
    if start is None or start.world != world:
        got = "no init" if start is None else f"a checkpoint of {start.world.env_id}"
        allowed, fix = f"with a world trained on {world.env_id}", "--init RUN"
        raise UsageError("readouts_only", got=got, allowed=allowed, fix=fix)
    if model.camera and not start.model.camera:
        got, fix = "a preset that adds a camera", "--preset small keeps the world of --init as it is"
        raise UsageError("readouts_only", got=got, allowed="with the world of --init as it is", fix=fix)


def all_recordings(first: EpisodeDataset, also: Sequence[str], patch: int) -> list[EpisodeDataset]:
    """Return the first recording and those in the folders ``also``.

    UsageError for frames that patches do not cover, and for recordings of another world than the first one's.
    """
    opened = [first, *map(EpisodeDataset.open, also)]
    for name, one in zip(["data", *["also"] * len(also)], opened, strict=True):
        if (
            dataclasses.replace(one.spec, frame_shape=first.spec.frame_shape, env_kwargs=first.spec.env_kwargs)
            != first.spec
        ):
            got, allowed = (
                f"{one.folder} of {one.spec.env_id}",
                f"recordings alike to {first.folder} but for their frames",
            )
            raise UsageError(name, got=got, allowed=allowed, fix="record all by one command but for the size")
        if any(side % patch for side in one.spec.frame_shape[:2]):
            got, allowed = f"{one.folder}, frames of {one.spec.frame_shape}", f"sides that are multiples of {patch}"
            raise UsageError(
                name, got=got, allowed=allowed, fix="record another size, or train a preset of smaller patches"
            )
    return opened


def first_precision(plan: Path, config: TrainConfig, device: torch.device) -> str:
    """Return the precision asked for; for auto, the one in the ``plan`` of a run that goes on, else what pays here."""
    if config.precision != "auto":
        return config.precision
    kept = json.loads(plan.read_text()).get("precision") if plan.is_file() else None
    wish = TYPES[kept] if kept in TYPES else fast_dtype(device)
    return "bf16" if agreed(wish == torch.bfloat16, device) else "fp32"
