"""Predictors that cheat: each shows something plausible without knowing what happens. The probes must catch them.

They see what every predictor sees, frames and actions, and nothing of the true world. `worldsim.eval.cheat_report` probes
them; each is named ``worldsim.eval.cheats:Paste`` and so on, and may be probed by hand.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float32, Float64, UInt8

from worldsim.dataset import EpisodeDataset, FrameCache
from worldsim.envs.camera import TILT_STOP
from worldsim.envs.controls import ACTION_NAMES, CURTAIN_STEP, ORBIT_STEP, TILT_STEP
from worldsim.errors import UsageError
from worldsim.eval.colours import MIN_SATURATION, read_colours

BLUR_PER_STEP = 0.5
"""Standard deviation (px) that `Blur` adds with every step."""
TRACKED = 8
"""Last frames of a context off which it is read how bodies move."""
MOVES_PX = 0.15
"""A body that moves less than this a frame is taken to rest."""
HALF_UP = 0.5
"""Share of its height, or of the tilt, from which on a curtain or a look-away is taken to hide things."""
CLIPS_VARIABLE, CLIPS_FOLDER = "WORLDSIM_CLIPS", "runs/data/arena"
"""Environment variable that names the recording of `NearestClip`, and the one it looks for without."""
THUMBNAIL = 4
"""Side in pixels of the squares over which frames are averaged before they are compared."""
BEFORE = 4
"""Frames before the last one of a context that is compared too, so that what moves is found moving."""
ACTION_WEIGHT = 0.03
"""Weight of a mean squared difference of actions beside that of two pairs of frames (white is 1)."""
SQUASHED = 0.5
"""Height over width of a round floor as cameras see it: the sine of a common elevation."""
_CHUNK = 4096
_BACKGROUND = 2  # px round a body that are painted over

Answer = UInt8[np.ndarray, "b s t h w 3"]


class _Cheat:
    """What the cheats share: one context at a time, and every sample the same."""

    def predict(
        self,
        context_frames: UInt8[np.ndarray, "b k1 h w 3"],
        context_actions: Float32[np.ndarray, "b k a"],
        actions: Float32[np.ndarray, "b t a"],
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> Answer:
        """Return the same film for every sample."""
        del context_actions, seeds
        films = np.stack([self.film(*one) for one in zip(context_frames, actions, strict=True)])
        return np.repeat(films[:, None], num_samples, axis=1)

    def film(
        self, context: UInt8[np.ndarray, "k1 h w 3"], actions: Float32[np.ndarray, "t a"]
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Return what is shown after a context under ``actions``."""
        raise NotImplementedError


class Blur(_Cheat):
    """Shows the context's last frame, more blurred with every step: never quite wrong, and never anything."""

    def film(
        self, context: UInt8[np.ndarray, "k1 h w 3"], actions: Float32[np.ndarray, "t a"]
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Return the last frame, blurred ever more."""
        last = context[-1].astype(np.float32)
        blurs = [BLUR_PER_STEP * step for step in range(1, len(actions) + 1)]
        film = [scipy.ndimage.gaussian_filter(last, sigma=(blur, blur, 0), mode="nearest") for blur in blurs]
        return np.stack(film).round().astype(np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cutouts:
    """A context's last frame taken apart: bodies cut out by their colour, and the rest painted over behind them."""

    background: UInt8[np.ndarray, "h w 3"]
    last: UInt8[np.ndarray, "h w 3"]
    masks: Bool[np.ndarray, "n h w"]
    middle: Float64[np.ndarray, "n 2"]
    """Column and row of each body in the last frame."""
    velocity: Float64[np.ndarray, "n 2"]
    """Pixels a frame in the last frame."""
    braking: Float64[np.ndarray, " n"]
    """Pixels a frame by which a body's speed falls with every frame."""

    @classmethod
    def of(cls, context: UInt8[np.ndarray, "k1 h w 3"]) -> _Cutouts:
        """Cut a context up; bodies count that are read in all of its last `TRACKED` frames."""
        reading = read_colours(context[-TRACKED:])
        tracks = reading.centroid[:, reading.found.all(axis=0)]  # (frames, n, 2)
        velocity, braking = _motion(tracks)
        last = context[-1]
        coloured = np.ptp(last.astype(np.int16), axis=-1) > 255 * MIN_SATURATION
        column_row = np.moveaxis(np.indices(coloured.shape)[::-1], 0, -1)
        distance = np.linalg.norm(column_row[None] - tracks[-1][:, None, None], axis=-1)
        nearest = distance == distance.min(axis=0, initial=np.inf)
        round_them = scipy.ndimage.binary_dilation(coloured, iterations=_BACKGROUND)
        nearest_grey: Any = scipy.ndimage.distance_transform_edt(
            round_them, return_distances=False, return_indices=True
        )
        return cls(
            background=last[tuple(nearest_grey)],
            last=last,
            masks=nearest & coloured,
            middle=tracks[-1],
            velocity=velocity,
            braking=braking,
        )

    @property
    def moves(self) -> Bool[np.ndarray, " n"]:
        """Return which bodies move."""
        return np.linalg.norm(self.velocity, axis=-1) > MOVES_PX

    def picture(self, offsets: Float64[np.ndarray, "n 2"], shown: Bool[np.ndarray, " n"]) -> np.ndarray:
        """Paste the bodies that are ``shown`` so many columns and rows away from where they were seen last."""
        frame = self.background.copy()
        height, width, _ = frame.shape
        for mask, offset, wanted in zip(self.masks, offsets.round().astype(int), shown, strict=True):
            row, column = np.nonzero(mask)
            to_row, to_column = row + offset[1], column + offset[0]
            inside = wanted & (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
            frame[to_row[inside], to_column[inside]] = self.last[row[inside], column[inside]]
        return frame


def _motion(tracks: Float64[np.ndarray, "k n 2"]) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, " n"]]:
    """Return velocity at the end (px a frame) and how much of the speed is lost with every frame, never less than none.

    Medians over pairs of steps, so that a step in which a body met a wall counts for nothing.
    """
    steps = np.diff(tracks, axis=0)
    speeds, ago = np.linalg.norm(steps, axis=-1), np.arange(len(steps))[::-1]
    first, second = np.triu_indices(len(steps), 1)
    lost = (speeds[first] - speeds[second]) / (ago[first] - ago[second])[:, None]
    braking = np.clip(np.median(lost, axis=0), 0, None)
    now = np.clip(np.median(speeds - ago[:, None] * braking, axis=0), 0, None)
    return steps[-1] * (now / np.maximum(speeds[-1], 1e-9))[:, None], braking


