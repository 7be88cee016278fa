"""Training of the frozen state decoder (`worldsim.eval.decoder`) from a recording. Sees true frames, never a model's.

    python -m worldsim.eval.decoder_training runs/data/arena --seed 0 --out eval/decoders

writes ``ro2_seed0.safetensors``, and beside it a JSON file with what it was trained on and its floor on true frames of
the recording's "val" split: as they are, under noise, and blurred. The package comes with the seeds 0, 1 and 2;
``--help`` lists the settings. Frames are mirrored, blurred, darkened, made noisy and covered in part, and the
colours of their bodies are exchanged, always: else the decoder would learn from what a recording holds out that, say, a
yellow body is no box, and read a model's yellow boxes as something else.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse
import numpy as np
import scipy.ndimage
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from worldsim.dataset import EpisodeDataset
from worldsim.envs.scene import COLOURS, PALETTE
from worldsim.envs.state import body_slots, element
from worldsim.errors import UsageError
from worldsim.eval.decoder import (
    FRAME_SIZE,
    Decoder,
    DecoderNetwork,
    Readings,
    levels,
    load_network,
    weights_name,
)
from worldsim.eval.decoder_examples import Examples, take_examples
from worldsim.eval.places import Places
from worldsim.eval.tracking import HIDDEN, VISIBLE
from worldsim.eval.trials import ARENA_ID
from worldsim.provenance import provenance, write_json
from worldsim.storage import write_atomically

FLOOR_NOISE = 0.08
"""Standard deviation (white is 1) of the noise under which the floor is measured."""
_HEAT_SPREAD = 1.5  # pixels of the heat map's target
_SMALL_ERROR = 0.5  # pixels; below, the error of a place counts squared
_SEEN_ENOUGH = 0.25  # share in sight of a thing whose place is learnt


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """How a decoder is trained."""

    episodes: int = 2000
    """Episodes of which frames are taken, drawn at random."""
    frames_per_episode: int = 12
    """Frames taken of each."""
    steps: int = 2500
    """Training steps."""
    batch: int = 32
    """Frames of a step."""
    learning_rate: float = 1.2e-2
    """Peak of AdamW's rate, which rises for a twentieth of the steps and falls along a cosine to zero."""
    floor_episodes: int = 150
    """Episodes of the split "val" on whose frames the floor is measured."""


class Targets(NamedTuple):
    """What is to be read off b frames: the fields of `Examples` of the same names."""

    pixels: Float[Tensor, "b things 2"]
    radius: Float[Tensor, "b things"]
    share: Float[Tensor, "b things"]
    shape: Int[Tensor, "b colours"]


def train_decoder(data: str | Path, *, seed: int, out: str | Path, config: DecoderConfig) -> dict[str, Any]:
    """Train one network on the recording in ``data``, write its weights and its record into ``out``; return the record.

    ``seed`` is that of the weights, of the choice of frames and of their changes. UsageError if the recording is not of
    the Arena, or of frames of another size.
    """
    dataset = EpisodeDataset.open(data)
    if dataset.spec.env_id != ARENA_ID or dataset.spec.frame_shape != (FRAME_SIZE, FRAME_SIZE, 3):
        raise UsageError(
            f"dataset {data}",
            got=f"{dataset.spec.env_id} with frames of {dataset.spec.frame_shape}",
            allowed=f"{ARENA_ID} with frames of {FRAME_SIZE} x {FRAME_SIZE} pixels",
            fix=f"record one: worldsim record {ARENA_ID} --episodes 1500 --out DATA",
        )
    started, rng = time.perf_counter(), np.random.default_rng([seed, 0])
    examples = take_examples(dataset.cache("train"), config.episodes, config.frames_per_episode, rng)
    network, losses = fit(examples, config, seed)
    weights = Path(out) / weights_name(seed)
    write_atomically(weights, save({name: tensor.half() for name, tensor in network.state_dict().items()}))
    held_out = take_examples(dataset.cache("val"), config.floor_episodes, config.frames_per_episode, rng)
    record = {
        "data": {"fingerprint": dataset.fingerprint, "frames": len(examples.frames)},
        "config": dataclasses.asdict(config),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "loss": {"first": round(losses[0], 4), "last": round(float(np.mean(losses[-100:])), 4)},
        "seconds": round(time.perf_counter() - started, 1),
        "floor": floors(Decoder([load_network(weights)]), held_out),
        **provenance(seed),
    }
    write_json(weights.with_suffix(".json"), record)
    return record


