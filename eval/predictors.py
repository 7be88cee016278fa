"""Predictors: whatever can be asked for the frames that follow a context under given actions. Knows no probe.

The one interface that probes see. A trained model of ours, a stranger's model, the trivial answers and the true world
itself are all the same to a probe. A model of your own takes ten lines:

    class MyWorldModel:
        def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
            # uint8 (b, k+1, h, w, 3), float32 (b, k, a), float32 (b, t, a) -> uint8 (b, num_samples, t, h, w, 3)
            ...

It is named ``package.module:MyWorldModel`` and made without arguments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from worldsim import hub
from worldsim.errors import UsageError
from worldsim.eval.pixels import copy_last, derangement
from worldsim.world_model import load


@runtime_checkable
class Predictor(Protocol):
    """What can be probed. `worldsim.WorldModel` is one."""

    def predict(
        self,
        context_frames: UInt8[np.ndarray, "b k1 h w 3"],
        context_actions: Float32[np.ndarray, "b k a"],
        actions: Float32[np.ndarray, "b t a"],
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> UInt8[np.ndarray, "b s t h w 3"]:
        """Return ``num_samples`` futures of every context under ``actions``; ``seeds`` (one a context) fix the noise."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What a predictor is asked: n contexts and the actions that follow them."""

    frames: UInt8[np.ndarray, "n k1 h w 3"]
    context_actions: Float32[np.ndarray, "n k a"]
    actions: Float32[np.ndarray, "n t a"]

    def rows(self, rows: slice) -> Question:
        """Return some of the contexts only."""
        return Question(
            frames=self.frames[rows], context_actions=self.context_actions[rows], actions=self.actions[rows]
        )


def ask(
    predictor: Predictor, question: Question, *, seeds: Sequence[int], num_samples: int = 1, batch: int = 16
) -> UInt8[np.ndarray, "n s t h w 3"]:
    """Ask a predictor, ``batch`` contexts at once, and check what it says.

    Raises UsageError, naming the predictor, if it raises or returns anything but uint8 frames of the right shape.
    """
    name, answers = type(predictor).__name__, []
    steps, (height, width) = question.actions.shape[1], question.frames.shape[2:4]
    for first in range(0, len(question.actions), batch):
        part, noise = question.rows(slice(first, first + batch)), list(seeds[first : first + batch])
        try:
            answer = predictor.predict(part.frames, part.context_actions, part.actions, num_samples, noise)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"predictor {name}",
                got=f"{type(error).__name__}: {error}",
                allowed="frames",
                fix="call its predict() with one context by hand; --debug shows where it stopped",
            ) from error
        wanted = (len(part.actions), num_samples, steps, height, width, 3)
        shape, dtype = getattr(answer, "shape", None), getattr(answer, "dtype", type(answer).__name__)
        if shape != wanted or dtype != np.uint8:
            raise UsageError(
                f"predictor {name}",
                got=f"{dtype} {shape}",
                allowed=f"uint8 {wanted}: contexts, samples, steps, height, width, RGB",
                fix="return np.uint8 frames; floats in 0 .. 1 are (255 * x).round().clip(0, 255).astype(np.uint8)",
            )
        answers.append(np.asarray(answer))
    return np.concatenate(answers)


def load_predictor(name_or_path: str) -> Predictor:
    """Return a checkpoint's model, or an instance of ``package.module:Class``.

    UsageError if there is no such thing, if it cannot be made without arguments, or has no ``predict``.
    """
    module, colon, attribute = name_or_path.partition(":")
    if not colon or name_or_path.startswith(hub.PREFIX):
        return load(name_or_path)
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            "predictor",
            got=name_or_path,
            allowed="a checkpoint, or package.module:Class",
            fix=f"{error}; run from the folder that holds the module, or install it",
        ) from error
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        fix = f"{error}; give every argument of {attribute} a default"
        raise UsageError("predictor", got=name_or_path, allowed="a class made without arguments", fix=fix) from error
    try:
        made: Any = kind()
    except Exception as error:
        got, fix = f"{type(error).__name__}: {error}", f"make a {attribute}() by hand; --debug shows where it stopped"
        raise UsageError(f"predictor {name_or_path}", got=got, allowed="one that can be made", fix=fix) from error
    if not isinstance(made, Predictor):
        raise UsageError(
            "predictor",
            got=f"{name_or_path} without predict()",
            allowed="a class with predict(context_frames, context_actions, actions, num_samples, seeds)",
            fix="see worldsim.eval.predictors",
        )
    return made


class CopyLast:
    """Nothing ever changes: the context's last frame again and again."""

    def predict(
        self,
        context_frames: UInt8[np.ndarray, "b k1 h w 3"],
        context_actions: Float32[np.ndarray, "b k a"],
        actions: Float32[np.ndarray, "b t a"],
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> UInt8[np.ndarray, "b s t h w 3"]:
        """Return the last frame for every sample and step."""
        del context_actions, seeds
        frames = copy_last(context_frames[:, -1], actions.shape[1])
        return np.repeat(frames[:, None], num_samples, axis=1)


@dataclasses.dataclass(frozen=True)
class Constant:
    """One and the same frame whatever is asked, for example the mean frame of the training recording."""

    frame: UInt8[np.ndarray, "h w 3"]

    def predict(
        self,
        context_frames: UInt8[np.ndarray, "b k1 h w 3"],
        context_actions: Float32[np.ndarray, "b k a"],
        actions: Float32[np.ndarray, "b t a"],
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> UInt8[np.ndarray, "b s t h w 3"]:
        """Return the frame for every context, sample and step."""
        del context_actions, seeds
        return np.tile(self.frame, (len(context_frames), num_samples, actions.shape[1], 1, 1, 1))


@dataclasses.dataclass(frozen=True)
class OthersActions:
    """A predictor told the actions of other contexts of its batch: what it predicts without heeding its own."""

    predictor: Predictor
    seed: int = 0

    def predict(
        self,
        context_frames: UInt8[np.ndarray, "b k1 h w 3"],
        context_actions: Float32[np.ndarray, "b k a"],
        actions: Float32[np.ndarray, "b t a"],
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> UInt8[np.ndarray, "b s t h w 3"]:
        """Return its futures under actions of which nobody keeps their own."""
        order = derangement(len(actions), np.random.default_rng([self.seed, 5]))
        return self.predictor.predict(context_frames, context_actions, actions[order], num_samples, seeds)


class Known:
    """Answers known beforehand, found by what is asked: the true world, and true frames that were tampered with."""

    def __init__(self, question: Question, answers: UInt8[np.ndarray, "n t h w 3"]) -> None:
        self._answers = dict(zip(_keys(question), answers, strict=True))

    def predict(
        self,
        context_frames: UInt8[np.ndarray, "b k1 h w 3"],
        context_actions: Float32[np.ndarray, "b k a"],
        actions: Float32[np.ndarray, "b t a"],
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> UInt8[np.ndarray, "b s t h w 3"]:
        """Return the known futures; UsageError if something else is asked."""
        del seeds
        asked = Question(frames=context_frames, context_actions=context_actions, actions=actions)
        keys = list(_keys(asked))
        if not all(key in self._answers for key in keys):
            fix = "ask what the answers were made for"
            raise UsageError("context", got="one that is not known", allowed="the scenes given", fix=fix)
        return np.repeat(np.stack([self._answers[key] for key in keys])[:, None], num_samples, axis=1)


def _keys(question: Question) -> Iterable[bytes]:
    """Return what tells contexts and their actions apart."""
    for row in zip(question.frames, question.context_actions, question.actions, strict=True):
        yield hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in row)).digest()