class Paste(_Cheat):
    """Remembers how bodies looked and pastes them back where they were seen last, once nothing hides them any more."""

    def film(
        self, context: UInt8[np.ndarray, "k1 h w 3"], actions: Float32[np.ndarray, "t a"]
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Return the last frame without what moves while the curtain is up, and with no body while the camera looks up."""
        cut = _Cutouts.of(context)
        shown = [
            np.logical_not(cut.moves & (curtain >= HALF_UP)) & (tilt < HALF_UP)
            for curtain, tilt in zip(_risen(actions, "curtain"), _risen(actions, "tilt"), strict=True)
        ]
        return np.stack([cut.picture(np.zeros_like(cut.middle), row) for row in shown])


class ActionBlind(_Cheat):
    """Lets every body go on as it moved, whatever is done."""

    def film(
        self, context: UInt8[np.ndarray, "k1 h w 3"], actions: Float32[np.ndarray, "t a"]
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Return the bodies going straight on over a picture that stands still."""
        cut = _Cutouts.of(context)
        everything = np.ones(len(cut.masks), bool)
        return np.stack([cut.picture(step * cut.velocity, everything) for step in range(1, len(actions) + 1)])


class Puppeteer(_Cheat):
    """The best that can be done by moving cut-outs about: bodies brake as they did, hide near the middle, the floor turns.

    Knows no height, no collision and no pusher.
    """

    def film(
        self, context: UInt8[np.ndarray, "k1 h w 3"], actions: Float32[np.ndarray, "t a"]
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Return the puppet show."""
        cut = _Cutouts.of(context)
        _, height, width, _ = context.shape
        centre = np.array([width - 1, height - 1]) / 2
        speed = np.linalg.norm(cut.velocity, axis=-1)
        heading = cut.velocity / np.maximum(speed, 1e-9)[:, None]
        turned = ORBIT_STEP * np.cumsum(actions[:, ACTION_NAMES.index("orbit")])
        film, curtain, tilt = [], _risen(actions, "curtain"), _risen(actions, "tilt")
        for step, angle, up, looks in zip(range(1, len(actions) + 1), turned.tolist(), curtain, tilt, strict=True):
            lasts = np.minimum(step, speed / np.maximum(cut.braking, 1e-9))
            way = speed * lasts - cut.braking * lasts**2 / 2
            from_centre = cut.middle + way[:, None] * heading - centre
            places = centre + (from_centre[:, ::-1] @ _as_seen(angle).T)[:, ::-1]
            behind = np.abs(places[:, 0] - centre[0]) < width / 6
            shown = np.logical_not(cut.moves & behind & (up >= HALF_UP)) & (looks < HALF_UP)
            stage = dataclasses.replace(cut, background=_turned(cut.background, angle, looks * height))
            film.append(stage.picture(places - cut.middle, shown))
        return np.stack(film)


class NearestClip(_Cheat):
    """Finds the most similar moment of a recording, actions included, and plays what followed there.

    The recording is that of the environment variable `CLIPS_VARIABLE`, else `CLIPS_FOLDER`; UsageError if it is missing
    or of frames of another size.
    """

    def film(
        self, context: UInt8[np.ndarray, "k1 h w 3"], actions: Float32[np.ndarray, "t a"]
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Return what followed the nearest moment; its last frame stays where the clip is too short."""
        clips = _clips(os.environ.get(CLIPS_VARIABLE, CLIPS_FOLDER))
        first = clips.nearest(context, actions)
        last = int(clips.cache.offsets[np.searchsorted(clips.cache.offsets, first, side="right")]) - 1
        return np.asarray(clips.cache.frames[np.minimum(first + 1 + np.arange(len(actions)), last)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Clips:
    """A recording's training split, with a thumbnail of every frame in memory."""

    cache: FrameCache
    thumbnails: UInt8[np.ndarray, "frames pixels"]

    def nearest(self, context: UInt8[np.ndarray, "k1 h w 3"], actions: Float32[np.ndarray, "t a"]) -> int:
        """Return the row of ``cache.frames`` that shows the moment most like the end of a context."""
        if context.shape[1:] != self.cache.frames.shape[1:]:
            fix = f"name a recording of such frames in {CLIPS_VARIABLE}"
            raise UsageError("context", got=context.shape[1:], allowed=f"{self.cache.frames.shape[1:]}", fix=fix)
        longest = int(np.diff(self.cache.offsets).max())
        steps = min(len(actions), longest - BEFORE - 1)
        rows = self.cache.windows(BEFORE + 1 + steps)  # (m, episode and first frame)
        now, wanted = _thumbnails(context[[-1 - BEFORE, -1]]).astype(np.float32), actions[:steps]
        best, least = 0, np.inf
        for part in np.split(rows, range(_CHUNK, len(rows), _CHUNK)):
            frame = self.cache.offsets[part[:, 0]] + part[:, 1]
            unlike = sum(
                ((self.thumbnails[frame + ago] - now[index]) ** 2).mean(axis=1) / 255**2
                for index, ago in enumerate((0, BEFORE))
            )
            done = self.cache.actions[(frame - part[:, 0] + BEFORE)[:, None] + np.arange(steps)]
            cost = unlike + ACTION_WEIGHT * ((done - wanted) ** 2).mean(axis=(1, 2))
            if cost.min() < least:
                best, least = int(frame[cost.argmin()]) + BEFORE, float(cost.min())
        return best


@functools.lru_cache(maxsize=1)
def _clips(folder: str) -> _Clips:
    """Open a recording, and make its thumbnails a few frames at a time."""
    try:
        cache = EpisodeDataset.open(folder).cache("train")
    except UsageError as error:
        fix = f"name the Arena's recording in the environment variable {CLIPS_VARIABLE}, or run where it is"
        raise UsageError(f"clips {folder}", got=error.got, allowed="a recording to copy from", fix=fix) from error
    starts = range(0, len(cache.frames), _CHUNK)
    thumbnails = [_thumbnails(np.asarray(cache.frames[first : first + _CHUNK])) for first in starts]
    return _Clips(cache=cache, thumbnails=np.concatenate(thumbnails))


def _thumbnails(frames: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n pixels"]:
    """Return frames made small: every square is the mean of four of its pixels."""
    count, height, width, _ = frames.shape
    kept = frames[:, : height // THUMBNAIL * THUMBNAIL, : width // THUMBNAIL * THUMBNAIL]
    corners = [kept[:, row::THUMBNAIL, column::THUMBNAIL] for row in (0, 2) for column in (0, 2)]
    return (np.sum(corners, axis=0, dtype=np.uint16) // len(corners)).astype(np.uint8).reshape(count, -1)


def _risen(actions: Float32[np.ndarray, "t a"], name: str) -> Float64[np.ndarray, " t"]:
    """Return how far the curtain or the tilt is from 0 to 1, step by step, if it begins at 0."""
    step, height, risen = {"curtain": CURTAIN_STEP, "tilt": TILT_STEP / TILT_STOP}[name], 0.0, []
    for rate in actions[:, ACTION_NAMES.index(name)].tolist():
        height = min(max(height + step * rate, 0.0), 1.0)
        risen.append(height)
    return np.array(risen)


def _as_seen(degrees: float) -> Float64[np.ndarray, "2 2"]:
    """Return how (row, column) about the middle of the floor's picture move when the camera has turned so far."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return np.array([[cosine, SQUASHED * sine], [-sine / SQUASHED, cosine]])


def _turned(frame: UInt8[np.ndarray, "h w 3"], degrees: float, down: float) -> UInt8[np.ndarray, "h w 3"]:
    """Turn a picture as a disc seen from the side would turn about its middle, and move it down by some rows."""
    back = np.eye(3)  # of (row, column, channel)
    back[:2, :2] = _as_seen(-degrees)
    middle = np.array([frame.shape[0] - 1, frame.shape[1] - 1, 0.0]) / 2
    offset: Any = middle - back @ (middle + np.array([down, 0, 0]))
    return scipy.ndimage.affine_transform(frame, back, offset, order=1, mode="nearest")
