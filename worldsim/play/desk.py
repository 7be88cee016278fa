"""What becomes of a message: calls of a session, and what is told back. Knows no network.

Answers are JSON-able dictionaries with a "type", or binary messages of `worldsim.play.wire`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldsim.envs.controls import ACTION_NAMES
from worldsim.envs.factors import FACTORS, Factor
from worldsim.envs.tasks import TASKS
from worldsim.play import protocol
from worldsim.play.controls import bindings
from worldsim.play.protocol import MAX_RATE_HZ
from worldsim.play.recording import Take, formats
from worldsim.play.session import Session
from worldsim.play.tape import Beginning
from worldsim.play.wire import pack

Answer = Mapping[str, Any] | bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """What is to be encoded into a file, away from the worlds' thread."""

    take: Take
    format: str


def hello(session: Session) -> dict[str, Any]:
    """Return what a page must know of a world to play it."""
    spec = session.pair.spec
    is_arena = spec.action_names == ACTION_NAMES
    most = session.pair.dream.model.config.max_steps
    return {
        "type": "hello",
        "world": spec.env_id,
        "rate": min(MAX_RATE_HZ, max(1, round(spec.frame_rate_hz))),
        "bindings": [dataclasses.asdict(binding) for binding in bindings(spec)],
        "checkpoints": session.shelf.names,
        "checkpoint": session.checkpoint,
        "steps": [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= most],
        "tasks": list(TASKS) if is_arena else [],
        "factors": [_factor(factor) for factor in FACTORS.values() if factor.scope != "post"] if is_arena else [],
        "views": ["frame", "depth", "segmentation"] if is_arena and session.pair.truth is not None else ["frame"],
        "formats": formats(),
        "truth": session.pair.truth is not None,
        "missing": session.pair.missing,
    }


def _factor(factor: Factor) -> dict[str, Any]:
    spans = [(span.low, span.high) for span in (*factor.train, *factor.held_out)]
    return {
        "name": factor.name, "scope": factor.scope, "doc": factor.doc, "allowed": factor.allowed(),
        "names": factor.names, "whole": factor.whole, "unit": factor.unit,
        "low": min((low for low, _ in spans), default=None), "high": max((high for _, high in spans), default=None),
    }  # fmt: skip


def frame_message(session: Session, **header: Any) -> bytes:
    """Return what is shown now, with the session's state; ``header`` adds the clock's numbers."""
    pair, hidden = session.pair, session.hides_truth
    truth = None if pair.truth is None or hidden else pair.truth.now
    return pack(
        "frame",
        session.panes(),
        step=session.step,
        seed=session.beginning.seed,
        task=session.beginning.task,
        checkpoint=session.checkpoint,
        num_steps=session.num_steps,
        paused=session.paused,
        view=session.view,
        rewind=session.can_rewind,
        replaying=session.replaying,
        forks=len(session.forks),
        recorded=None if session.recording is None else len(session.recording.clip),
        autopilot="off" if session.autopilot is None else session.autopilot.by,
        hidden=hidden,
        reward={"truth": None if truth is None else _number(truth.reward), "dream": _number(pair.dreamt.reward)},
        success={"truth": truth is not None and truth.success, "dream": pair.dreamt.success},
        ms={"truth": round(pair.truth_ms, 1), "dream": round(pair.dream_ms, 1)},
        **header,
    )


def _number(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None


def futures_message(session: Session) -> bytes | None:
    """Return the futures that the autopilot has imagined since the last call, if any."""
    futures = None if session.autopilot is None else session.autopilot.take_futures()
    if futures is None:
        return None
    panes = {f"plan {i + 1}": frames for i, frames in enumerate(futures.frames)}
    return pack("plans", panes, scores=[_number(float(score)) for score in futures.scores], best=futures.best)


@functools.singledispatch
def perform(message: Any, session: Session) -> list[Answer | Recorded]:
    """Do what a message asks; UsageError for what cannot be done, and the session goes on as it was."""
    raise TypeError(f"no message: {type(message).__name__}")


@perform.register
def _reset(message: protocol.Reset, session: Session) -> list[Answer | Recorded]:
    session.begin(
        Beginning(seed=message.seed, checkpoint=session.checkpoint, task=message.task, factors=message.factors)
    )
    return [{"type": "begun", "seed": message.seed}]


@perform.register
def _open(message: protocol.Open, session: Session) -> list[Answer | Recorded]:
    before = session.checkpoint
    session.open(message.link)
    session.paused = False
    begun = {"type": "begun", "seed": session.beginning.seed}
    return [begun] if session.checkpoint == before else [hello(session), begun]


@perform.register
def _pause(message: protocol.Pause, session: Session) -> list[Answer | Recorded]:
    session.paused = message.on
    return []


@perform.register
def _rewind(message: protocol.Rewind, session: Session) -> list[Answer | Recorded]:
    return [{"type": "rewound", "count": session.rewind(message.count)}]


@perform.register
def _fork(message: protocol.Fork, session: Session) -> list[Answer | Recorded]:
    number = session.fork()
    return [pack("fork", {"dream": session.pair.dreamt.frame[None]}, fork=number, step=session.step)]


@perform.register
def _return(message: protocol.Return, session: Session) -> list[Answer | Recorded]:
    session.back(message.fork)
    return []


@perform.register
def _view(message: protocol.View, session: Session) -> list[Answer | Recorded]:
    session.use_view(message.name)
    return []


@perform.register
def _steps(message: protocol.Steps, session: Session) -> list[Answer | Recorded]:
    session.use_steps(message.count)
    return []


@perform.register
def _checkpoint(message: protocol.Checkpoint, session: Session) -> list[Answer | Recorded]:
    session.use_checkpoint(message.name)
    return [hello(session), {"type": "begun", "seed": session.beginning.seed}]


@perform.register
def _record(message: protocol.Record, session: Session) -> list[Answer | Recorded]:
    take = session.record(message.on)
    return [] if message.on else [Recorded(take=take, format=message.format)]


@perform.register
def _link(message: protocol.Link, session: Session) -> list[Answer | Recorded]:
    whole = session.step <= session.limits.link_steps
    return [{"type": "link", "link": session.link(), "whole": whole}]


@perform.register
def _autopilot(message: protocol.Autopilot, session: Session) -> list[Answer | Recorded]:
    session.steer_by(message.by)
    return []


@perform.register
def _challenge(message: protocol.Challenge, session: Session) -> list[Answer | Recorded]:
    if not message.on:
        session.stop_asking()
        return [{"type": "challenge", "on": False}]
    question = session.ask()
    asked = pack("question", {"lead-in": question.lead_in}, colour=question.colour, step=session.step)
    return [{"type": "begun", "seed": session.beginning.seed}, asked]


@perform.register
def _guess(message: protocol.Guess, session: Session) -> list[Answer | Recorded]:
    verdict = session.answer(float(message.x), float(message.y))
    return [{"type": "verdict", **dataclasses.asdict(verdict), "score": dataclasses.asdict(session.score)}]
