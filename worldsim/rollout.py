"""Streaming imagination: one frame per action, with a ring of keys and values. Knows no environment and no files.

Dimension keys: B batch, A action.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from worldsim.backends import Graphs, GraphStream
from worldsim.denoiser import Denoiser, add_noise, step_index, to_uint8, to_unit
from worldsim.errors import UsageError
from worldsim.network import Network
from worldsim.sampler import check_num_steps, sample_euler, uniform_levels
from worldsim.state import WorldState
from worldsim.stream import FrameStream, Moment, Runs, commit_context, runs_of

Frames = UInt8[np.ndarray, "b h w 3"]


def _compute_alone() -> None:
    """Let a forked process compute in one thread: it has none of its parent's others, and torch would wait for them for ever."""
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compute_alone)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one imagined step yields, row by row: the next frame and what the model reads off it."""

    frames: UInt8[np.ndarray, "b h w 3"]
    rewards: Float32[np.ndarray, " b"]
    terminated: Float32[np.ndarray, " b"]
    """Probability of termination, 0 .. 1."""
    readouts: dict[str, Float32[np.ndarray, "b _"]]
    state: WorldState


class Rollout:
    """Streams a denoiser: `start` takes a context, every `step` imagines one frame more.

    The last frame is committed to memory by the step that follows it (`worldsim.stream`).
    Rows never see each other: noise comes from one generator per row, attention stays within a row. A rollout that is not
    ``conditioned`` knows of no action: what it dreams is what the model expects whatever is done. With ``graphs`` a back end
    computes the network's runs (`worldsim.backends`).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        num_steps: int,
        context_noise: float | None = None,
        *,
        conditioned: bool = True,
        graphs: Graphs | None = None,
    ) -> None:
        config = denoiser.network.config
        check_num_steps(num_steps, config.max_steps)
        self.denoiser = denoiser
        self.num_steps = num_steps
        self.conditioned = conditioned
        self.graphs = graphs
        self.context_noise = config.context_noise if context_noise is None else context_noise

    @property
    def network(self) -> Network:
        """The network that is streamed."""
        return self.denoiser.network

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def start(
        self,
        frames: UInt8[np.ndarray, "b k1 h w 3"],
        actions: Float32[np.ndarray, "b k a"],
        seeds: Int64[np.ndarray, " b"],
    ) -> WorldState:
        """Take a context of k+1 frames and k actions; ``seeds`` start one noise generator per row."""
        check_context(frames, actions, self.network.config.patch)
        state = empty_state(self.denoiser, frames.shape[2:4], [int(seed) for seed in seeds])
        unit = to_unit(torch.from_numpy(np.require(frames, requirements="W"))).to(self.device)
        into = torch.from_numpy(np.pad(actions, ((0, 0), (1, 0), (0, 0)))).to(self.device)  # into frames 0 .. k
        level = 1 - self.context_noise
        for row, generator in enumerate(state.generators):  # one by one: bits never depend on the batch
            noise = torch.empty(unit.shape[1] - 1, *unit.shape[2:])
            for frame in noise:
                frame.normal_(generator=generator)
            levels = torch.full((len(noise),), level, device=self.device)
            noised = add_noise(unit[row, :-1], noise.to(self.device), levels)
            commit_context(self.network, state, row, (unit[row], noised, into[row]), level, self.conditioned)
        return dataclasses.replace(state, frames=frames[:, -1].copy())

    @torch.inference_mode()
    def step(self, state: WorldState, actions: Float32[np.ndarray, "b a"]) -> StepOutput:
        """Imagine the frame that ``actions`` lead to, and read it. Consumes ``state``: fork it to keep it."""
        if not np.isfinite(actions).all():
            raise UsageError(
                "actions", got="NaN or infinity", allowed="finite numbers", fix="check the policy's output"
            )
        action = torch.from_numpy(np.ascontiguousarray(actions)).to(self.device)
        moment = Moment.of(self.network, state, action, self.conditioned)
        if self.graphs is None:
            stream = FrameStream(self.network, moment, self.runs())
        else:
            stream = GraphStream(self.graphs, moment, self.runs())
        frames = to_uint8(self.sample(stream, state))
        # what will be committed is what is shown: the uint8 frame, so that a replay from recorded frames is the same dream
        unit = to_unit(frames)
        shown = frames.cpu().numpy()
        state = dataclasses.replace(state.after(unit, action), readout=stream.read(unit), frames=shown)
        read = self.read(state)
        return StepOutput(
            frames=shown, rewards=read.pop("reward"), terminated=read.pop("terminated"), readouts=read, state=state
        )

    def sample(self, stream: FrameStream, state: WorldState) -> Tensor:
        """Return the next frame (B, H, W, 3) of a stream at ``state``; the one that was shown is committed on the way."""
        shape = frame_shape(state, self.network.config.patch)
        commit_noise, noise = (state.draw(shape).to(self.device) for _ in range(2))
        level = torch.full((state.batch_size,), 1 - self.context_noise, device=self.device)
        noised = add_noise(state.recent[:, -1], commit_noise, level)
        levels = uniform_levels(self.num_steps)

        def denoise(z: Tensor, at: float) -> Tensor:
            if at == levels[0]:
                return stream.commit_and_estimate(noised, z)
            return stream.estimate(z, 1 + levels.index(at))

        return sample_euler(denoise, noise, self.num_steps)

    def runs(self) -> Runs:
        """Return the network's runs: the one that commits a frame, and those at the levels at which the sampler stands."""
        levels = uniform_levels(self.num_steps)[:-1]
        return runs_of(1 - self.context_noise, levels, int(step_index(self.num_steps)), self.device)

    def read(self, state: WorldState) -> dict[str, Float32[np.ndarray, "b ..."]]:
        """Return what the model reads off the last frame: "reward" and "terminated" (b,), readouts (b, n)."""
        return {name: values.cpu().numpy() for name, values in self.denoiser.read(state.readout).items()}

    def check_state(self, state: WorldState) -> None:
        """Raise UsageError unless ``state`` is one that this network can go on from."""
        size = frame_shape(state, self.network.config.patch)[:2]
        wanted, got = (_sizes(worlds) for worlds in (empty_state(self.denoiser, size, [0], device="meta"), state))
        others = [name for name in sorted({**got, **wanted}) if got.get(name) != wanted.get(name)]
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            has, needs = (
                ", ".join(f"{name} {sizes.get(name)}" for name in others[:3]) + more for sizes in (got, wanted)
            )
            raise UsageError("world state", got=has, allowed=needs, fix="restore it with the model it came from")


