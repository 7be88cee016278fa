"""Training: recorded episodes in, checkpoint folder out. The loop and what it takes to continue it to the bit.

Knows recordings and the denoiser; knows no environment and no simulator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldsim import checkpoint as checkpoints
from worldsim.beginning import all_recordings, check_kept, first_model, first_precision, first_weights
from worldsim.config import ModelConfig
from worldsim.dataset import EpisodeDataset, FrameCache
from worldsim.denoiser import Denoiser, to_unit
from worldsim.distributed import (
    agreed,
    connect,
    gathered,
    mean_over_processes,
    own_share,
    processes,
    shard,
    whole_state,
)
from worldsim.errors import UsageError
from worldsim.losses import pixel_weight
from worldsim.optim import learning_rate_factor, make_average, make_optimizers
from worldsim.precision import TYPES, autocast
from worldsim.provenance import provenance, write_json
from worldsim.readout import Read, reading_weights
from worldsim.rollout import Rollout
from worldsim.run_state import gather_state, load_state, save_state
from worldsim.training_config import TrainConfig
from worldsim.training_step import ClipSampler, Part, clip_length, draw_read, fit_readouts, own_context, training_draws
from worldsim.validation import ValidationSet, save_strips, validate

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE, PLAN, CHECKPOINT = "state.safetensors", "run.json", "checkpoint"
OWN_CONTEXT_COST = 0.6
"""Time that dreaming takes were all clips shown the model's own frames, over that of the rest of a step."""
VALIDATION_STEPS, VALIDATION_WINDOWS = 24, 24
"""Frames dreamt after the context, and held-out windows they are dreamt in, at every validation."""


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

    Under ``torchrun`` all processes share the clips of every step, and the losses are those of one process that takes
    them all, up to rounding. The first one writes into ``out``, which all must see.

    If ``out`` holds an unfinished run of the same recording and settings it is continued from its last saved state, to
    the same bits as if it had never been interrupted. Raises UsageError for unusable data, settings or run folders.

    Args:
        data: folder of the recording (`worldsim record`).
        out: folder of the run: state, checkpoint, strips and TensorBoard logs.
        preset: kind and size of the model: nano, small, base, large, or a U-Net beside the first two (`worldsim presets`).
        minutes: how long to train; turned into steps once, by timing, and stored. Give this or ``steps``.
        steps: number of optimisation steps.
        init: checkpoint whose weights to begin from instead of random ones (its sizes win over ``preset``). It may be of
            another world, with frames of any size: what it knows of pictures and motion is taken, not what it reads.
            With a preset that has a camera (small-camera), a checkpoint without one gains it.
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
    main, device = run.accelerator.is_main_process, run.accelerator.device
    with tqdm(total=total, initial=run.step, unit="step", disable=not (progress and main), dynamic_ncols=True) as bar:
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
            if last or agreed(now - validated > 60 * run.config.validate_minutes, device):
                bar.write(run.validate(total))
                validated = time.monotonic()
            if last or agreed(now - saved > 60 * run.config.save_minutes, device):
                run.save(total)
                saved = time.monotonic()
    run.accelerator.end_training()
    return run.out / CHECKPOINT


