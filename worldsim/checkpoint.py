"""Checkpoints on disk: one folder of weights, settings and a card. No pickle anywhere; knows no training loop."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from worldsim import hub
from worldsim.config import ARCHITECTURES, ModelConfig
from worldsim.denoiser import Denoiser
from worldsim.dit import DiT
from worldsim.errors import UsageError, suggestion
from worldsim.foreign import MAX_JSON_BYTES, file_size, is_mapping, read_json, read_tensors, refused
from worldsim.sampler import check_num_steps
from worldsim.spec import WorldSpec
from worldsim.unet import UNet

FORMAT = 1
"""Number of the checkpoint layout; a checkpoint of another number is refused."""
WEIGHTS, SETTINGS, CARD = "model.safetensors", "config.json", "README.md"
MAX_DREAM_BYTES = 1 << 34
"""Most that one dream may have to remember: its window of frames, with keys and values of all layers."""
_KEYS = {"format", "architecture", "model", "world", "sampler", "dataset", "training", "weights_sha256"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights with everything needed to use them: what config.json holds, and the tensors."""

    model: ModelConfig
    world: WorldSpec
    weights: Mapping[str, Tensor]
    sampler_steps: int
    dataset: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Identity of the recording: fingerprint, env id, size."""
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Training record: command, seed, steps, minutes, device, commit, versions, validation scores."""

    def denoiser(self) -> Denoiser:
        """Build the denoiser with these weights (float32), once it is known that they are all of its size."""
        wanted = {name: tuple(weight.shape) for name, weight in skeleton(self.model, self.world).state_dict().items()}
        weights = {name: tensor if tensor.ndim else tensor[None] for name, tensor in self.weights.items()}  # as of old
        got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        for name in sorted(wanted.keys() | got.keys()):
            if wanted.get(name) != got.get(name):
                raise UsageError(
                    f"weight {name!r}",
                    got=f"shape {got.get(name, 'missing')}",
                    allowed=f"shape {wanted.get(name, 'no such weight')} by config.json",
                    fix="weights and config.json are of different models: copy the whole folder again",
                )
        denoiser = build(self.model, self.world)
        denoiser.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return denoiser


def build(model: ModelConfig, world: WorldSpec) -> Denoiser:
    """Return an untrained denoiser of the given sizes for the given world."""
    kind = DiT if model.architecture == "dit" else UNet
    return Denoiser(kind(model, world.action_dim, Denoiser.readout_dim(world.readouts)), world)