def _sizes(state: WorldState) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return what a world remembers, by name: sizes and number types."""
    others = {"recent": state.recent, "past_actions": state.past_actions, "readout": state.readout}
    return {name: (tuple(x.shape[1:]), x.dtype) for name, x in {**state.cache.tensors(), **others}.items()}


def empty_state(
    denoiser: Denoiser, frame_size: Sequence[int], seeds: Sequence[int], *, device: torch.device | str | None = None
) -> WorldState:
    """Return worlds of a denoiser that remember nothing yet, one per seed; ``frame_size`` is height and width in pixels.

    They lie where the weights lie, unless another ``device`` is named.
    """
    network = denoiser.network
    grid = (frame_size[0] // network.config.patch, frame_size[1] // network.config.patch)
    return WorldState.empty(
        config=network.config,
        layers=network.layers(grid),
        grid=grid,
        sizes=(network.condition.action_dim, denoiser.readout_dim(denoiser.readouts)),
        seeds=seeds,
        device=next(network.parameters()).device if device is None else device,
        dtype=network.dtype,
    )


def frame_shape(state: WorldState, patch: int) -> tuple[int, int, int]:
    """Return height, width and colours of the frames of a state."""
    return (state.grid[0] * patch, state.grid[1] * patch, 3)


def check_context(frames: np.ndarray, actions: np.ndarray, patch: int) -> None:
    """Raise UsageError unless frames and actions form a context that the network can take."""
    if frames.dtype != np.uint8:
        raise UsageError("context frames", got=frames.dtype, allowed="uint8, 0 .. 255", fix="(x * 255).astype(uint8)")
    if frames.shape[1] != actions.shape[1] + 1:
        raise UsageError(
            "context",
            got=f"{frames.shape[1]} frames and {actions.shape[1]} actions",
            allowed="one frame more than actions",
            fix="actions[t] is applied at frames[t] and yields frames[t+1]",
        )
    if frames.shape[2] % patch or frames.shape[3] % patch:
        raise UsageError(
            "frame size",
            got=f"{frames.shape[2]} x {frames.shape[3]}",
            allowed=f"height and width multiples of {patch}",
            fix="resize the frames, or record at another size",
        )
    if not np.isfinite(actions).all():
        raise UsageError("context actions", got="NaN or infinity", allowed="finite numbers", fix="check the recording")


def predict(
    rollout: Rollout,
    context: tuple[UInt8[np.ndarray, "b k1 h w 3"], Float32[np.ndarray, "b k a"]],
    actions: Float32[np.ndarray, "b t a"],
    seeds: Sequence[int],
) -> UInt8[np.ndarray, "b t h w 3"]:
    """Dream the frames that follow a context under ``actions``, one sample per row."""
    state = rollout.start(*context, np.asarray(seeds, dtype=np.int64))
    frames = []
    for t in range(actions.shape[1]):
        out = rollout.step(state, np.ascontiguousarray(actions[:, t]))
        state = out.state
        frames.append(out.frames)
    return np.stack(frames, axis=1)
