"""Training in several processes: which clips are whose, means over all of them, and weights cut into shards (FSDP2).

`torchrun` starts the processes and Accelerate connects them; in a single process everything here does nothing. Knows
modules and tensors; knows no data and no loss.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from worldsim.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator


def connect(out: Path) -> Accelerator:
    """Return what connects the processes that `torchrun` started, or this one with itself; logs go below ``out``."""
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UsageError(
            "worldsim train", got="no accelerate", allowed="the train extra", fix="pip install 'worldsim[train]'"
        ) from error
    _warn_of_lost_restarts()
    cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", log_with="tensorboard", project_dir=str(out))
    accelerator.init_trackers("logs")
    return accelerator


def _warn_of_lost_restarts() -> None:
    """Warn where ``torchrun`` would restart processes into the store of those that died (PyTorch's issue 135712)."""
    asked = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if asked and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("LOCAL_RANK") == "0":
        warnings.warn(
            f"torchrun --max-restarts {asked}: restarted processes often fail to find each other; "
            "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun",
            stacklevel=2,
        )


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_share(total: int) -> range:
    """Return which of the ``total`` items of a step are this process's: as many as every other's, at least one."""
    each = max(1, total // processes())
    first = dist.get_rank() * each if dist.is_initialized() else 0
    return range(first, first + each)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of equally large shares of ``values`` over all processes: of each entry. No gradients."""
    if processes() == 1:
        return values.detach()
    values = values.detach().clone()
    dist.all_reduce(values)
    return values / processes()


def agreed(wish: bool, device: torch.device) -> bool:
    """Return the first process's ``wish``, so that all do the same where their clocks differ."""
    if processes() == 1:
        return wish
    asked = torch.tensor([float(wish)], device=device)
    dist.broadcast(asked, src=0)
    return bool(asked)


def shard(module: nn.Module) -> None:
    """Cut the parameters of a module into one shard a process (FSDP2); they are whole again only while it runs.

    UsageError in a single process, where there is nothing to share.
    """
    if not dist.is_initialized():
        fix = "start it with torchrun --nproc-per-node N -m worldsim train ..., or leave --config.shard out"
        raise UsageError("shard", got="a single process", allowed="several, started by torchrun", fix=fix)
    fully_shard(module, reshard_after_forward=False)


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Make the parameters of a sharded module whole for calls of its parts; any other module is left as it is."""
    if isinstance(module, FSDPModule):
        module.unshard()
    try:
        yield
    finally:
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor in one piece, on every process (all must call this); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module with all its tensors in one piece; all processes must call this."""
    return {name: whole(value) for name, value in module.state_dict().items()}


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Cut ``tensor``, which is the same in all processes, as ``other`` is cut; if that is whole, return it as it is."""
    if not isinstance(other, DTensor) or isinstance(tensor, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def cut_like(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return a state of whole tensors cut as those of ``module`` are, for its `load_state_dict`."""
    current: Mapping[str, Any] = module.state_dict()
    return {name: like(value, current[name]) if name in current else value for name, value in state.items()}
