"""Back ends: the network's runs of a stream as graphs that something else than PyTorch's eager mode computes. Know no world.

A graph is one call of a stream (`FunctionalStream`) on so many rows of one size. It is made when it is first needed, and kept
on disk. Dimension keys: B batch, G groups of attention, N tokens of a group, K channels of a head, P pixel values of a patch.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.cache import StreamCache
from worldsim.errors import UsageError
from worldsim.functional import FunctionalStream
from worldsim.network import Network
from worldsim.stream import FrameStream, Moment, Runs

BACKENDS = ("eager", "compile", "openvino")
KEPT_GRAPHS = 32
"""Graphs that are kept on disk; of more, those not used for longest are deleted."""

Run = Callable[[dict[str, Tensor]], Sequence[Tensor]]

_log = logging.getLogger(__name__)


def split_device(device: str) -> tuple[str, str]:
    """Return PyTorch's device and the back end of "cpu", "cuda:1", "cpu+openvino", "cuda+compile" ...; UsageError for others."""
    place, _, backend = str(device).partition("+")
    backend = backend or "eager"
    try:
        kind = torch.device(place).type
    except RuntimeError as error:
        allowed = "cpu, cuda, cuda:1 ..., with +compile or +openvino behind it"
        raise UsageError("device", got=device, allowed=allowed, fix="cpu is everywhere") from error
    if backend not in BACKENDS:
        raise UsageError("device", got=device, allowed=", ".join(f"{place}+{name}" for name in BACKENDS), fix=place)
    if backend == "openvino" and (kind != "cpu" or find_spec("openvino") is None):
        fix = "pip install 'worldsim[fast]'" if kind == "cpu" else f"{place}+compile"
        raise UsageError("device", got=device, allowed="openvino on CPUs, if it is installed", fix=fix)
    if backend == "compile" and not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS)):
        raise UsageError("device", got=device, allowed="a C++ compiler to compile with", fix="apt-get install g++")
    return place, backend


class Graphs:
    """The graphs of one network, by the sizes of what they take. Threads may share them."""

    def __init__(self, network: Network, backend: str, folder: str | os.PathLike[str] | None = None) -> None:
        self.network, self.backend = network, backend
        self.folder = Path(folder) if folder is not None else cache_folder()
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def run(self, stream: FrameStream, number: int, frame: Tensor, noised: Tensor | None = None) -> Sequence[Tensor]:
        """Compute run ``number`` of a stream; with ``noised`` the frame that was shown is committed on the way."""
        levels, indices = (column[[0, number]] for column in stream.runs)
        given = {**_tensors(stream.moment), "levels": levels, "indices": indices, "frame": frame}
        if noised is not None:
            given["noised"] = noised
        present = {name: tensor for name, tensor in given.items() if tensor.numel()}
        sizes = repr([(name, tuple(tensor.shape), tensor.dtype) for name, tensor in given.items()])
        with self._lock:
            if sizes not in self._runs:
                graph = StreamGraph(self.network, {name: given[name] for name in given.keys() - present.keys()})
                folder = self.folder / self._key(sizes)
                with contextlib.suppress(OSError):
                    os.utime(folder)  # used, so not the next to be deleted
                self._runs[sizes] = _MAKERS[self.backend](graph, present, folder)
            return self._runs[sizes](present)

    def _key(self, sizes: str) -> str:
        """Return a name that no other graph has: it hangs on the weights, on this package's code and on versions."""
        versions = [(name, version(name)) for name in ("torch", "openvino") if find_spec(name) is not None]
        seen = hashlib.sha256(repr((self.backend, sizes, versions, self.network.config)).encode())
        for source in sorted(Path(__file__).parent.glob("*.py")):
            seen.update(source.read_bytes())
        for name, weights in sorted(self.network.state_dict().items()):
            seen.update(f"{name} {weights.device} {weights.dtype}".encode())
            seen.update(weights.float().cpu().numpy().tobytes())
        return seen.hexdigest()[:32]


class StreamGraph(nn.Module):
    """One call of a stream as a function of tensors alone. Those without elements, which graphs cannot take, it knows."""

    def __init__(self, network: Network, absent: dict[str, Tensor]) -> None:
        super().__init__()
        self.network, self.absent = network, absent

    def forward(self, present: dict[str, Tensor]) -> list[Tensor]:
        """Return the estimate and, where a frame is committed, what to keep of it: keys and values of every layer, what it is
        recalled by and as, and, of a network with surroundings, views and these.
        """
        tensors = {**self.absent, **present}
        stream = FunctionalStream(self.network, _moment(tensors), (tensors["levels"], tensors["indices"]))
        if "noised" not in tensors:
            return [stream.estimate(tensors["frame"], 1)]
        estimate = stream.commit_and_estimate(tensors["noised"], tensors["frame"])
        assert stream.left is not None
        pairs = [stream.committed[layer] for layer in sorted(stream.committed)]
        kept = [*(k for k, _ in pairs), *(v for _, v in pairs), *stream.left]
        if self.network.config.surrounded:
            kept += [stream.cache.views, stream.cache.around]
        return [estimate, *kept]


