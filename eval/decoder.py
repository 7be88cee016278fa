"""Where bodies and the pusher are and what shape they have, read off frames by a small frozen network (read-out RO2).

Three networks of about a hundred thousand weights, trained from different seeds on true frames alone
(`worldsim.eval.decoder_training`), have to agree. It is independent of the read-out by colour (`worldsim.eval.places`)
and knows what that cannot: shapes, and the grey pusher. It knows one frame at a time, no model and no motion.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from worldsim.envs.scene import COLOURS, PUSHER_HEIGHT, SHAPES
from worldsim.errors import UsageError
from worldsim.eval.places import Places, body_heights, places_of

SEEDS = (0, 1, 2)
"""Seeds of the networks that come with the package."""
THINGS = (*COLOURS, "pusher")
"""What a network looks for, in the order of its outputs."""
FRAME_SIZE = 64
"""Height and width in pixels of the frames the networks know."""
FOUND = 0.7
"""Least mean presence of what is found. One network's veto is enough; what is unsure is not found, like what is absent."""
MAX_SPREAD_M = 0.05
"""Largest distance between the places that two networks read for one body; beyond it the body is unreadable."""
_CELL = 2
_GRID = FRAME_SIZE // _CELL
_CHUNK = 128  # frames at once: their activations stay in the processor's caches


class Readings(NamedTuple):
    """What one network says about b frames."""

    pixels: Float[Tensor, "b things 2"]
    """Column and row of the middle of each thing."""
    presence: Float[Tensor, "b things"]
    """Logit that it is in sight."""
    shapes: Float[Tensor, "b colours 3"]
    """Logits of `SHAPES`."""
    attention: Float[Tensor, "b things cells"]
    """Log-probability of each cell of the grid to hold the thing's middle: the heat map."""


class DecoderNetwork(nn.Module):
    """A small U-Net that attends to one place a thing, and reads place, presence and shape off its features there.

    What tells the shape is shared by all colours, so that a colour and a shape that no recording shows together can
    be read too.
    """

    cells: Tensor
    """Column and row of the middle of each cell of the grid (cells, 2)."""

    def __init__(self) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, stride, 1)

        self.fine = conv(3 * _CELL**2, 16)
        self.middle = nn.ModuleList([conv(16, 48, 2), conv(48, 48), conv(48, 48)])
        self.coarse = nn.ModuleList([conv(48, 64, 2), conv(64, 64)])
        self.coarse_up, self.middle_up = nn.Conv2d(64, 48, 1), nn.Conv2d(48, 16, 1)
        self.features = conv(16, 32)
        self.heat = nn.Conv2d(32, len(THINGS), 1)
        self.offset = nn.Parameter(torch.zeros(len(THINGS), 32 + 48, 2))
        self.presence = nn.Parameter(torch.zeros(len(THINGS), 32 + 48))
        self.presence_bias = nn.Parameter(torch.zeros(len(THINGS)))
        self.shape = nn.Sequential(nn.Linear(32 + 48, 32), nn.ReLU(), nn.Linear(32, len(SHAPES)))
        middles = torch.arange(_GRID) * float(_CELL) + (_CELL - 1) / 2
        rows, columns = torch.meshgrid(middles, middles, indexing="ij")
        self.register_buffer("cells", torch.stack([columns, rows], dim=-1).reshape(-1, 2), persistent=False)

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> Readings:
        """Read frames with levels in 0 .. 1."""
        fine = functional.relu(self.fine(functional.pixel_unshuffle(frames * 2 - 1, _CELL)))
        middle = functional.relu(self.middle[0](fine))
        middle = middle + functional.relu(self.middle[2](functional.relu(self.middle[1](middle))))
        coarse = functional.relu(self.coarse[0](middle))
        coarse = coarse + functional.relu(self.coarse[1](coarse))
        middle = middle + functional.interpolate(self.coarse_up(coarse), scale_factor=2.0)
        fine = fine + functional.interpolate(self.middle_up(middle), scale_factor=2.0)
        features = functional.relu(self.features(fine))
        attention = self.heat(features).flatten(2).log_softmax(dim=-1)
        where = attention.exp()  # (b, things, cells)
        where_middle = 4 * functional.avg_pool2d(where.unflatten(-1, (_GRID, _GRID)), 2).flatten(2)
        there = torch.cat([where @ features.flatten(2).mT, where_middle @ middle.flatten(2).mT], dim=-1)
        return Readings(
            pixels=where @ self.cells + torch.einsum("btc,tcd->btd", there, self.offset),
            presence=(there * self.presence).sum(-1) + self.presence_bias,
            shapes=self.shape(there[:, : len(COLOURS)]),
            attention=attention,
        )


