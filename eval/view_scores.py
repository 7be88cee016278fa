"""Scores of views of one scene from many sides: is the camera obeyed, and do the views agree with one world? No model.

The camera's azimuth is read off a frame by analysis by synthesis: the scene's grey things are drawn from a ring of
azimuths, and the nearest view counts. The bodies' places come from the read-out, with the true cameras, which are the
commanded ones too: projected back, they are the pixels that were read. A predictor that does not turn as commanded
shows views that agree for the wrong reason, so what is measured of agreement is gated by obedience.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float32, Float64, UInt8

from worldsim.envs.camera import CameraPose, field_of_view, project
from worldsim.envs.controls import ACTION_NAMES, ORBIT_STEP
from worldsim.envs.factors import HELD_OUT_WEDGE
from worldsim.envs.painter import Painter
from worldsim.envs.scene import HALF_FLOOR, SceneSpec
from worldsim.envs.state import body_slots, element
from worldsim.eval.colours import MIN_SATURATION
from worldsim.eval.families import Measure, Reader, Scene, Scores
from worldsim.eval.permanence_scores import MISSED
from worldsim.eval.places import Places, camera_of
from worldsim.eval.rows import OUT_OF_VIEW_M
from worldsim.eval.statistics import quotient
from worldsim.eval.tales import Tale, truth_of
from worldsim.eval.tracking import CUT_OFF_M, VISIBLE, TrackingError, TruePlaces, tracking_error

RING_STEP_DEG = 5.0
"""Between two views of the ring that frames are compared with; between them a parabola is laid."""
SMOOTHING = 1.5 / 64
"""Standard deviation of the smoothing before frames are compared, as a share of their height."""
LEAST_FIT, LEAST_GREY = 0.7, 0.5
"""Least correlation with the nearest view, and least share of grey pixels, of a frame whose azimuth can be read."""
AZIMUTH_CUT_OFF_DEG = 45.0
"""Largest error of an azimuth that counts; what cannot be read costs as much."""
PIXEL_CUT_OFF = 8.0
"""Largest distance in the picture (px) that counts, about a body's diameter; what cannot be read costs as much."""
LAGS = 4


def _centimetres(means: np.ndarray) -> np.ndarray:
    return np.asarray(100 * means[..., 0] / means[..., 1])


def _excess(means: np.ndarray) -> np.ndarray:
    return np.asarray(100 * (means[..., 0] - means[..., 1]) / means[..., 2])


def _best_lag(means: np.ndarray) -> np.ndarray:
    return np.where(means.max(axis=-1) > 0, means.argmin(axis=-1), np.nan)


MEASURES = (
    Measure(
        name="obedience gain", columns=("turned", "asked"), statistic=quotient, perfect=1.0,
        meaning="how far the camera turns for every degree it was told to: slope of the turns read on those commanded",
    ),
    Measure(
        name="azimuth error", columns=("azimuth_error", "azimuths"), statistic=quotient, unit="deg", perfect=0.0,
        meaning="how far the camera is from where it should be, 45 degrees at most and where that cannot be read",
    ),
    Measure(
        name="azimuth unread", columns=("azimuths_unread", "azimuths"), statistic=quotient, perfect=0.0,
        meaning="share of the frames whose azimuth cannot be read",
    ),
    Measure(
        name="lag", columns=tuple(f"lag_{lag}" for lag in range(LAGS)), statistic=_best_lag, unit="frames",
        perfect=0.0, gated=True, meaning=f"frames, {LAGS - 1} at most, by which the camera answers too late",
    ),
    Measure(
        name="reprojection error", columns=("off", "views"), statistic=quotient, unit="px", perfect=0.0, gated=True,
        meaning="how far the bodies are in the picture from where the true camera sees them, 8 pixels at most",
    ),
    Measure(
        name="triangulation residual", columns=("residual", "rays"), statistic=quotient, unit="px", perfect=0.0,
        gated=True, meaning="how far each body is, view by view, from the one place that suits all views best",
    ),
    Measure(
        name="loop closure", columns=("loop", "loop_bodies"), statistic=_centimetres, unit="cm", perfect=0.0,
        gated=True, meaning="how far bodies are from where they were when the camera has come back, 20 cm at most",
    ),
    Measure(
        name="loop excess", columns=("loop", "stare", "loop_bodies"), statistic=_excess, unit="cm", perfect=0.0,
        gated=True, meaning="loop closure minus the same of a camera that stood still for as long",
    ),
    Measure(
        name="error in the wedge", columns=("wedge_cost", "wedge_scored"), statistic=_centimetres, unit="cm",
        meaning="tracking error of the frames seen from azimuths that no recording shows",
    ),
    MISSED,
)  # fmt: skip