def fit(examples: Examples, config: DecoderConfig, seed: int) -> tuple[DecoderNetwork, list[float]]:
    """Train a network on examples; return it and the loss of every step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DecoderNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    losses = []
    for step in tqdm(range(config.steps), mininterval=5.0, disable=config.steps < 100):
        done = step / config.steps
        rate = config.learning_rate * min((step + 1) / (config.steps / 20), (1 + math.cos(math.pi * done)) / 2, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(examples.frames), (config.batch,), generator=generator).numpy()
        frames, targets = augment(*_batch(examples, rows), generator)
        loss = decoder_loss(network(frames), targets, network.cells)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return network, losses


def _batch(examples: Examples, rows: np.ndarray) -> tuple[Tensor, Targets]:
    columns = {name: torch.from_numpy(getattr(examples, name)[rows]) for name in Targets._fields}
    return levels(torch.from_numpy(examples.frames[rows])), Targets(**columns)


def decoder_loss(readings: Readings, targets: Targets, cells: Float[Tensor, "cells 2"]) -> Tensor:
    """Return the loss: heat map and place of what is in sight enough, presence of what is clear, shape of the visible."""
    seen = targets.share >= _SEEN_ENOUGH
    place = targets.pixels[seen]
    heat = torch.softmax(-((cells - place[:, None]) ** 2).sum(-1) / (2 * _HEAT_SPREAD**2), dim=-1)
    cross_entropy = -(heat * readings.attention[seen]).sum(-1).mean()
    away = functional.smooth_l1_loss(readings.pixels[seen], place, beta=_SMALL_ERROR)
    clear = (targets.share >= VISIBLE) | (targets.share <= HIDDEN)
    visible = targets.share >= VISIBLE
    presence = functional.binary_cross_entropy_with_logits(readings.presence[clear], visible[clear].float())
    bodies = visible[:, : len(COLOURS)]
    shape = functional.cross_entropy(readings.shapes[bodies], targets.shape[bodies])
    return 0.2 * cross_entropy + away + presence + shape


def augment(
    frames: Float[Tensor, "b 3 h w"], targets: Targets, generator: torch.Generator
) -> tuple[Float[Tensor, "b 3 h w"], Targets]:
    """Change frames at random, and what is true of them with them."""
    count = len(frames)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    def some(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share)[:, None, None, None].float()

    frames, targets = _mirror(frames, targets, uniform(0.0, 1.0) < 0.5)
    frames, targets = _exchange_colours(frames, targets, generator)
    frames = frames ** torch.exp(some(0.5) * uniform(-0.35, 0.35, 1, 1, 1)) * uniform(0.85, 1.1, 1, 1, 1)
    for _ in range(2):
        frames, targets = _cut_out(frames, targets, generator)
    for _ in range(2):
        padded = functional.pad(frames, (1, 1, 1, 1), mode="replicate")
        frames = torch.lerp(frames, functional.avg_pool2d(padded, 3, 1), some(0.4) * uniform(0.0, 1.0, 1, 1, 1))
    nothing = some(0.04)
    frames = torch.lerp(frames, uniform(0.0, 1.0, 1, 1, 1).expand_as(frames), nothing)
    strength = torch.where(nothing > 0, uniform(0.0, 0.5, 1, 1, 1), some(0.5) * uniform(0.0, 0.12, 1, 1, 1))
    frames = frames + strength * torch.randn(frames.shape, generator=generator)
    return frames.clamp(0, 1), targets._replace(share=targets.share * (1 - nothing[:, :, 0, 0]))


def _mirror(frames: Tensor, targets: Targets, which: Tensor) -> tuple[Tensor, Targets]:
    """Exchange left and right."""
    frames = torch.where(which[:, None, None, None], frames.flip(-1), frames)
    other = torch.stack([FRAME_SIZE - 1 - targets.pixels[..., 0], targets.pixels[..., 1]], dim=-1)
    return frames, targets._replace(pixels=torch.where(which[:, None, None], other, targets.pixels))


def _exchange_colours(frames: Tensor, targets: Targets, generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Give the bodies of each frame each other's colours.

    A pixel is taken for a mixture of grey and of the palette colour that its chroma points to most.
    """
    palette = torch.tensor([PALETTE[colour] for colour in COLOURS])
    draws = torch.rand(len(frames), len(COLOURS), generator=generator)
    order = torch.argsort(draws, dim=-1)  # colour i becomes order[i]
    chroma = palette - palette.mean(dim=-1, keepdim=True)
    direction = functional.normalize(chroma, dim=-1)
    pixels = frames.flatten(2)
    along = torch.einsum("cr,brp->bcp", direction, pixels)  # directions are free of grey
    most, which = along.max(dim=1)
    amount = most.clamp(min=0) / chroma.norm(dim=-1)[which]
    change = palette[order.gather(1, which)] - palette[which]  # (b, p, 3)
    exchanged = (pixels + (amount[..., None] * change).mT).clamp(0, 1)
    pusher = torch.full((len(frames), 1), len(COLOURS))
    slots = torch.cat([torch.argsort(order, dim=-1), pusher], dim=-1)  # who is now in each slot
    changed = Targets(
        pixels=targets.pixels.gather(1, slots[..., None].expand(-1, -1, 2)),
        radius=targets.radius.gather(1, slots),
        share=targets.share.gather(1, slots),
        shape=targets.shape.gather(1, slots[:, : len(COLOURS)]),
    )
    return exchanged.reshape(frames.shape), changed