class GraphStream(FrameStream):
    """A stream whose runs are graphs; what these leave to be kept is written into the cache in place."""

    def __init__(self, graphs: Graphs, moment: Moment, runs: Runs) -> None:
        super().__init__(graphs.network, moment, runs)
        self.graphs = graphs

    def commit_and_estimate(self, noised: Tensor, frame: Tensor) -> Tensor:
        """Leave the frame that was shown in the cache for good, and return the first clean estimate, as `FrameStream` does."""
        if not self.network.remembers:
            return self.estimate(frame, 1)
        estimate, *kept = self.graphs.run(self, 1, frame, noised)
        layers = len(self.cache.keys)
        for layer in range(layers):
            self._keep(layer, self.slots[0], kept[layer], kept[layers + layer])
        self._keep_recall(kept[2 * layers], kept[2 * layers + 1])
        if self.network.config.surrounded:
            self._keep_places(kept[-2], kept[-1])
        return estimate

    def estimate(self, frame: Tensor, run: int) -> Tensor:
        """Return the clean estimate of the next frame at the level of a run, as `FrameStream` does."""
        return self.graphs.run(self, run, frame)[0]


def _tensors(moment: Moment) -> dict[str, Tensor]:
    """Return the tensors of a moment by name."""
    cos, sin = moment.phases
    own = {"times": moment.times, "recent": moment.recent, "actions": moment.actions, "known": moment.known}
    return {**moment.cache.tensors(), **own, "cos": cos, "sin": sin}


def _moment(tensors: dict[str, Tensor]) -> Moment:
    """Undo `_tensors`."""
    own = {name: tensors[name] for name in ("times", "recent", "actions", "known")}
    return Moment(cache=StreamCache.of(tensors), phases=(tensors["cos"], tensors["sin"]), **own)


def cache_folder() -> Path:
    """Return where graphs are kept: ``worldsim/graphs`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldsim" / "graphs"


def _openvino(graph: StreamGraph, example: dict[str, Tensor], folder: Path) -> Run:
    """Return a graph that OpenVINO computes, from ``folder`` or made now and put there."""
    import openvino

    if not (folder / "graph.xml").is_file():
        _log.warning("worldsim: making a graph for OpenVINO (about half a minute, once)")
        model = openvino.convert_model(_exported(graph, example))
        sizes = [list(tensor.shape) for tensor in example.values()]
        model.reshape({taken: sizes[number] for taken, number in zip(model.inputs, _taken(model), strict=True)})
        with _kept(folder) as made:
            openvino.save_model(model, made / "graph.xml", compress_to_fp16=False)
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(folder / "graph.xml", "CPU", settings)
    request, taken = compiled.create_infer_request(), _taken(compiled)

    def run(present: dict[str, Tensor]) -> list[Tensor]:
        tensors = list(present.values())
        results = request.infer([tensors[number].contiguous().numpy() for number in taken], share_inputs=True)
        return [torch.from_numpy(results[i]) for i in range(len(results))]

    return run


def _taken(model: Any) -> list[int]:
    """Return which of the tensors that a graph was made of OpenVINO's model of it takes: not those that nothing hangs on."""
    named = [[re.fullmatch(r"input(\d+)", name) for name in taken.get_names()] for taken in model.inputs]
    return [
        next((int(match[1]) for match in names if match), 0) for names in named
    ]  # the first has the argument's name


def _compile(graph: StreamGraph, example: dict[str, Tensor], folder: Path) -> Run:
    """Return a graph that PyTorch has compiled ahead of time (AOTInductor), from ``folder`` or made now and put there."""
    if not (folder / "graph.pt2").is_file():
        _log.warning("worldsim: compiling a graph (two minutes or more, once)")
        settings = {
            "aot_inductor.compile_wrapper_opt_level": "O0"
        }  # what calls the kernels: most of the code, little of the time
        with _kept(folder) as made:
            exported, package = _exported(graph, example), str(made / "graph.pt2")
            torch._inductor.aoti_compile_and_package(exported, package_path=package, inductor_configs=settings)
    return torch._inductor.aoti_load_package(str(folder / "graph.pt2"))


_MAKERS = {"compile": _compile, "openvino": _openvino}
_COMPILERS = ("g++", "clang++", "cl")


def _exported(graph: StreamGraph, example: dict[str, Tensor]) -> torch.export.ExportedProgram:
    """Return a graph as PyTorch's exporter has it."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.export.export(graph, ({name: tensor.clone() for name, tensor in example.items()},))


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[Path]:
    """Give a folder to write a graph into, then call it ``folder``; delete others of too many."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    except OSError as error:
        allowed = "a folder that can be written to"
        raise UsageError("graphs", got=error, allowed=allowed, fix="set XDG_CACHE_HOME to one") from error
    try:
        yield made
        with contextlib.suppress(OSError):  # another process was faster
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    kept = sorted((path for path in folder.parent.iterdir() if not path.name.startswith(".")), key=os.path.getmtime)
    for old in kept[:-KEPT_GRAPHS]:
        shutil.rmtree(old, ignore_errors=True)