def azimuths_of(states: Float32[np.ndarray, "*rows s"]) -> Float64[np.ndarray, "*rows"]:
    """Return where the camera stands on its ring, in degrees from 0 to 360."""
    sine, cosine = (element(states, f"camera/azimuth_{part}").astype(np.float64) for part in ("sin", "cos"))
    return np.degrees(np.arctan2(sine, cosine)) % 360.0


def in_wedge(azimuths_deg: Float64[np.ndarray, "*rows"]) -> Bool[np.ndarray, "*rows"]:
    """Return which azimuths lie within the held-out wedge."""
    return (azimuths_deg >= HELD_OUT_WEDGE[0]) & (azimuths_deg <= HELD_OUT_WEDGE[1])


def wrapped(degrees: Float64[np.ndarray, "*rows"]) -> Float64[np.ndarray, "*rows"]:
    """Return angles as the shortest turn, from -180 to 180 degrees."""
    return (degrees + 180.0) % 360.0 - 180.0


def turned_deg(tale: Tale) -> Float64[np.ndarray, " t"]:
    """Return how far the camera has been told to turn since the actions began (degrees, full turns counted)."""
    return ORBIT_STEP * np.cumsum(tale.script.actions[:, ACTION_NAMES.index("orbit")], dtype=np.float64)


def score(
    scenes: Sequence[Scene],
    frames: UInt8[np.ndarray, "n m t h w 3"],
    reader: Reader,
    *,
    counted: Bool[np.ndarray, "n t"],
    at_rest: bool,
) -> Scores:
    """Score a row of frames. The second tale of a scene, where there is one, is what a camera at rest sees.

    Only ``counted`` frames enter the errors; obedience and triangulation take all. Views are triangulated only where the
    bodies are ``at_rest``, loops closed only where there is a second tale.
    """
    tales = [scene[0] for scene in scenes]
    states = np.stack([tale.states for tale in tales])
    read, truth = reader(frames[:, 0], states), truth_of(tales)
    error = tracking_error(read, truth)
    wedge = in_wedge(azimuths_of(states))
    sights = _Sights.of(read, truth, states, frames.shape[-3:-1])
    columns = {
        **_tracked(error, counted),
        **{f"wedge_{name}": column for name, column in _tracked(error, wedge).items()},
        **_obedience(tales, frames[:, 0], counted),
        **_reprojected(sights, counted),
        **_triangulated(sights, at_rest),
        **_closure(scenes, frames, reader, read),
    }
    distances = error.localisation[error.whole & counted[..., None]]
    return Scores(
        columns=columns,
        frame_cost=error.frame_cost_cm,
        floor=100 * float(np.median(distances)) if len(distances) else None,
    )


