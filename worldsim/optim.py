"""Optimisers, learning-rate plan and moving average of a training run. Knows parameters only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from worldsim.distributed import like, whole

TRUNKS = (".blocks.", ".levels.", ".shrinks.", ".grows.", ".joins.", ".returns.")
"""Parts of the names of a trunk's weights: a transformer's blocks, a U-Net's levels and what joins them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights are moved. Learning rates are those at their highest."""

    muon_lr: float = 8e-3
    """`Muon`, scaled to AdamW's update size, for the matrices and convolutions of the trunk."""
    adamw_lr: float = 3e-3
    """AdamW for everything else: embeddings, convolutions, modulation, norms, in and out projections."""
    readout_lr: float = 1e-3
    """AdamW for the readout head: named state differs between clips more than within them, so a batch holds few samples
    of it, and at the rate of the pixels it would chase each batch and learn nothing."""
    weight_decay: float = 0.01
    warmup_share: float = 0.02
    """Share of the steps in which the learning rate rises from 0."""
    decay_share: float = 0.8
    """Share of the steps, at the end, in which it falls linearly to a twentieth. Small models gain little as long as rates are
    high, and much while they fall (docs/experiments.md; Bergsma et al. 2025, arXiv 2502.15938, for large ones)."""
    grad_clip: float = 1.0
    ema_decay: float = 0.998
    """Decay per step of the moving average that is saved, validated and played."""

    @property
    def rates(self) -> tuple[float, float, float]:
        """Peak learning rates in the order of `make_optimizers`."""
        return self.muon_lr, self.adamw_lr, self.readout_lr


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum, orthogonalised by Newton-Schulz steps, scaled to AdamW's update size.

    The same update as `torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, but matrices of equal shape are
    orthogonalised together, and in a number type of one's choice: `torch.optim.Muon` always takes bfloat16,
    which took longer than the rest of a training step on CPUs without bfloat16 units. A convolution's kernel counts as a
    matrix of a row per output channel. Sharded matrices are made whole for it, in every process.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    STEPS = 5

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient; return what ``closure`` (a function that renews gradients) returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows = len(parameter)
                    by_shape.setdefault((rows, parameter.numel() // rows), []).append(parameter)
            for shape, parameters in by_shape.items():
                directions = torch.stack([whole(self._momentum(p, group["momentum"])).flatten(1) for p in parameters])
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                for parameter, direction in zip(parameters, self.orthogonalise(directions, self.dtype), strict=True):
                    step = like(direction.view(parameter.shape), parameter)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-rate)
        return loss

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Update the moving average of the gradient and return the Nesterov direction."""
        state = self.state[parameter]
        average = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        assert parameter.grad is not None
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)

    @classmethod
    def orthogonalise(cls, matrices: Tensor, dtype: torch.dtype) -> Tensor:
        """Return nearly orthogonal matrices (n, rows, columns) of the same singular directions, computed in ``dtype``."""
        a, b, c = cls.COEFFICIENTS
        x = matrices.to(dtype)
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
        for _ in range(cls.STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.mT if tall else x).to(matrices.dtype)


def make_optimizers(
    model: nn.Module, config: OptimConfig, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Return Muon, in ``dtype``, over the matrices of the trunk, AdamW over the rest, and AdamW over the readout head."""
    matrices, readout, rest = [], [], []
    for name, parameter in model.named_parameters():
        inner = any(part in name for part in TRUNKS) and not any(
            part in name for part in ("head.", "modulation", "gain")
        )
        if inner and parameter.ndim >= 2:
            matrices.append(parameter)
        else:
            (readout if ".readout" in name else rest).append(parameter)

    def adamw(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))

    muon = Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay, dtype=dtype)
    return [muon, adamw(rest, config.adamw_lr), adamw(readout, config.readout_lr)]


def learning_rate_factor(step: int, total: int, config: OptimConfig) -> float:
    """Return the factor on both learning rates at ``step`` of ``total``: warm-up, flat, linear decay."""
    warmup, decay = max(1.0, config.warmup_share * total), max(1.0, config.decay_share * total)
    return max(0.05, min(1.0, (step + 1) / warmup, (total - step) / decay))


def make_average(model: nn.Module, config: OptimConfig) -> AveragedModel:
    """Return the exponential moving average of ``model``; buffers are copied.

    The decay grows with the number of updates n as (1 + n) / (10 + n) up to ``ema_decay``, so that short runs are not
    dominated by their random beginning.
    """

    def blend(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        n = int(count)
        return torch.lerp(averaged, current.detach(), 1 - min(config.ema_decay, (1 + n) / (10 + n)))

    return AveragedModel(model, avg_fn=blend, use_buffers=False).requires_grad_(False)
