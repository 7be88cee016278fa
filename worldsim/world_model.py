"""WorldModel: a trained world with the two calls people use, `predict` and `rollout`. Knows no environment."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from worldsim import checkpoint as checkpoints
from worldsim import rollout as rollouts
from worldsim.backends import Graphs, split_device
from worldsim.config import ModelConfig, preset
from worldsim.denoiser import Denoiser
from worldsim.errors import UsageError
from worldsim.precision import fast_dtype
from worldsim.reading import read_clips
from worldsim.spec import WorldSpec
from worldsim.surprise import surprise


class WorldModel:
    """A world that has been learnt: what it is about (``spec``), and how to dream it (`predict`, `rollout`)."""

    def __init__(self, checkpoint: checkpoints.Checkpoint, *, device: str = "cpu", dtype: torch.dtype) -> None:
        place, backend = split_device(device)
        self.device = device
        self.checkpoint = checkpoint
        self.denoiser: Denoiser = checkpoint.denoiser().eval().requires_grad_(False).to(place)
        self.denoiser.network.to(dtype)
        self.graphs = None if backend == "eager" else Graphs(self.denoiser.network, backend)
        self.num_steps = checkpoint.sampler_steps
        self.conditioned = True

    def __deepcopy__(self, memo: dict[int, object]) -> WorldModel:
        """Return the model itself: its weights never change, and Gymnasium deep-copies the arguments of environments."""
        return self

    @property
    def spec(self) -> WorldSpec:
        """The world this model was trained on."""
        return self.checkpoint.world

    @property
    def config(self) -> ModelConfig:
        """Sizes of the network."""
        return self.checkpoint.model

    def unconditioned(self) -> WorldModel:
        """Return this model told of no action: what it expects whatever is done (the null embedding of training)."""
        other = copy.copy(self)
        other.conditioned = False
        return other

    def rollout(self, num_steps: int | None = None) -> rollouts.Rollout:
        """Return a streaming rollout with ``num_steps`` sampler steps a frame (None: the checkpoint's default)."""
        steps = self.num_steps if num_steps is None else num_steps
        return rollouts.Rollout(self.denoiser, steps, conditioned=self.conditioned, graphs=self.graphs)

    def predict(
        self,
        context_frames: UInt8[np.ndarray, "b k1 h w 3"],
        context_actions: Float32[np.ndarray, "b k a"],
        actions: Float32[np.ndarray, "b t a"],
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> UInt8[np.ndarray, "b s t h w 3"]:
        """Dream ``num_samples`` futures of every context under ``actions``.

        ``context_frames`` holds one frame more than ``context_actions``. ``seeds`` (one per context, default
        0, 1, ...) fix the noise: sample i of a context uses ``seed + 1_000_003 * i``. In one sampler step a model has one answer, and its samples
        hardly differ. Returns uint8 frames (contexts, samples, steps, height, width, 3).
        """
        count = len(context_frames)
        actions = self._taken(actions)
        bases = np.arange(count) if seeds is None else np.asarray(seeds)
        samples = []
        for sample in range(num_samples):
            sample_seeds = [int(seed) + 1_000_003 * sample for seed in bases]
            samples.append(rollouts.predict(self.rollout(), (context_frames, context_actions), actions, sample_seeds))
        return np.stack(samples, axis=1)

    def surprise(
        self,
        frames: UInt8[np.ndarray, "b t1 h w 3"],
        actions: Float32[np.ndarray, "b t a"],
        seeds: Sequence[int],
        after: int = 0,
    ) -> Float32[np.ndarray, "b t"]:
        """Return how unexpected frames 1 .. T of real clips are, given the real frames and actions before each.

        ``seeds`` (one a clip) fix the noise; clips that are compared should share one. Frames up to ``after`` are context
        only, and count 0. See `worldsim.surprise.surprise`.
        """
        actions = self._taken(actions)
        return surprise(self.denoiser, frames, actions, seeds, conditioned=self.conditioned, after=after)

    def read(
        self, frames: UInt8[np.ndarray, "b t h w 3"], actions: Float32[np.ndarray, "b t a"] | None = None
    ) -> dict[str, Float32[np.ndarray, "b t ..."]]:
        """Return what is read off the frames of real clips: "reward", "terminated" (b, t) and all readouts (b, t, n).

        ``actions[:, t]`` led into frame t; of None, and of that into frame 0, nothing is known.
        """
        return read_clips(self.denoiser, frames, None if actions is None else self._taken(actions))

    def _taken(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions that the world would take for ``actions`` (..., a); UsageError for too few or too many."""
        if actions.shape[-1] != self.spec.action_dim:
            raise UsageError(
                "actions",
                got=f"{actions.shape[-1]} dimensions",
                allowed=f"{self.spec.action_dim}: {', '.join(self.spec.action_names)}",
                fix="give one column per action of the recorded world",
            )
        return self.spec.decided(actions)


def load(name_or_path: str | os.PathLike[str], device: str = "cpu", dtype: torch.dtype | None = None) -> WorldModel:
    """Load a world model by embedded name (``arena-small``), checkpoint folder or training run folder.

    ``device`` is PyTorch's, with a back end behind it if wanted: "cpu+openvino" (extra `fast`), "cpu+compile", "cuda+compile"
    (`worldsim.backends`). ``dtype`` None takes bfloat16 where this device is faster with it, and float32 for a back end on a CPU.
    Raises UsageError for unknown names and for truncated, foreign or mismatched files.
    """
    place, backend = split_device(device)
    if dtype is None:
        dtype = torch.float32 if backend != "eager" and place == "cpu" else fast_dtype(place)
    return WorldModel(checkpoints.load(name_or_path), device=device, dtype=dtype)


def untrained(spec: WorldSpec, name: str = "nano", seed: int = 0, dtype: torch.dtype = torch.float32) -> WorldModel:
    """Return a world model with random weights, the floor under every trained one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = checkpoints.build(preset(name), spec)
    fresh = checkpoints.Checkpoint(
        model=preset(name),
        world=spec,
        weights=denoiser.state_dict(),
        sampler_steps=2,
        training={"untrained": True, "seed": seed},
    )
    return WorldModel(fresh, dtype=dtype)