def _tracked(error: TrackingError, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return summed cost (m), scored bodies and missed ones of some frames (n, t) of each scene."""
    parts = {"cost": error.cost, "scored": error.scored, "missed": error.miss / CUT_OFF_M}
    return {name: (part * frames[..., None]).sum(axis=(1, 2)).astype(np.float64) for name, part in parts.items()}


# --- the camera ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stage:
    """A scene at a moment, to be looked at without its bodies."""

    scene: SceneSpec
    snapshot: bytes


def views_without_bodies(
    painter: Painter, scene: SceneSpec, snapshot: Float64[np.ndarray, " p"], azimuths_deg: Sequence[float]
) -> UInt8[np.ndarray, "views h w 3"]:
    """Draw a moment of a scene without its bodies, with a level camera at each of some azimuths (degrees)."""
    simulation, frames = painter.simulate(scene), []
    simulation.restore(snapshot)
    for body in scene.bodies:
        simulation.place(body.colour, OUT_OF_VIEW_M, OUT_OF_VIEW_M)
    *physics, _, _, curtain = simulation.snapshot()
    for azimuth in azimuths_deg:
        simulation.restore(np.array([*physics, azimuth, 0.0, curtain]))
        frames.append(painter.frame(simulation))
    return np.stack(frames)


@functools.lru_cache(maxsize=2)  # every row of a table asks for the same scenes, or for the first of them
def _rings(stages: tuple[_Stage, ...], height: int, width: int) -> list[Float32[np.ndarray, "views pixels"]]:
    """Return each stage seen from all round, smoothed and grey."""
    painter = Painter(height=height, width=width, shadows=True)
    azimuths = np.arange(0.0, 360.0, RING_STEP_DEG).tolist()
    moments = [(stage.scene, np.frombuffer(stage.snapshot, dtype=np.float64)) for stage in stages]
    try:
        drawn = [views_without_bodies(painter, *moment, azimuths) for moment in moments]
    finally:
        painter.close()
    return [_smoothed(frames).mean(axis=-1).reshape(len(frames), -1) for frames in drawn]


def _smoothed(frames: np.ndarray) -> np.ndarray:
    """Return every second row and column of frames (n, h, w, 3) after smoothing."""
    sigma = SMOOTHING * frames.shape[1]
    return scipy.ndimage.gaussian_filter(frames.astype(np.float32), (0, sigma, sigma, 0))[:, 1::2, 1::2]


def _azimuths(frames: np.ndarray, ring: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare frames with the views of a ring, on grey pixels (bodies and what is next to them are left out).

    The squared error is taken after the best brightness, contrast and share of what all views have in common, so it is
    1 minus the squared partial correlation; the vertex of a parabola through the best three views is the azimuth.
    """
    smooth = _smoothed(frames)
    coloured = (smooth.max(axis=-1) - smooth.min(axis=-1)) > 255 * MIN_SATURATION / 2
    cross = scipy.ndimage.generate_binary_structure(2, 1)[None]
    grey = np.logical_not(scipy.ndimage.binary_dilation(coloured, structure=cross)).reshape(len(frames), -1)
    common = ring.mean(axis=0)
    fits = np.zeros((len(frames), len(ring)))
    for index, (frame, weight) in enumerate(zip(smooth.mean(axis=-1).reshape(grey.shape), grey, strict=True)):
        if weight.mean() < LEAST_GREY:
            continue
        basis, _ = np.linalg.qr(np.stack([np.ones(weight.sum()), common[weight]], axis=1))
        views, own = (row - (row @ basis) @ basis.T for row in (ring[:, weight], frame[weight]))
        fits[index] = views @ own / np.maximum(np.linalg.norm(views, axis=1) * np.linalg.norm(own), 1e-9)
    best, rows = fits.argmax(axis=1), np.arange(len(frames))
    before, peak, after = (fits[rows, (best + step) % len(ring)] for step in (-1, 0, 1))
    vertex = (before - after) / np.minimum(before - 2 * peak + after, -1e-9) / 2
    return (best + vertex) * RING_STEP_DEG % 360.0, peak >= LEAST_FIT


def _obedience(tales: Sequence[Tale], frames: np.ndarray, counted: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns about the camera. Only level frames are read: with the floor out of sight there is nothing to."""
    stages = tuple(_Stage(scene=tale.scene, snapshot=tale.start.tobytes()) for tale in tales)
    rings = _rings(stages, *frames.shape[-3:-1])
    scored = [_obeyed(*scene) for scene in zip(tales, frames, rings, counted, strict=True)]
    return {name: np.array([row[name] for row in scored], dtype=np.float64) for name in scored[0]}


def _obeyed(tale: Tale, frames: np.ndarray, ring: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Return the columns of one scene."""
    level = np.flatnonzero(element(tale.states, "camera/tilt") < 1e-3)
    read, readable = _azimuths(frames[level], ring)
    last_read = np.maximum.accumulate(np.where(readable, np.arange(1, len(level) + 1), 0))
    held = np.array([tale.script.azimuth_deg, *read])[[0, *last_read]]
    asked = np.diff(turned_deg(tale)[level], prepend=0.0)
    turned, squared = _gain(held, readable, asked)
    off = np.where(readable, np.abs(wrapped(held[1:] - azimuths_of(tale.states)[level])), AZIMUTH_CUT_OFF_DEG)
    off = np.minimum(off, AZIMUTH_CUT_OFF_DEG)[counted[level]]
    earlier = [np.concatenate([np.zeros(lag), asked[: len(asked) - lag]]) for lag in range(LAGS)]
    misfit = [float(((wrapped(np.diff(held)) - then) ** 2).sum()) for then in earlier]
    return {
        "turned": turned,
        "asked": squared,
        "azimuth_error": float(off.sum()),
        "azimuths": float(len(off)),
        "azimuths_unread": float((~readable)[counted[level]].sum()),
        **{f"lag_{lag}": one if len(level) == len(frames) else 0.0 for lag, one in enumerate(misfit)},
    }


def _gain(held: np.ndarray, readable: np.ndarray, asked: np.ndarray) -> tuple[float, float]:
    """Return the sums of turns read times turns asked, and of turns asked squared: their ratio is the slope.

    Azimuths ``held`` (1 + t) are the context's and those read last. Turns are taken from one predicted frame that can be
    read to the next, so a still picture has none, and where nothing can be read to the end, the camera has not turned.
    A turn over steps that cannot be read weighs no more than these steps one by one.
    """
    ends = np.flatnonzero([not readable[0], *readable[:-1], True])
    turns, together = wrapped(np.diff(held[ends])), np.diff(np.cumsum([0.0, *asked])[ends])
    one_by_one = np.diff(np.cumsum([0.0, *(asked**2)])[ends])
    weights = np.minimum(one_by_one / np.maximum(together**2, 1e-9), 1.0)
    return float((weights * turns) @ together), float(one_by_one.sum())


# --- the bodies ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sights:
    """Where bodies are read and where they are, in space and in the picture; all that is in sight counts as a view."""

    shown: Bool[np.ndarray, "n t c"]
    found: Bool[np.ndarray, "n t c"]
    read: Float64[np.ndarray, "n t c 3"]
    """Point on the line of sight in m, on the floor's middle where nothing is found."""
    true: Float64[np.ndarray, "n t c 3"]
    cameras: list[list[CameraPose]]
    size: tuple[int, ...]
    """Height and width of the frames."""

    @classmethod
    def of(cls, read: Places, truth: TruePlaces, states: np.ndarray, size: tuple[int, ...]) -> _Sights:
        middle = body_slots(states, "radius").astype(np.float64)[..., None]  # as high as the body's radius
        return cls(
            shown=truth.present & (truth.visibility >= VISIBLE),
            found=read.found,
            read=np.concatenate([np.nan_to_num(read.xy), middle], axis=-1),
            true=np.concatenate([truth.xy, middle], axis=-1),
            cameras=[[camera_of(state) for state in scene] for scene in states],
            size=size,
        )

    def pixels(self, scene: int, points: Float64[np.ndarray, "t c 3"]) -> Float64[np.ndarray, "t c 2"]:
        """Return column and row of points in each frame of a scene; NaN behind the camera."""
        height, width = self.size
        lens = field_of_view(width / height, HALF_FLOOR), width / height
        image = [project(camera, row, *lens) for camera, row in zip(self.cameras[scene], points, strict=True)]
        return (np.stack(image) * [1, -1] + 1) / 2 * [width, height] - 0.5

    def away(self, scene: int, points: Float64[np.ndarray, "t c 3"]) -> Float64[np.ndarray, "t c"]:
        """Return how far (px) bodies are read from points, frame by frame, up to the cut-off."""
        offset = self.pixels(scene, self.read[scene]) - self.pixels(scene, points)
        distance = np.nan_to_num(np.linalg.norm(offset, axis=-1), nan=PIXEL_CUT_OFF)
        return np.where(self.found[scene], np.minimum(distance, PIXEL_CUT_OFF), PIXEL_CUT_OFF) * self.shown[scene]


def _reprojected(sights: _Sights, counted: np.ndarray) -> dict[str, np.ndarray]:
    """Return how far bodies are from where the true camera sees them (px), summed over views that count, and these."""
    away = [sights.away(scene, points) for scene, points in enumerate(sights.true)]
    off = (np.stack(away) * counted[..., None]).sum(axis=(1, 2))
    return {"off": off, "views": (sights.shown & counted[..., None]).sum(axis=(1, 2)).astype(np.float64)}


def _triangulated(sights: _Sights, at_rest: bool) -> dict[str, np.ndarray]:
    """Return how far bodies are from the places where all views together have them (px), summed, and the views.

    Bodies that are not ``at_rest`` have no such place: no views then.
    """
    if not at_rest:
        return dict.fromkeys(("residual", "rays"), np.zeros(len(sights.shown)))
    residual = []
    for scene, cameras in enumerate(sights.cameras):
        places = np.full(sights.read.shape[2:], np.nan)
        origins = np.stack([camera.position for camera in cameras])
        for slot in np.flatnonzero(sights.shown[scene].any(axis=0)):
            used = sights.shown[scene, :, slot] & sights.found[scene, :, slot]
            if used.sum() > 1:
                places[slot] = meeting_point(origins[used], sights.read[scene, used, slot])
        residual.append(sights.away(scene, np.broadcast_to(places, sights.read.shape[1:])).sum())
    return {"residual": np.array(residual), "rays": sights.shown.sum(axis=(1, 2)).astype(np.float64)}


def meeting_point(
    origins: Float64[np.ndarray, "n xyz=3"], sights: Float64[np.ndarray, "n xyz=3"]
) -> Float64[np.ndarray, "xyz=3"]:
    """Return the point nearest to the lines from ``origins`` through ``sights``: linear least squares on distances."""
    ways = sights - origins
    ways = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    across = np.eye(3) - ways[:, :, None] * ways[:, None, :]
    return np.linalg.lstsq(across.reshape(-1, 3), np.einsum("vij,vj->vi", across, origins).ravel(), rcond=None)[0]


def _closure(scenes: Sequence[Scene], frames: np.ndarray, reader: Reader, read: Places) -> dict[str, np.ndarray]:
    """Return the columns about how far bodies of the last frame are from where they were seen before the actions."""
    nothing = np.zeros(len(scenes))
    if len(scenes[0]) == 1:
        return {"loop": nothing, "stare": nothing, "loop_bodies": nothing}
    tales, stares = zip(*scenes, strict=True)
    first = np.stack([tale.context_states[-1] for tale in tales])
    seen = body_slots(first, "visible") >= VISIBLE
    start = reader(np.stack([tale.context_frames[-1] for tale in tales]), first)
    stare = reader(frames[:, 1, -1], np.stack([tale.states[-1] for tale in stares]))
    loop = Places(found=read.found[:, -1], xy=read.xy[:, -1])
    costs = []
    for end in (loop, stare):
        away = np.linalg.norm(np.where((start.found & end.found)[..., None], end.xy - start.xy, CUT_OFF_M), axis=-1)
        costs.append((np.minimum(away, CUT_OFF_M) * seen).sum(axis=1))
    return {"loop": costs[0], "stare": costs[1], "loop_bodies": seen.sum(axis=1).astype(np.float64)}
