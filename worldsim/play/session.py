"""Session: one player with a pair of worlds. A plain object: knows no network, no clock and no thread."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from worldsim.errors import UsageError
from worldsim.play import challenge as challenges
from worldsim.play.autopilot import Autopilot
from worldsim.play.controls import action_of, rounded
from worldsim.play.limits import Limits
from worldsim.play.pair import Pair, Saved
from worldsim.play.protocol import MAX_LINK
from worldsim.play.recording import GREY, Take, beside
from worldsim.play.shelf import Shelf
from worldsim.play.tape import Beginning, Stride, decode, encode
from worldsim.sampler import check_num_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """A moment with the way that led to it: the first steps of the scene for links, the last ones for going back."""

    saved: Saved
    first: tuple[Stride, ...]
    recent: tuple[Stride, ...]


class Session:
    """Steps truth and dream with the same actions; goes back, forks, records, asks.

    Everything is in steps of the world; the caller has the clock, and looks at ``paused`` before it calls `tick`. All
    calls come from one thread, since a renderer belongs to the thread that opened it. Mistakes raise UsageError and
    leave the worlds as they were.
    """

    def __init__(self, shelf: Shelf, limits: Limits) -> None:
        self.shelf, self.limits = shelf, limits
        self.checkpoint = shelf.names[0]
        self.pair = self._new_pair(self.checkpoint)
        self.beginning = Beginning(seed=0, checkpoint=self.checkpoint)
        self.num_steps = self.pair.num_steps
        self.paused = False
        self.view = "frame"
        self.autopilot: Autopilot | None = None
        self.question: challenges.Question | None = None
        self.answered = False
        self.score = challenges.Score()
        self.forks: list[Kept] = []
        self.recording: Take | None = None
        self._script: deque[Stride] = deque()
        self._first: list[Stride] = []
        self._recent: deque[Stride] = deque(maxlen=limits.history_steps + limits.keyframe_steps)
        self._keyframes: deque[Saved] = deque()
        try:
            self.begin(self.beginning)
        except UsageError:
            self.close()
            raise

    @property
    def step(self) -> int:
        """Steps since the beginning of the scene."""
        return self.pair.step

    @property
    def can_rewind(self) -> int:
        """Steps that can be taken back."""
        return self.step - self._keyframes[0].step

    @property
    def replaying(self) -> int:
        """Steps of a link that are still to be played."""
        return len(self._script)

    @property
    def hides_truth(self) -> bool:
        """Whether a question is open, so that nothing of the truth may be told."""
        return self.question is not None and not self.answered

    def begin(self, beginning: Beginning, script: Sequence[Stride] = ()) -> None:
        """Begin a scene in both worlds, and play a script in it first."""
        if beginning.checkpoint != self.checkpoint:
            self._change_pair(beginning)
        else:
            self.pair.begin(beginning)
        self.beginning = beginning
        self.question, self.answered = None, False
        self.forks.clear()
        self._first.clear()
        self._recent.clear()
        self._script = deque(script)
        self._keyframes = deque([self.pair.save()])
        self._forget_plans()
        self._jumped()

    def open(self, link: str) -> None:
        """Begin the scene of a permalink; the next ticks play its actions, until a control is touched."""
        beginning, strides = decode(link, self.limits.link_steps)
        model = self.shelf.model(beginning.checkpoint)
        if any(len(stride.levels) != model.spec.action_dim for stride in strides):
            raise UsageError("link", got="steps of another world", allowed=f"{model.spec.action_dim} actions a step",
                             fix="open it where it was made")  # fmt: skip
        for num_steps in {stride.num_steps for stride in strides}:
            check_num_steps(num_steps, model.config.max_steps)
        self.begin(beginning, strides)

    def link(self) -> str:
        """Return the permalink of the scene and of its first steps (`Limits.link_steps`, fewer if they need much room)."""
        strides = self._first
        link = encode(self.beginning, strides)
        while len(link) > MAX_LINK:
            strides = strides[: len(strides) * 3 // 4]
            link = encode(self.beginning, strides)
        return link

    def tick(self, levels: Sequence[float | int]) -> None:
        """Play one step: of the held ``levels`` (-1 .. 1), or of script or autopilot while no control is touched."""
        self._check_levels(levels)
        held = rounded(levels)
        if any(held):
            self._script.clear()
        elif self._script:
            return self._play(self._script.popleft())
        elif self.autopilot is not None:
            held = self.autopilot.levels()
        return self._play(Stride(held, self.num_steps))

    def rewind(self, count: int) -> int:
        """Go back ``count`` steps, or as far as is kept, and pause there; return how many steps were taken back."""
        start = self.step
        target = max(start - count, self._keyframes[0].step)
        way = list(self._recent)
        played = way[len(way) - (start - target) :] if start > target else []
        while self._keyframes[-1].step > target:
            self._keyframes.pop()
        frame = self._keyframes[-1]
        again = way[len(way) - (start - frame.step) : len(way) - len(played)]
        self.pair.restore(frame)
        for stride in again:
            self._advance(stride)
        for _ in played:
            self._recent.pop()
        del self._first[target:]
        self._script.clear()
        self._forget_plans()
        self._jumped()
        self.paused = True
        return start - target

    def fork(self) -> int:
        """Keep this moment and return its number."""
        if len(self.forks) >= self.limits.forks:
            raise UsageError("fork", got=f"{len(self.forks)} kept", allowed=f"{self.limits.forks}", fix="begin anew")
        self.forks.append(Kept(saved=self.pair.save(), first=tuple(self._first), recent=tuple(self._recent)))
        return len(self.forks) - 1

    def back(self, fork: int) -> None:
        """Go on from a kept moment: with other actions both worlds come out elsewhere."""
        if not 0 <= fork < len(self.forks):
            raise UsageError("fork", got=fork, allowed=f"{len(self.forks)} kept", fix="keep a moment first")
        kept = self.forks[fork]
        self.pair.restore(kept.saved)
        self._first[:] = kept.first
        self._recent.clear()
        self._recent.extend(kept.recent)
        self._keyframes = deque([kept.saved])
        self._script.clear()
        self._forget_plans()
        self._jumped()

    def use_steps(self, count: int) -> None:
        """Dream with ``count`` sampler steps a frame from now on."""
        self.pair.use_steps(count)
        self.num_steps = count
        self._forget_plans()

    def use_checkpoint(self, name: str) -> None:
        """Dream the present scene with another checkpoint, from its beginning; in another world only the seed is kept."""
        same = self.shelf.model(name).spec.env_id == self.pair.spec.env_id
        fresh = dataclasses.replace(self.beginning, checkpoint=name)
        self.begin(fresh if same else Beginning(seed=self.beginning.seed, checkpoint=name))

    def use_view(self, name: str) -> None:
        """Show the truth as "frame", "depth" or "segmentation"."""
        if self.pair.truth is None and name != "frame":
            raise UsageError("view", got=name, allowed="frame", fix="there is no true world here")
        if self.pair.truth is not None:
            self.pair.truth.view(name)
        self.view = name

    def steer_by(self, by: str) -> None:
        """Hand the controls to a planner that imagines in the "dream" or the "truth", or take them back ("off")."""
        if by == "truth" and self.hides_truth:
            raise UsageError("autopilot", got="truth", allowed="off, dream", fix="the truth is hidden: answer first")
        self.autopilot = None if by == "off" else Autopilot(self.pair, by, self.beginning.seed)

    def record(self, on: bool) -> Take:
        """Begin a recording, or end it and return what it has seen."""
        taken, self.recording = self.recording or Take(), Take() if on else None
        self._jumped()
        return taken

    def ask(self) -> challenges.Question:
        """Begin a scene whose target gets covered, hide the truth, and pause."""
        self.steer_by("off")
        present = self.pair.save()
        try:
            question = challenges.find_question(self.pair, self.checkpoint, self.beginning.seed + 1)
        except UsageError:
            self.pair.restore(present)
            raise
        self.begin(question.beginning)
        self.question = question
        for _ in range(challenges.WAIT_STEPS):
            self._play(Stride((0,) * self.pair.spec.action_dim, self.num_steps))
        self.paused = True
        return question

    def answer(self, x: float, y: float) -> challenges.Verdict:
        """Judge a guess (shares of the picture from left and top), show the truth and keep the score."""
        if self.question is None or self.answered:
            raise UsageError("guess", got="no open question", allowed="one answer a question", fix="ask for the next")
        verdict = challenges.judge(self.pair, self.question, x, y)
        self.answered = True
        self.score = self.score.after(verdict)
        return verdict

    def stop_asking(self) -> None:
        """Show the truth again, and forget the score."""
        self.question, self.answered, self.score = None, False, challenges.Score()

    def panes(self) -> dict[str, UInt8[np.ndarray, "1 h w 3"]]:
        """Return what is to be shown now: "truth" in the chosen view unless it is hidden or missing, and "dream"."""
        panes = {}
        if self.pair.truth is not None and not self.hides_truth:
            panes["truth"] = self.pair.truth.view(self.view)[None]
        return {**panes, "dream": self.pair.dreamt.frame[None]}

    def close(self) -> None:
        """Free the worlds."""
        self.pair.close()

    def _new_pair(self, name: str) -> Pair:
        return Pair(self.shelf.model(name), self.shelf.folder(name))

    def _change_pair(self, beginning: Beginning) -> None:
        """Begin with another checkpoint, in worlds of its own."""
        pair = self._new_pair(beginning.checkpoint)
        try:
            pair.begin(beginning)
        except UsageError:
            pair.close()
            raise
        self.pair.close()
        self.pair, self.checkpoint, self.num_steps = pair, beginning.checkpoint, pair.num_steps
        self.autopilot, self.view, self.recording = None, "frame", None

    def _check_levels(self, levels: Sequence[float | int]) -> None:
        if len(levels) != self.pair.spec.action_dim:
            raise UsageError("levels", got=f"{len(levels)} numbers", allowed=f"{self.pair.spec.action_dim}, one per action",
                             fix=", ".join(self.pair.spec.action_names))  # fmt: skip

    def _play(self, stride: Stride) -> None:
        """Advance, and remember the way."""
        self._advance(stride)
        self.num_steps = stride.num_steps
        if len(self._first) == self.step - 1 < self.limits.link_steps:
            self._first.append(stride)
        self._recent.append(stride)
        if self.step % self.limits.keyframe_steps == 0:
            self._keyframes.append(self.pair.save())
        while len(self._keyframes) > 1 and self._keyframes[1].step <= self.step - self.limits.history_steps:
            self._keyframes.popleft()
        if self.recording is not None and len(self.recording.clip) < self.limits.recorded_steps:
            action = self.pair.spec.decided(action_of(self.pair.spec, stride.levels))
            self.recording.step(self._side_by_side(), self._frame(), action, self.pair.reward)

    def _frame(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """Return the frame of the world, or of the dream where that is all there is; None while the truth is hidden."""
        if self.pair.truth is None:
            return self.pair.dreamt.frame
        return None if self.hides_truth else self.pair.truth.view("frame")

    def _jumped(self) -> None:
        """Tell the recording that the present does not follow from the last step."""
        if self.recording is not None:
            self.recording.jump(self._frame())

    def _side_by_side(self) -> np.ndarray:
        panes = {name: clip[0] for name, clip in self.panes().items()}
        if self.pair.truth is not None:  # a hidden truth is recorded as a grey one
            panes = {"truth": np.full_like(panes["dream"], GREY), **panes}
        return beside(list(panes.values()))

    def _advance(self, stride: Stride) -> None:
        self.pair.use_steps(stride.num_steps)
        self.pair.advance(action_of(self.pair.spec, stride.levels))

    def _forget_plans(self) -> None:
        if self.autopilot is not None:
            self.autopilot.forget()