class Decoder:
    """The read-out: networks that have to agree. Make it with `load_decoder`."""

    def __init__(self, networks: Sequence[DecoderNetwork]) -> None:
        self.networks = [network.eval().requires_grad_(False) for network in networks]

    def read_places(self, frames: UInt8[np.ndarray, "*batch h w 3"], states: Float32[np.ndarray, "*batch s"]) -> Places:
        """Read all palette colours off all frames; camera and radii come from the true ``states``, nothing else does.

        A colour of which the networks are unsure, or of whose place they disagree, is not found.
        """
        bodies = slice(len(COLOURS))
        return self._places(frames, states, bodies, body_heights(states))

    def read_pusher(self, frames: UInt8[np.ndarray, "*batch h w 3"], states: Float32[np.ndarray, "*batch s"]) -> Places:
        """Read the pusher in the same way; the last axis of the places has one entry."""
        heights = np.full((*states.shape[:-1], 1), PUSHER_HEIGHT / 2)
        return self._places(frames, states, slice(len(COLOURS), None), heights)

    def read_shapes(self, frames: UInt8[np.ndarray, "*batch h w 3"]) -> Float64[np.ndarray, "*batch colours 3"]:
        """Return the probabilities of `SHAPES` for all colours; of a colour that is not found they mean nothing.

        The size of a body is part of how its shape is told: of radii that are held out of recordings, about half are
        told wrong.
        """
        readings = self._read(frames)
        shapes = torch.stack([reading.shapes.softmax(dim=-1) for reading in readings]).mean(dim=0)
        return shapes.double().numpy().reshape(*frames.shape[:-3], len(COLOURS), len(SHAPES))

    def _places(self, frames: np.ndarray, states: np.ndarray, things: slice, heights: np.ndarray) -> Places:
        readings, batch = self._read(frames), heights.shape
        presence = torch.stack([reading.presence[:, things].sigmoid() for reading in readings]).mean(dim=0)
        found = presence.double().numpy().reshape(batch) >= FOUND
        each = []
        for reading in readings:
            pixels = reading.pixels[:, things].double().numpy().reshape(*batch, 2)
            each.append(places_of(pixels, found, heights, states, frames.shape[-3:-1]))
        xy = np.stack([places.xy for places in each])
        spread = np.linalg.norm(xy[:, None] - xy[None], axis=-1).max(axis=(0, 1))
        found = np.logical_and(found, spread <= MAX_SPREAD_M)
        return Places(found=found, xy=np.where(found[..., None], xy.mean(axis=0), np.nan))

    @torch.inference_mode()
    def _read(self, frames: np.ndarray) -> list[Readings]:
        """Return what each network says about all frames."""
        if frames.shape[-3:-1] != (FRAME_SIZE, FRAME_SIZE):
            height, width = frames.shape[-3:-1]
            raise UsageError(
                "frames",
                got=f"{height} x {width} pixels",
                allowed=f"{FRAME_SIZE} x {FRAME_SIZE} pixels",
                fix="read frames of another size by colour: worldsim.eval.places.read_places",
            )
        flat = torch.from_numpy(np.require(frames.reshape(-1, *frames.shape[-3:]), requirements=["C", "W"]))
        chunks = [levels(chunk) for chunk in flat.split(_CHUNK)]
        parts = [[network(chunk) for chunk in chunks] for network in self.networks]
        return [Readings(*(torch.cat(column) for column in zip(*part, strict=True))) for part in parts]


def levels(frames: Tensor) -> Tensor:
    """Return uint8 frames (b, h, w, 3) as a network takes them: float32 (b, 3, h, w) in 0 .. 1."""
    return frames.permute(0, 3, 1, 2).float().div_(255).contiguous()


def weights_name(seed: int) -> str:
    """Return the file name of the weights trained from ``seed``."""
    return f"ro2_seed{seed}.safetensors"


def load_network(path: Path) -> DecoderNetwork:
    """Return the network whose weights are in ``path``; UsageError if there are none, or of another network."""
    network = DecoderNetwork()
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UsageError(
            f"decoder weights {path}",
            got=str(error).splitlines()[0],
            allowed="weights as worldsim.eval.decoder_training writes them",
            fix="install the package again, or train them: python -m worldsim.eval.decoder_training DATA --seed SEED",
        ) from error
    return network


def load_decoder() -> Decoder:
    """Return the read-out with the weights that come with the package; UsageError if they are missing."""
    folder = Path(str(importlib.resources.files("worldsim.eval"))) / "decoders"
    return Decoder([load_network(folder / weights_name(seed)) for seed in SEEDS])