def _cut_out(frames: Tensor, targets: Targets, generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Put a grey rectangle over a third of the frames; what it hides is no longer in sight."""
    count = len(frames)
    middle = torch.rand(count, 2, generator=generator) * FRAME_SIZE
    half = (torch.rand(count, 2, generator=generator) * 8 + 3) * (torch.rand(count, 1, generator=generator) < 1 / 3)
    axis = torch.arange(FRAME_SIZE)
    columns, rows = ((axis - middle[:, k : k + 1]).abs() < half[:, k : k + 1] for k in (0, 1))
    covered = (rows[:, :, None] & columns[:, None, :])[:, None]
    grey = torch.rand(count, 1, 1, 1, generator=generator)
    size = targets.radius[..., None]
    low = torch.maximum(targets.pixels - size, (middle - half)[:, None])
    high = torch.minimum(targets.pixels + size, (middle + half)[:, None])
    hidden = ((high - low).clamp(min=0) / (2 * size)).prod(dim=-1).nan_to_num()
    return torch.where(covered, grey, frames), targets._replace(share=targets.share * (1 - hidden))


def floors(decoder: Decoder, examples: Examples) -> dict[str, Any]:
    """Return the read-out's floor on true frames: as they are, under noise, and blurred by a 3 x 3 mean."""
    noise = np.random.default_rng(0).normal(0, FLOOR_NOISE * 255, examples.frames.shape)
    changed = {
        "clean": examples.frames,
        "noise": (examples.frames + noise).clip(0, 255).astype(np.uint8),
        "blur": scipy.ndimage.convolve(examples.frames, np.full((1, 3, 3, 1), 1 / 9)),
    }
    return {name: measure_floor(decoder, frames, examples) for name, frames in changed.items()}


def measure_floor(decoder: Decoder, frames: UInt8[np.ndarray, "n h w 3"], examples: Examples) -> dict[str, Any]:
    """Return errors (cm) and rates of what is read off ``frames``, which show the examples."""
    share, shapes = examples.share[:, : len(COLOURS)], decoder.read_shapes(frames).argmax(axis=-1)
    true = np.stack([body_slots(examples.states, axis) for axis in "xy"], axis=-1)
    pusher = np.stack([element(examples.states, f"pusher/{axis}") for axis in "xy"], axis=-1)[:, None]
    bodies = _errors(decoder.read_places(frames, examples.states), true, share)
    visible = share >= VISIBLE
    bodies["shape_accuracy"] = round(float((shapes == examples.shape)[visible].mean()), 4)
    return {
        "bodies": bodies,
        "pusher": _errors(decoder.read_pusher(frames, examples.states), pusher, examples.share[:, 6:]),
    }


def _errors(places: Places, true: np.ndarray, share: np.ndarray) -> dict[str, Any]:
    """Return the errors (cm) of what is visible and found, None where nothing is, and the rates of finding."""
    away = np.linalg.norm(places.xy - true, axis=-1) * 100
    visible, hidden = share >= VISIBLE, share <= HIDDEN

    def quantile(level: float, least_share: float) -> float | None:
        chosen = away[(share >= least_share) & places.found]
        return round(float(np.quantile(chosen, level)), 3) if len(chosen) else None

    def rate(of: np.ndarray) -> float | None:
        return round(float(places.found[of].mean()), 5) if of.any() else None

    return {
        "visible": int(visible.sum()),
        "recall": rate(visible),
        "median_cm": quantile(0.5, VISIBLE),
        "p95_cm": quantile(0.95, VISIBLE),
        "whole_p95_cm": quantile(0.95, 0.99),
        "hidden_or_absent": int(hidden.sum()),
        "false": rate(hidden),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(description="Train one network of the frozen state decoder on true frames.")
    parser.add_argument("data", type=str, help="folder of a recording of the Arena")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the choice of frames and their changes")
    parser.add_argument("--out", type=str, default="eval/decoders", help="folder for the weights and their record")
    parser.add_class_arguments(DecoderConfig, "config")
    options = parser.instantiate(parser.parse_args(argv))
    torch.set_num_threads(1)
    try:
        train_decoder(options.data, seed=options.seed, out=options.out, config=options.config)
    except UsageError as error:
        sys.stderr.write(f"worldsim: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