@dataclasses.dataclass(kw_only=True)
class _Run:
    """Everything that lives through a training run. ``step`` counts finished steps."""

    out: Path
    config: TrainConfig
    model: ModelConfig
    dataset: EpisodeDataset
    caches: Sequence[FrameCache]
    """Training episodes of every recording, which steps take in turn."""
    accelerator: Accelerator
    denoiser: Denoiser
    prepared: nn.Module
    average: torch.optim.swa_utils.AveragedModel
    optimizers: list[Any]
    identity: dict[str, Any]
    precision: str
    begun_from: Mapping[str, Any] | None = None
    drawn: dict[int, ClipSampler] = dataclasses.field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def begin(cls, data: Path, out: Path, preset: str, config: TrainConfig, init: str | None) -> _Run:
        """Open the recording, build model and optimisers, and take up the saved state if there is one."""
        dataset = EpisodeDataset.open(data)
        reading_weights(dataset.spec.readouts, config.loss.readout_weights)  # refuses wrong ones
        start = None if init is None else checkpoints.load(init)
        same_world = start is not None and start.world == dataset.spec
        model = first_model(preset, start, dataset.spec)
        denoiser = first_weights(model, start, dataset.spec, config.seed)
        if config.loss.readouts_only:
            check_kept(model, start, dataset.spec)
            denoiser.freeze_world()
        recordings = all_recordings(dataset, config.also, model.patch)
        dataset.cache("val")  # if there is none, now is the time to say so
        accelerator = connect(out)
        with accelerator.local_main_process_first():
            caches = [recording.cache("train") for recording in recordings]
        if not same_world:
            fit_readouts(denoiser, caches[0].readouts)
        identity = {
            "preset": preset,
            "model": model.to_json(),
            "dataset": "+".join(recording.fingerprint for recording in recordings),
            "init": init,
            "config": config.identity(),
        }
        precision = first_precision(out / PLAN, config, accelerator.device)
        average = make_average(denoiser.to(accelerator.device), config.optim)
        if config.shard:
            for module in (denoiser, average.module):
                shard(module)
        prepared = denoiser if config.shard else accelerator.prepare(denoiser)
        optimizers = make_optimizers(denoiser, config.optim, TYPES[precision])
        wrapped = [accelerator.prepare(optimizer) for optimizer in optimizers]
        run = cls(
            out=out, config=config, model=model, dataset=dataset, caches=caches, accelerator=accelerator,
            denoiser=denoiser, prepared=prepared, average=average, optimizers=wrapped, identity=identity,
            precision=precision, begun_from=None if start is None else start.training,
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
            begun = json.loads(plan.read_text())
            for name, asked, was in (("steps", steps, begun["steps"]), ("minutes", minutes, begun["minutes_asked"])):
                if asked not in (None, was):
                    raise UsageError(
                        name,
                        got=f"{asked} for the run in {self.out}, {self.step} steps of which are done",
                        allowed=f"what its learning rates were planned for: {begun['steps']} steps",
                        fix=f"the command it was begun with, or another run from where this one is: --init {self.out} --out OTHER",
                    )
            return int(begun["steps"])
        if (minutes is None) == (steps is None):
            raise UsageError(
                "minutes, steps",
                got=f"minutes {minutes}, steps {steps}",
                allowed="exactly one of the two",
                fix="give --minutes 30 for a time, or --steps 1000 for a number of steps",
            )
        total = steps if steps is not None else max(1, int(60 * float(minutes or 0) / self.seconds_per_step()))
        record = {
            "steps": total, "minutes_asked": minutes, "command": shlex.join(sys.argv), "precision": self.precision,
            **self.identity,
        }  # fmt: skip
        if self.accelerator.is_main_process:
            write_json(plan, {**record, "origin": provenance(self.config.seed)})
        return total

    def seconds_per_step(self) -> float:
        """Time a step of the middle stage without moving a weight, and allow for the extra passes of later stages."""
        middle, fastest = self.config.clip_frames[len(self.config.clip_frames) // 2], []
        for turn, cache in enumerate(self.caches):
            length, times = clip_length(cache.offsets, middle), []
            for trial in range(4):
                begun = time.monotonic()
                self._gradients(turn + trial * len(self.caches), length, shortcut=0.0, own=0.0)
                self.prepared.zero_grad()
                times.append(time.monotonic() - begun)
            fastest.append(min(times[1:]))
        c = self.config
        shortcut = (1 - c.shortcut_start) * c.shortcut_share * 2 / 3
        own = (1 - c.self_context_start) * c.self_context_share * OWN_CONTEXT_COST
        extra = shortcut + own
        seconds = mean_over_processes(torch.tensor(fastest, device=self.accelerator.device).mean())
        return float(seconds) * 1.08 * (1 + extra)

    def clips_per_step(self, total: int) -> int:
        """Number of clips in the coming step, of all processes."""
        return len(own_share(self.config.frames_per_step // self.clip_length(total))) * processes()

    def clip_length(self, total: int) -> int:
        """Target frames of a clip in the coming step."""
        return clip_length(self._cache(self.step).offsets, self.config.stage_frames(self.step, total))

    def _cache(self, step: int) -> FrameCache:
        """Return the recording whose turn it is."""
        return self.caches[step % len(self.caches)]

    def sampler(self, step: int, length: int) -> ClipSampler:
        """Return what draws the clips of ``length`` target frames of a step."""
        turn = step % len(self.caches)
        if turn not in self.drawn or self.drawn[turn].length != length:
            self.drawn[turn] = ClipSampler.of(self._cache(step), length, self.config.balanced_share)
        return self.drawn[turn]

    def _parts(self, step: int, length: int, shortcut: float) -> list[Part]:
        """Return this process's share of the clips of a step, in the parts that go through the network one by one."""
        c, device = self.config, self.accelerator.device
        if c.loss.readouts_only:
            shares = [1 / c.gradient_accumulation] * c.gradient_accumulation
            return [Part(share=share, read=read) for share, read in zip(shares, self._reads(step, shares), strict=True)]
        mine = own_share(c.frames_per_step // length)
        clip = self.sampler(step, length).draw(mine, (c.seed, step, 0))
        draws = training_draws(clip, self.denoiser, c.loss, shortcut, (c.seed, step, 1), mine.start).to(device)
        clip = clip.to(device)
        pixels = pixel_weight(to_unit(clip.frames), c.loss, lambda of: mean_over_processes(of.mean()))
        cuts = torch.arange(len(mine), device=device).chunk(c.gradient_accumulation)
        shares = [len(rows) / len(mine) for rows in cuts]
        return [
            Part(share=share, read=read, clip=clip.rows(rows), draws=draws.rows(rows), pixels=pixels[rows])
            for rows, share, read in zip(cuts, shares, self._reads(step, shares), strict=True)
        ]

    def _reads(self, step: int, shares: Sequence[float]) -> list[Read]:
        """Draw the frames of a step that this process reads, one or more for each of its parts, by their ``shares``."""
        c = self.config
        mine = own_share(max(c.reads_per_step, c.gradient_accumulation * processes()))
        edges = [mine.start + round(len(mine) * before) for before in itertools.accumulate(shares, initial=0.0)]
        return [
            draw_read(self._cache(step), range(*ends), (c.seed, step, 3)).to(self.accelerator.device)
            for ends in itertools.pairwise(edges)
        ]

    def _gradients(self, step: int, length: int, shortcut: float, own: float) -> dict[str, Tensor]:
        """Add up the gradients of a step, part by part, and return its loss terms: means over all processes."""
        parts = self._parts(step, length, shortcut)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            waits = number + 1 < len(parts)
            with self.accelerator.no_sync(self.prepared) if waits else contextlib.nullcontext():
                with autocast(self.accelerator.device, TYPES[self.precision]):
                    terms = self._losses(part, own, (self.config.seed, step, 2))
                self.accelerator.backward(part.share * terms["loss"])
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + part.share * value.detach()
        return dict(zip(sums, mean_over_processes(torch.stack(list(sums.values()))), strict=True))

    def _losses(self, part: Part, own: float, place: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the loss terms of one part; a share ``own`` of its clips is shown the model's own frames."""
        if part.clip is None:
            return self.prepared(None, None, part.read, self.config.loss)
        assert part.draws is not None
        with gathered(self.denoiser):
            context = own_context(self.denoiser, part.clip, part.draws, own, place)
        torch.clear_autocast_cache()  # torch 2.9 hands weights that were cast without gradients to the loss (issue 158232)
        return self.prepared(part.clip, part.draws, part.read, self.config.loss, context, part.pixels)

    def advance(self, total: int) -> dict[str, float]:
        """Take one optimisation step and return its loss terms."""
        begun = time.monotonic()
        c = self.config
        progressed = self.step / total
        shortcut = c.shortcut_share if progressed >= c.shortcut_start else 0.0
        own = c.self_context_share if progressed >= c.self_context_start else 0.0
        terms = self._gradients(self.step, self.clip_length(total), shortcut, own)
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
        return {name: float(value) for name, value in terms.items()}

    def validate(self, total: int) -> str:
        """Dream held-out windows with the averaged weights, log scores and a strip, and return a line for people.

        The first process does so while the others wait at the next step.
        """
        checkpoint = self.checkpoint(total)
        if not self.accelerator.is_main_process:
            return ""
        cache = self.dataset.cache("val")
        held_out = ValidationSet.choose(cache, self.dataset.spec.context_steps, VALIDATION_STEPS, VALIDATION_WINDOWS)
        denoiser = checkpoint.denoiser().eval().requires_grad_(False).to(self.accelerator.device)
        denoiser.network.to(TYPES[self.precision])
        result = validate(Rollout(denoiser, self.sampler_steps(total)), held_out)
        self.scores = result.scores
        self.accelerator.log({f"val/{name}": value for name, value in result.scores.items()}, step=self.step)
        save_strips(self.out / "strips" / f"step_{self.step:06d}.png", held_out, result.dream)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
        return f"step {self.step} of {total}, {self.seconds / 60:.1f} min: {shown}"

    def sampler_steps(self, total: int) -> int:
        """Return the sampler steps to dream with: the finest until the shortcut objective has taught fewer."""
        taught = self.config.shortcut_share > 0 and self.step / total > self.config.shortcut_start
        return min(self.config.sampler_steps, self.model.max_steps) if taught else self.model.max_steps

    def checkpoint(self, total: int) -> checkpoints.Checkpoint:
        """Return the averaged weights, in one piece, with their training record; all processes must call this."""
        record = {
            "steps": self.step, "steps_planned": total, "minutes": round(self.seconds / 60, 2),
            "command": shlex.join(["worldsim", *sys.argv[1:]]), "preset": self.identity["preset"],
            "init": self.identity["init"], "begun_from": self.begun_from, "precision": self.precision,
            "config": dataclasses.asdict(self.config), "validation": self.scores,
            "parameters": sum(p.numel() for p in self.denoiser.parameters()),
            **provenance(self.config.seed, str(self.accelerator.device)),
        }  # fmt: skip
        dataset = {
            "fingerprint": self.identity["dataset"],
            "env_id": self.dataset.spec.env_id,
            "train_frames": sum(int(cache.offsets[-1]) for cache in self.caches),
        }
        return checkpoints.Checkpoint(
            model=self.model,
            world=self.dataset.spec,
            weights=whole_state(self.average.module),
            sampler_steps=self.sampler_steps(total),
            dataset=dataset,
            training=record,
        )

    def save(self, total: int) -> None:
        """Write the exact state and the playable checkpoint, each under a temporary name first."""
        optimizers = [optimizer.optimizer for optimizer in self.optimizers]
        state = gather_state({"model": self.denoiser, "average": self.average}, optimizers)
        checkpoint = self.checkpoint(total)
        if not self.accelerator.is_main_process:
            return
        record = {"identity": self.identity, "step": self.step, "seconds": self.seconds, "scores": self.scores}
        self.out.mkdir(parents=True, exist_ok=True)
        save_state(self.out / STATE, state, record)
        checkpoints.save(checkpoint, self.out / CHECKPOINT, card=checkpoints.card(checkpoint), dtype=torch.bfloat16)
