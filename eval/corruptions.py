"""Corrupted oracles: the truth with one thing wrong, which the probe of that thing must notice. Knows no model.

Each takes scenes and returns frames, as a row of a probe's table does. Most are the true scenes drawn again with an edit
before each drawing; some tamper with the finished frames. `REGISTERED` says beforehand which probes each one targets
and which it may also move; everything else must stay as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import UInt8
from PIL import Image

from worldsim.envs.painter import Painter
from worldsim.envs.scene import COLOURS, PALETTE, SHAPES
from worldsim.envs.simulation import Simulation
from worldsim.envs.state import body_slots
from worldsim.eval import rows
from worldsim.eval.families import Scene, each_tale
from worldsim.eval.tales import Edit, Tale
from worldsim.eval.tracking import HIDDEN

Frames = UInt8[np.ndarray, "n m t h w 3"]
Corrupt = Callable[[Sequence[Tale], Painter], UInt8[np.ndarray, "n t h w 3"]]
SHIFT = 4
"""Frames by which what is early or late is."""
TELEPORT_M = 0.15
JIGGLE_M = 0.06
GAIN = 0.8
BLUR_PIXELS = 0.6
"""Standard deviation of a blur that leaves everything where it is."""
LENS = 0.85
"""Size of a picture taken with the wrong lens."""


def corrupted(name: str, scenes: Sequence[Scene], painter: Painter) -> Frames:
    """Return the truth of scenes with the corruption called ``name``."""
    return each_tale(scenes, lambda tales: {name: CORRUPTIONS[name](tales, painter)})[name]


def _edited(rule: Callable[[Tale], Edit]) -> Corrupt:
    return lambda tales, painter: np.stack([tale.redraw(painter, rule(tale)) for tale in tales])


def _frames(change: Callable[[np.ndarray], np.ndarray]) -> Corrupt:
    return lambda tales, painter: np.stack([change(tale.frames) for tale in tales])


def _target(tale: Tale) -> str:
    """Return the colour of the body that a scene is about."""
    named = tale.script.label.split("+")[0]
    return named if named in COLOURS else tale.scene.bodies[0].colour


def _turn(tale: Tale) -> int:
    """Return the frame from which on corruptions of what comes back set in: the first the target is hidden in, or the middle."""
    hidden = np.flatnonzero(body_slots(tale.states, "visible")[:, COLOURS.index(_target(tale))] <= HIDDEN)
    return int(hidden[0]) if len(hidden) else len(tale.frames) // 2


def _other_looks(change: Callable[[Tale], Mapping[str, str]]) -> Corrupt:
    """Draw the target with other looks from the turn on."""

    def draw(tales: Sequence[Tale], painter: Painter) -> np.ndarray:
        films = []
        for tale in tales:
            changed = change(tale)
            bodies = tuple(
                dataclasses.replace(body, **changed) if body.colour == _target(tale) else body
                for body in tale.scene.bodies
            )
            film = tale.redraw(painter, lambda *_: None, dataclasses.replace(tale.scene, bodies=bodies))
            films.append(np.concatenate([tale.frames[: _turn(tale)], film[_turn(tale) :]]))
        return np.stack(films)

    return draw


def _another_colour(tale: Tale) -> Mapping[str, str]:
    used = {body.colour for body in tale.scene.bodies}
    return {"colour": next(colour for colour in COLOURS if colour not in used)}


def _another_shape(tale: Tale) -> Mapping[str, str]:
    own = next(body.shape for body in tale.scene.bodies if body.colour == _target(tale))
    return {"shape": SHAPES[(SHAPES.index(own) + 1) % len(SHAPES)]}


def _shifted(offset: int) -> Corrupt:
    """Show what happens from the turn on so many frames later (or, below nothing, earlier)."""

    def draw(tales: Sequence[Tale], painter: Painter) -> np.ndarray:
        del painter
        times = np.arange(len(tales[0].frames))
        picked = [np.where(times < _turn(tale), times, np.clip(times - offset, 0, times[-1])) for tale in tales]
        return np.stack([tale.frames[order] for tale, order in zip(tales, picked, strict=True)])

    return draw


def _teleports(tale: Tale) -> Edit:
    turn, colour = _turn(tale), _target(tale)
    slot = COLOURS.index(colour)
    x, y = body_slots(tale.states, "x")[:, slot], body_slots(tale.states, "y")[:, slot]
    middle = -np.sign([x[-1], y[-1]]) * TELEPORT_M / 2**0.5  # towards the floor's middle

    def edit(t: int, simulation: Simulation) -> None:
        if t > turn:
            simulation.place(colour, float(x[t - 1] + middle[0]), float(y[t - 1] + middle[1]))

    return edit


def _jiggles(tale: Tale) -> Edit:
    rng = np.random.default_rng([tale.script.seed, 5])
    steps = rng.normal(0, JIGGLE_M, (len(tale.frames), 2))
    others = [body.colour for body in tale.scene.bodies if body.colour != _target(tale)]
    xy = np.stack([body_slots(tale.states, "x"), body_slots(tale.states, "y")], axis=-1)

    def edit(t: int, simulation: Simulation) -> None:
        for colour in others:
            simulation.place(colour, *(xy[t - 1, COLOURS.index(colour)] + steps[t - 1]).tolist())

    return edit


def _camera(move: Callable[[Tale, int], np.ndarray]) -> Corrupt:
    """Draw the true bodies from other cameras: ``move`` returns azimuth and tilt of frame t (from 1)."""

    def draw(tales: Sequence[Tale], painter: Painter) -> np.ndarray:
        films = []
        for tale in tales:
            snapshots = tale.snapshots.copy()
            for t in range(1, len(snapshots) + 1):
                snapshots[t - 1, -3:-1] = move(tale, t)
            films.append(dataclasses.replace(tale, snapshots=snapshots).redraw(painter, lambda *_: None))
        return np.stack(films)

    return draw


def _lags(tale: Tale, t: int) -> np.ndarray:
    return (tale.start if t == 1 else tale.snapshots[t - 2])[-3:-1]


def _gains(tale: Tale, t: int) -> np.ndarray:
    start, now = tale.start[-3:-1], tale.snapshots[t - 1][-3:-1]
    turned = (now - start + [180.0, 0.0]) % [360.0, 1e9] - [180.0, 0.0]
    return start + GAIN * turned


def _uncurtained(tale: Tale) -> np.ndarray:
    snapshots = tale.snapshots.copy()
    snapshots[:, -1] = 0.0
    return snapshots


def _always_shown(tales: Sequence[Tale], painter: Painter) -> np.ndarray:
    return np.stack(
        [dataclasses.replace(tale, snapshots=_uncurtained(tale)).redraw(painter, lambda *_: None) for tale in tales]
    )


def _unheeded(tales: Sequence[Tale], painter: Painter) -> np.ndarray:
    """Play every tale on as if nothing were done."""
    films = []
    for tale in tales:
        simulation = painter.simulate(tale.scene)
        simulation.restore(tale.start)
        film = []
        for action in tale.script.actions:
            simulation.advance(np.zeros_like(action))
            film.append(painter.frame(simulation))
        films.append(np.stack(film))
    return np.stack(films)


def _noise(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(film: np.ndarray) -> np.ndarray:
        grain = np.random.default_rng(film.shape[0]).normal(0, 255 * sigma, film.shape)
        return (film + grain).round().clip(0, 255).astype(np.uint8)

    return change


def _flickers(film: np.ndarray) -> np.ndarray:
    gain = np.where(np.arange(len(film)) % 2, 0.9, 1.1)[:, None, None, None]
    return (film * gain).round().clip(0, 255).astype(np.uint8)


def _haunted(tales: Sequence[Tale], painter: Painter) -> np.ndarray:
    """Show, from the turn on, a disc of a colour that the scene does not have."""
    del painter
    films = []
    for tale in tales:
        film, (colour,) = tale.frames.copy(), _another_colour(tale).values()
        _, height, width, _ = film.shape
        row, column = np.mgrid[:height, :width]
        disc = (row - 0.6 * height) ** 2 + (column - 0.4 * width) ** 2 <= (0.06 * width) ** 2
        film[_turn(tale) :, disc] = np.round(255 * np.array(PALETTE[colour])).astype(np.uint8)
        films.append(film)
    return np.stack(films)


def _shrunk(film: np.ndarray) -> np.ndarray:
    """Show what a lens of another focal length would."""
    _, height, width, _ = film.shape
    small = round(LENS * height), round(LENS * width)
    top, left = (height - small[0]) // 2, (width - small[1]) // 2
    border = ((top, height - small[0] - top), (left, width - small[1] - left), (0, 0))
    pictures = (np.asarray(Image.fromarray(frame).resize(small[::-1], Image.Resampling.BILINEAR)) for frame in film)
    return np.stack([np.pad(picture, border, mode="edge") for picture in pictures])


def _mean_film(tales: Sequence[Tale], painter: Painter) -> np.ndarray:
    del painter
    films = np.stack([tale.frames for tale in tales])
    return np.broadcast_to(films.mean(axis=(0, 1)).round().astype(np.uint8), films.shape)


CORRUPTIONS: Mapping[str, Corrupt] = {
    "deleted behind": rows.deleted,
    "freeze": rows.freeze,
    "colour swap": _other_looks(_another_colour),
    "shape swap": _other_looks(_another_shape),
    "early 4": _shifted(-SHIFT),
    "late 4": _shifted(SHIFT),
    "teleport 15 cm": _edited(_teleports),
    "always redrawn": _always_shown,
    "mirrored": _frames(lambda film: np.ascontiguousarray(film[:, :, ::-1])),
    "camera lags 1": _camera(_lags),
    "camera gain .8": _camera(_gains),
    "wrong lens": _frames(_shrunk),
    "ghost": _haunted,
    "bystander jiggles": _edited(_jiggles),
    "action ignored": _unheeded,
    "noise .03": _frames(_noise(0.03)),
    "noise .08": _frames(_noise(0.08)),
    "blur": _frames(
        lambda film: scipy.ndimage.gaussian_filter(film, sigma=(0, BLUR_PIXELS, BLUR_PIXELS, 0), mode="nearest")
    ),
    "gamma 1.2": _frames(lambda film: (255 * (film / 255) ** 1.2).round().astype(np.uint8)),
    "flicker": _frames(_flickers),
    "other scene": lambda tales, painter: np.roll(np.stack([tale.frames for tale in tales]), 1, axis=0),
    "mean frame": _mean_film,
}
