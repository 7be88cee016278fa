"""Muon is torch's, for matrices and for convolutions, and moves the trunk of every network."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import nn

from worldsim import checkpoint as checkpoints
from worldsim.config import ARCHITECTURES, preset
from worldsim.optim import Muon, OptimConfig, make_optimizers


def test_muon_is_torchs_muon():
    """Three steps move tall, square and wide matrices as `torch.optim.Muon` does, to the precision of its bfloat16."""
    shapes = [(24, 8), (8, 8), (8, 24), (24, 8)]
    moved = []
    for make in (functools.partial(torch.optim.Muon, adjust_lr_fn="match_rms_adamw"), Muon):
        generator = torch.Generator().manual_seed(0)
        matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimizer = make(matrices, lr=0.1, weight_decay=0.1)
        start = [matrix.detach().clone() for matrix in matrices]
        for _ in range(3):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=generator)
            optimizer.step()
        moved.append([matrix.detach() - before for matrix, before in zip(matrices, start, strict=True)])
    for reference, ours in zip(*moved, strict=True):
        assert (reference - ours).norm() < 0.02 * reference.norm()


def test_a_convolution_is_moved_as_the_matrix_of_its_output_channels():
    """A kernel (out, in, 3, 3) goes the way of the matrix (out, 9 in) with the same numbers."""
    generator = torch.Generator().manual_seed(0)
    kernel = nn.Parameter(torch.randn((8, 4, 3, 3), generator=generator))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn(kernel.shape, generator=generator)
    matrix.grad = kernel.grad.flatten(1).clone()
    for parameter in (kernel, matrix):
        Muon([parameter], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_trunk_is_moved_by_muon_and_the_ends_are_not(architecture: str):
    """Trunks are trained by one optimiser whatever they are made of; stem, head and readout by AdamW."""
    config = dataclasses.replace(preset("nano"), architecture=architecture)
    denoiser = checkpoints.build(config, checkpoints.load("arena-small").world)
    names = {id(parameter): name for name, parameter in denoiser.named_parameters()}
    muon, rest, readout = (
        [names[id(p)] for p in made.param_groups[0]["params"]] for made in make_optimizers(denoiser, OptimConfig())
    )
    assert len(muon) > 5 and not any(part in name for name in muon for part in ("stem", "head", "recall", "readout"))
    kernels = {name for name in names.values() if name.endswith(("first.weight", "qkv.weight"))}
    assert {name for name in kernels if "stem" not in name and "head" not in name} <= {*muon}
    assert len(muon) + len(rest) + len(readout) == len(names)