class _Bare(TorchFunctionMode):
    """Takes no memory for what torch's layers are made of, and fills nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__module__", "") == "torch.nn.init" or func is torch.Tensor.normal_:
            return args[0] if args else named["tensor"]
        return func(*args, **(named | {"device": "meta"} if func is torch.empty else named))


def skeleton(model: ModelConfig, world: WorldSpec) -> Denoiser:
    """Return such a denoiser without its weights: what it would be made of can be counted."""
    with torch.random.fork_rng(devices=[]), _Bare():
        return build(model, world)


def save(checkpoint: Checkpoint, folder: str | os.PathLike[str], *, card: str, dtype: torch.dtype) -> Path:
    """Write a checkpoint folder under a temporary name, then rename it into place; an older one is replaced.

    ``dtype`` is the type the weights are stored in; normalisation buffers stay float32.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        tensors = {
            name: tensor.detach().to("cpu", torch.float32 if name.startswith(("mean_", "std_")) else dtype).contiguous()
            for name, tensor in checkpoint.weights.items()
        }
        save_file(tensors, temporary / WEIGHTS)
        (temporary / WEIGHTS).chmod(0o644)  # the writer leaves it private
        settings = {
            "format": FORMAT,
            "architecture": checkpoint.model.architecture,
            "model": checkpoint.model.to_json(),
            "world": checkpoint.world.to_json(),
            "sampler": {"num_steps": checkpoint.sampler_steps},
            "dataset": dict(checkpoint.dataset),
            "training": dict(checkpoint.training),
            "weights_sha256": hashlib.sha256((temporary / WEIGHTS).read_bytes()).hexdigest(),
        }
        (temporary / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")
        (temporary / CARD).write_text(card)
        temporary.chmod(0o755)
        if target.exists():
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def embedded() -> dict[str, Path]:
    """Return the checkpoints that come with the package, by name."""
    root = Path(str(importlib.resources.files("worldsim"))) / "checkpoints"
    if not root.is_dir():
        return {}
    return {path.name: path for path in sorted(root.iterdir()) if (path / SETTINGS).is_file()}


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a checkpoint given by embedded name, by path (a training run's folder also serves) or on the hub."""
    if str(name_or_path).startswith(hub.PREFIX):
        name_or_path = hub.fetch(str(name_or_path))
    known = embedded()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path)
    for candidate in (path, path / "checkpoint"):
        if (candidate / SETTINGS).is_file():
            return candidate
    raise UsageError(
        "checkpoint",
        got=repr(str(name_or_path)),
        allowed=f"a folder with {SETTINGS} and {WEIGHTS}, an embedded name ({', '.join(known) or 'none here'}), or hf:OWNER/NAME",
        fix=suggestion(str(name_or_path), tuple(known)) if known else "train one with `worldsim train`",
    )


def load(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint folder; UsageError names what is missing, truncated, foreign or of another version."""
    folder = resolve(name_or_path)
    settings, model, world = read_settings(folder / SETTINGS)
    return Checkpoint(
        model=model,
        world=world,
        weights=_weights(folder / WEIGHTS, settings["weights_sha256"], model, world),
        sampler_steps=settings["sampler"]["num_steps"],
        dataset=settings["dataset"],
        training=settings["training"],
    )


def read_settings(path: Path) -> tuple[Mapping[str, Any], ModelConfig, WorldSpec]:
    """Read a checkpoint's config.json, and of it the model and the world; UsageError for what cannot be."""
    try:
        settings = read_json(path)
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    if not isinstance(settings, dict) or set(settings) != _KEYS or settings["format"] != FORMAT:
        found = sorted(settings) if isinstance(settings, dict) else type(settings).__name__
        raise _broken(path, f"keys {found}; this version reads format {FORMAT} with {sorted(_KEYS)}")
    model, world = ModelConfig.from_json(settings["model"]), WorldSpec.from_json(settings["world"])
    _check_settings(settings, model)
    return settings, model, world


def _check_settings(settings: Mapping[str, Any], model: ModelConfig) -> None:
    """Refuse records that are none, and sampler steps that cannot be."""
    sampler, record = settings["sampler"], settings["training"]
    if not is_mapping(sampler) or type(sampler.get("num_steps")) is not int:
        raise refused("checkpoint, sampler", sampler, '{"num_steps": a whole number}')
    check_num_steps(sampler["num_steps"], model.max_steps)
    stages = [settings["dataset"], record]
    while is_mapping(stages[-1]) and stages[-1].get("begun_from"):
        stages.append(stages[-1]["begun_from"])
    scores: Any = record.get("validation", {}) if is_mapping(record) else None
    scored = is_mapping(scores) and all(isinstance(score, float | int) for score in scores.values())
    if not all(map(is_mapping, stages)) or not scored or not isinstance(settings["weights_sha256"], str):
        raise refused("checkpoint, dataset and training", stages[-1], "records by name")


def _check_memory(denoiser: Denoiser, world: WorldSpec) -> None:
    """Refuse a world whose dreams no memory could hold."""
    config = denoiser.network.config
    height, width = (max(1, side // config.patch) for side in world.frame_shape[:2])
    rings = 2 * sum(map(math.prod, denoiser.network.layers((height, width))))
    size = 4 * config.window * (rings + 2 * math.prod(world.frame_shape))
    if size > MAX_DREAM_BYTES:
        got = f"{size / 1e9:.0f} GB (window {config.window}, frames {world.frame_shape})"
        raise refused("checkpoint, memory of one dream", got, f"at most {MAX_DREAM_BYTES / 1e9:.0f} GB")


def _weights(path: Path, sha256: str, model: ModelConfig, world: WorldSpec) -> Mapping[str, Tensor]:
    """Read the weights; no byte of a file that is larger than the model."""
    try:
        bare = skeleton(model, world)
        _check_memory(bare, world)
        most = 8 * sum(weight.numel() for weight in bare.state_dict().values()) + MAX_JSON_BYTES
        if file_size(path) > most:
            raise ValueError(f"{file_size(path):,} bytes, where {SETTINGS} speaks of {most:,} at the most")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise ValueError(f"sha256 {digest[:12]} where {SETTINGS} says {sha256[:12]}")
        weights, _ = read_tensors(path)
        strange = next((name for name, tensor in weights.items() if not tensor.dtype.is_floating_point), None)
        if strange is not None:
            raise ValueError(f"{strange!r} is of type {weights[strange].dtype}")
    except UsageError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a RuntimeError where torch cannot count so many weights
        raise _broken(path, error) from error
    return weights


def _broken(path: Path, reason: object) -> UsageError:
    return UsageError(
        "checkpoint file",
        got=f"{path} ({reason})",
        allowed="a whole file written by worldsim",
        fix="the file is truncated, edited or foreign: copy or train the checkpoint again",
    )


def card(checkpoint: Checkpoint) -> str:
    """Return the model card: what it is, how it was trained, and how to use it."""
    record, world = checkpoint.training, checkpoint.world
    before = "".join(
        f"\n| begun from | `{stage.get('command')}`, {stage.get('steps')} steps, {stage.get('minutes')} minutes"
        + (f"; then by hand: {stage['converted']} |" if "converted" in stage else " |")
        for stage in earlier_stages(record)
    )
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in record.get("validation", {}).items())
    return f"""# A worldsim checkpoint of {world.env_id}

A {ARCHITECTURES[checkpoint.model.architecture]} that dreams {world.frame_shape[1]} x {world.frame_shape[0]} frames at \
{world.frame_rate_hz:g} frames a second under the actions {", ".join(world.action_names)}.

```python
import gymnasium as gym
env = gym.make("worldsim:worldsim/Dream-v0", checkpoint="PATH OF THIS FOLDER")
```

| | |
|---|---|
| parameters | {record.get("parameters")} (width {checkpoint.model.width}, depth {checkpoint.model.depth}) |
| trained with | `{record.get("command")}` |{before}
| steps, minutes | {record.get("steps")} of {record.get("steps_planned")}, {record.get("minutes")} |
| recording | {checkpoint.dataset.get("fingerprint", "?")[:16]}, {checkpoint.dataset.get("train_frames")} frames |
| device | {record.get("device")} ({record.get("cpu")}), {record.get("threads")} threads |
| seed, commit | {record.get("seed")}, {record.get("commit")} |

Validation on held-out episodes (squared error on moving pixels, -1 .. 1, after N frames):

| score | value |
|---|---|
{scores}
"""


def earlier_stages(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the training records of the checkpoints that a run was begun from (``--init``), the latest first."""
    stages, stage = [], record.get("begun_from")
    while stage:
        stages.append(stage)
        stage = stage.get("begun_from")
    return stages
