"""Training: recorded episodes in, checkpoint folder out. The loop and what it takes to continue it to the bit.

Knows recordings and the denoiser; knows no environment and no simulator.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldsim import checkpoint as checkpoints
from worldsim import config as configs
from worldsim.config import ModelConfig
from worldsim.dataset import EpisodeDataset, FrameCache
from worldsim.denoiser import Denoiser, LossConfig
from worldsim.errors import UsageError
from worldsim.optim import OptimConfig, learning_rate_factor, make_average, make_optimizers
from worldsim.precision import fast_dtype
from worldsim.provenance import provenance, write_json
from worldsim.rollout import Rollout
from worldsim.run_state import load_state, save_state
from worldsim.training_step import ClipSampler, clip_length, draw_read, fit_readouts, own_context, training_draws
from worldsim.validation import ValidationSet, save_strips, validate

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE, PLAN, CHECKPOINT = "state.safetensors", "run.json", "checkpoint"
OWN_CONTEXT_COST = 0.6
"""Time that dreaming takes were all clips shown the model's own frames, over that of the rest of a step."""
VALIDATION_STEPS, VALIDATION_WINDOWS = 24, 24
"""Frames dreamt after the context, and held-out windows they are dreamt in, at every validation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a training run does. Saved as ``run.json`` with the number of steps it was resolved to."""

    seed: int = 0
    frames_per_step: int = 48
    """Target frames in a step, whatever the clip length."""
    clip_frames: tuple[int, ...] = (8, 16, 40)
    """Target frames of a clip, stage by stage: clips grow until they are longer than the window."""
    clip_shares: tuple[float, ...] = (0.4, 0.4, 0.2)
    """Share of the steps of each stage."""
    balanced_share: float = 0.7
    """Share of the clips drawn so that every action dimension is at work equally often; the others are drawn evenly."""
    shortcut_share: float = 0.25
    """Share of clips trained for fewer sampler steps, once the shortcut objective has begun."""
    shortcut_start: float = 0.5
    """Share of the run after which the shortcut objective begins."""
    self_context_share: float = 0.4
    """Share of clips shown the model's own estimates as context, once that has begun."""
    self_context_start: float = 0.25
    """Share of the run after which models see their own estimates."""
    validate_minutes: float = 5.0
    save_minutes: float = 2.0
    sampler_steps: int = 2
    """Sampler steps of validation and the checkpoint's default."""
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if len(self.clip_frames) != len(self.clip_shares) or abs(sum(self.clip_shares) - 1) > 1e-6:
            raise UsageError(
                "clip_shares",
                got=f"{self.clip_shares} for clip_frames {self.clip_frames}",
                allowed="one share per clip length, 1 in sum",
                fix="give both, for example clip_frames [8, 16] and clip_shares [0.5, 0.5]",
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Rebuild settings from JSON, whole or in part; TypeError for unknown ones."""
        values: dict[str, Any] = dict(data)
        for name in ("clip_frames", "clip_shares"):
            if name in values:
                values[name] = tuple(values[name])
        for name, kind in (("loss", LossConfig), ("optim", OptimConfig)):
            if name in values:
                values[name] = kind(**values[name])
        return cls(**values)

    def stage_frames(self, step: int, total: int) -> int:
        """Return the clip length of ``step``."""
        edges = np.cumsum(self.clip_shares) * total
        return self.clip_frames[int(np.searchsorted(edges[:-1], step, side="right"))]


def train(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    preset: str = "small",
    minutes: float | None = None,
    steps: int | None = None,
    init: str | None = None,
    config: TrainConfig | None = None,
    progress: bool = True,
) -> Path:
    """Train a world model on a recording and return its checkpoint folder, ``out/checkpoint``.

    If ``out`` holds an unfinished run of the same recording and settings it is continued from its last saved state, to
    the same bits as if it had never been interrupted. Raises UsageError for unusable data, settings or run folders.

    Args:
        data: folder of the recording (`worldsim record`).
        out: folder of the run: state, checkpoint, strips and TensorBoard logs.
        preset: kind and size of the model: nano, small, base, large, or a U-Net beside the first two (`worldsim presets`).
        minutes: how long to train; turned into steps once, by timing, and stored. Give this or ``steps``.
        steps: number of optimisation steps.
        init: checkpoint whose weights to begin from instead of random ones (its sizes win over ``preset``).
        config: everything else about the run.
        progress: show a progress bar.
    """
    torch.set_float32_matmul_precision("high")
    if minutes is not None and not minutes > 0:
        raise UsageError("minutes", got=minutes, allowed="more than 0", fix="for example --minutes 30")
    if steps is not None and steps < 1:
        raise UsageError("steps", got=steps, allowed="1 or more", fix="for example --steps 1000")
    run = _Run.begin(Path(data), Path(out), preset, config or TrainConfig(), init)
    total = run.resolve_steps(minutes, steps)
    bar = tqdm(total=total, initial=run.step, unit="step", disable=not progress, dynamic_ncols=True)
    saved = validated = time.monotonic()
    while run.step < total:
        begun = time.monotonic()
        terms = run.advance(total)
        now = time.monotonic()
        clips = run.clips_per_step(total)
        bar.set_postfix(loss=f"{terms['loss']:.4f}", clips_per_s=f"{clips / (now - begun):.1f}", refresh=False)
        bar.update(1)
        run.accelerator.log({f"train/{name}": value for name, value in terms.items()}, step=run.step)
        last = run.step == total
        if last or now - validated > 60 * run.config.validate_minutes:
            bar.write(run.validate(total))
            validated = time.monotonic()
        if last or now - saved > 60 * run.config.save_minutes:
            run.save(total)
            saved = time.monotonic()
    bar.close()
    run.accelerator.end_training()
    return run.out / CHECKPOINT


@dataclasses.dataclass(kw_only=True)
class _Run:
    """Everything that lives through a training run. ``step`` counts finished steps."""

    out: Path
    config: TrainConfig
    model: ModelConfig
    dataset: EpisodeDataset
    cache: FrameCache
    accelerator: Accelerator
    denoiser: Denoiser
    prepared: nn.Module
    average: torch.optim.swa_utils.AveragedModel
    optimizers: list[Any]
    identity: dict[str, Any]
    begun_from: Mapping[str, Any] | None = None
    drawn: ClipSampler | None = None
    step: int = 0
    seconds: float = 0.0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def begin(cls, data: Path, out: Path, preset: str, config: TrainConfig, init: str | None) -> _Run:
        """Open the recording, build model and optimisers, and take up the saved state if there is one."""
        dataset = EpisodeDataset.open(data)
        start = None if init is None else checkpoints.load(init)
        model = configs.preset(preset) if start is None else start.model
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            denoiser = checkpoints.build(model, dataset.spec) if start is None else start.denoiser()
        if start is not None and start.world != dataset.spec:
            raise UsageError(
                "init",
                got=f"a checkpoint of {start.world.env_id} with actions {start.world.action_names}",
                allowed=f"a checkpoint of {dataset.spec.env_id} with actions {dataset.spec.action_names}",
                fix="train from scratch, or record with the same environment, size and readouts",
            )
        if config.loss.readouts_only:
            if start is None:
                raise UsageError(
                    "readouts_only", got="no init", allowed="with a trained world to read", fix="--init arena-small"
                )
            denoiser.freeze_world()
        cache = dataset.cache("train")
        dataset.cache("val")  # if there is none, now is the time to say so
        accelerator = _accelerator(out)
        if start is None:
            fit_readouts(denoiser, cache.readouts)
        identity = {
            "preset": preset,
            "model": model.to_json(),
            "dataset": dataset.fingerprint,
            "init": init,
            "config": json.loads(json.dumps(dataclasses.asdict(config))),
        }
        optimizers = make_optimizers(denoiser, config.optim)
        average = make_average(denoiser, config.optim)
        prepared, *wrapped = accelerator.prepare(denoiser, *optimizers)
        run = cls(
            out=out, config=config, model=model, dataset=dataset, cache=cache, accelerator=accelerator,
            denoiser=denoiser, prepared=prepared, average=average, optimizers=wrapped, identity=identity,
            begun_from=None if start is None else start.training,
        )  # fmt: skip
        if (out / STATE).is_file():
            run.resume()
        return run

    def resume(self) -> None:
        """Continue from the last saved state; UsageError if the folder holds a run of other settings."""
        optimizers = [optimizer.optimizer for optimizer in self.optimizers]
        record = load_state(self.out / STATE, {"model": self.denoiser, "average": self.average}, optimizers)
        for name, value in self.identity.items():
            if record["identity"].get(name) != value:
                raise UsageError(
                    f"run folder {self.out}, {name}",
                    got=str(value)[:300],
                    allowed=f"what the run was begun with: {str(record['identity'].get(name))[:300]}",
                    fix="give another --out, or the settings this run was begun with",
                )
        self.step, self.seconds, self.scores = record["step"], record["seconds"], record["scores"]

    def resolve_steps(self, minutes: float | None, steps: int | None) -> int:
        """Return the number of steps of this run, fixed at its first start and stored in ``run.json``."""
        plan = self.out / PLAN
        if plan.is_file() and self.step > 0:
            return int(json.loads(plan.read_text())["steps"])
        if (minutes is None) == (steps is None):
            raise UsageError(
                "minutes, steps",
                got=f"minutes {minutes}, steps {steps}",
                allowed="exactly one of the two",
                fix="give --minutes 30 for a time, or --steps 1000 for a number of steps",
            )
        total = steps if steps is not None else max(1, int(60 * float(minutes or 0) / self.seconds_per_step()))
        record = {"steps": total, "minutes_asked": minutes, "command": shlex.join(sys.argv), **self.identity}
        write_json(plan, {**record, "origin": provenance(self.config.seed)})
        return total

    def seconds_per_step(self) -> float:
        """Time a step of the middle stage without moving a weight, and allow for the extra passes of later stages."""
        length = clip_length(self.cache.offsets, self.config.clip_frames[len(self.config.clip_frames) // 2])
        times = []
        for trial in range(4):
            begun = time.monotonic()
            self._losses(trial, length, shortcut=0.0, own=0.0)["loss"].backward()
            self.prepared.zero_grad()
            times.append(time.monotonic() - begun)
        c = self.config
        shortcut = (1 - c.shortcut_start) * c.shortcut_share * 2 / 3
        own = (1 - c.self_context_start) * c.self_context_share * OWN_CONTEXT_COST
        extra = shortcut + own
        return min(times[1:]) * 1.08 * (1 + extra)

    def clips_per_step(self, total: int) -> int:
        """Number of clips in the coming step."""
        return max(1, self.config.frames_per_step // self.clip_length(total))

    def clip_length(self, total: int) -> int:
        """Target frames of a clip in the coming step."""
        return clip_length(self.cache.offsets, self.config.stage_frames(self.step, total))

    def sampler(self, length: int) -> ClipSampler:
        """Return what draws the clips of ``length`` target frames."""
        if self.drawn is None or self.drawn.length != length:
            self.drawn = ClipSampler.of(self.cache, length, self.config.balanced_share)
        return self.drawn

    def _losses(self, step: int, length: int, shortcut: float, own: float) -> dict[str, Tensor]:
        rank = self.accelerator.process_index
        if self.config.loss.readouts_only:
            read = draw_read(self.cache, self.config.frames_per_step, (self.config.seed, step, rank, 2))
            return self.prepared(read.to(self.accelerator.device), None, self.config.loss)
        count = max(1, self.config.frames_per_step // length)
        clip = self.sampler(length).draw(count, (self.config.seed, step, rank, 0))
        draws, generator = training_draws(
            clip, self.denoiser, self.config.loss, shortcut, (self.config.seed, step, rank, 1)
        )
        clip, draws = clip.to(self.accelerator.device), draws.to(self.accelerator.device)
        with self.accelerator.autocast():
            context = own_context(self.denoiser, clip, draws, generator, own)
            return self.prepared(clip, draws, self.config.loss, context)

    def advance(self, total: int) -> dict[str, float]:
        """Take one optimisation step and return its loss terms."""
        begun = time.monotonic()
        c = self.config
        progressed = self.step / total
        shortcut = c.shortcut_share if progressed >= c.shortcut_start else 0.0
        own = c.self_context_share if progressed >= c.self_context_start else 0.0
        terms = self._losses(self.step, self.clip_length(total), shortcut, own)
        self.accelerator.backward(terms["loss"])
        self.accelerator.clip_grad_norm_(self.prepared.parameters(), c.optim.grad_clip)
        factor = learning_rate_factor(self.step, total, c.optim)
        for optimizer, rate in zip(self.optimizers, c.optim.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.denoiser)
        self.step += 1
        self.seconds += time.monotonic() - begun
        return {name: float(value.detach()) for name, value in terms.items()}

    def validate(self, total: int) -> str:
        """Dream held-out windows with the averaged weights, log scores and a strip, and return a line for people."""
        cache = self.dataset.cache("val")
        held_out = ValidationSet.choose(cache, self.dataset.spec.context_steps, VALIDATION_STEPS, VALIDATION_WINDOWS)
        denoiser = self.checkpoint(total).denoiser().eval().requires_grad_(False).to(self.accelerator.device)
        denoiser.network.to(fast_dtype(self.accelerator.device))
        result = validate(Rollout(denoiser, self.sampler_steps(total)), held_out)
        self.scores = result.scores
        if self.accelerator.is_main_process:
            self.accelerator.log({f"val/{name}": value for name, value in result.scores.items()}, step=self.step)
            save_strips(self.out / "strips" / f"step_{self.step:06d}.png", held_out, result.dream)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
        return f"step {self.step} of {total}, {self.seconds / 60:.1f} min: {shown}"

    def sampler_steps(self, total: int) -> int:
        """Return the sampler steps to dream with: the finest until the shortcut objective has taught fewer."""
        taught = self.config.shortcut_share > 0 and self.step / total > self.config.shortcut_start
        return min(self.config.sampler_steps, self.model.max_steps) if taught else self.model.max_steps

    def checkpoint(self, total: int) -> checkpoints.Checkpoint:
        """Return the averaged weights with their training record."""
        record = {
            "steps": self.step, "steps_planned": total, "minutes": round(self.seconds / 60, 2),
            "command": shlex.join(["worldsim", *sys.argv[1:]]), "preset": self.identity["preset"],
            "init": self.identity["init"], "begun_from": self.begun_from,
            "config": self.identity["config"], "validation": self.scores,
            "parameters": sum(p.numel() for p in self.denoiser.parameters()),
            **provenance(self.config.seed, str(self.accelerator.device)),
        }  # fmt: skip
        dataset = {
            "fingerprint": self.dataset.fingerprint,
            "env_id": self.dataset.spec.env_id,
            "train_frames": self.dataset.num_frames("train"),
        }
        return checkpoints.Checkpoint(
            model=self.model,
            world=self.dataset.spec,
            weights=self.average.module.state_dict(),
            sampler_steps=self.sampler_steps(total),
            dataset=dataset,
            training=record,
        )

    def save(self, total: int) -> None:
        """Write the exact state and the playable checkpoint, each under a temporary name first."""
        if not self.accelerator.is_main_process:
            return
        optimizers = [optimizer.optimizer for optimizer in self.optimizers]
        record = {"identity": self.identity, "step": self.step, "seconds": self.seconds, "scores": self.scores}
        self.out.mkdir(parents=True, exist_ok=True)
        save_state(self.out / STATE, {"model": self.denoiser, "average": self.average}, optimizers, record)
        checkpoint = self.checkpoint(total)
        checkpoints.save(checkpoint, self.out / CHECKPOINT, card=checkpoints.card(checkpoint), dtype=torch.bfloat16)


def _accelerator(out: Path) -> Accelerator:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UsageError(
            "worldsim train", got="no accelerate", allowed="the train extra", fix="pip install 'worldsim[train]'"
        ) from error
    cpu = not torch.cuda.is_available()
    precision = "bf16" if fast_dtype("cpu" if cpu else "cuda") == torch.bfloat16 else "no"
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, log_with="tensorboard", project_dir=str(out))
    accelerator.init_trackers("logs")
    return accelerator
