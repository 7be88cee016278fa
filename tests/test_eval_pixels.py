"""Errors on moving pixels, trivial predictions, sharpness, and reading bodies by colour."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.eval.colours import COLOURS, MIN_PIXELS, PALETTE, read_colours
from worldsim.eval.pixels import copy_last, derangement, mean_frame, pixel_errors
from worldsim.metrics import laplacian_energy, moving_pixels


def _world(steps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return last frame and truth of one scene: a white pixel walks right over black ground."""
    frames = np.zeros((steps + 1, 8, 8, 3), dtype=np.uint8)
    for t in range(steps + 1):
        frames[t, 3, t] = 255
    return frames[:1], frames[None, 1:]


def test_only_what_moves_counts() -> None:
    """A wrong colour where nothing moves costs nothing; on a moving pixel it costs its squared difference."""
    last, truth = _world()
    mask = moving_pixels(truth, last)
    still = truth.copy()
    still[:, :, 7, 7] = 200
    assert pixel_errors(still, truth, mask).total.sum() == 0
    wrong = truth.copy()
    wrong[0, 2, 3, 3] = 0  # the walker is missing in frame 3
    errors = pixel_errors(wrong, truth, mask)
    assert errors.total[0].tolist() == pytest.approx([0, 0, 4.0, 0])
    assert errors.count[0].tolist() == [2, 3, 3, 3]  # where it started, where it was just now, where it is


def test_copying_the_last_frame_is_wrong_where_something_came_or_went() -> None:
    """Copy-last loses 4 per pixel that the walker has left or reached, and nothing where it only passed through."""
    last, truth = _world()
    errors = pixel_errors(copy_last(last, 4), truth, moving_pixels(truth, last))
    assert errors.total[0].tolist() == pytest.approx([8.0, 8.0, 8.0, 8.0])
    assert errors.curve()[0] == pytest.approx(4.0)
    assert errors.curve()[3] == pytest.approx(8 / 3)


def test_a_still_scene_has_no_error_curve_and_no_warning() -> None:
    """Where nothing moves the curve is NaN and the scene's error 0: visible as absent, never a division by zero."""
    last = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    truth = np.zeros((1, 3, 8, 8, 3), dtype=np.uint8)
    errors = pixel_errors(truth, truth, moving_pixels(truth, last))
    assert np.isnan(errors.curve()).all()
    assert errors.by_scene().tolist() == [0.0]


@pytest.mark.parametrize("count", [2, 3, 17])
def test_nobody_keeps_their_own_actions(count: int) -> None:
    """A derangement is a permutation without a fixed point."""
    order = derangement(count, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(count))
    assert (order != np.arange(count)).all()


def test_blur_lowers_and_noise_raises_sharpness() -> None:
    """Laplacian energy orders blurred < plain < noisy, and a flat frame has none."""
    rng = np.random.default_rng(0)
    plain = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    blurred = ((plain.astype(int) + np.roll(plain, 1, 0) + np.roll(plain, 1, 1) + np.roll(plain, 2, 0)) // 4).astype(
        np.uint8
    )
    noisy = np.clip(plain + rng.normal(0, 20, plain.shape), 0, 255).astype(np.uint8)
    soft, exact, rough, flat = laplacian_energy(np.stack([blurred, plain, noisy, np.full_like(plain, 90)]))
    assert flat == 0 < soft < exact < rough


def test_the_mean_frame_is_the_mean() -> None:
    """Averaging goes over all leading axes and rounds."""
    frames = np.stack([np.full((2, 4, 4, 3), 10), np.full((2, 4, 4, 3), 21)]).astype(np.uint8)
    assert (mean_frame(frames) == 16).all()


def _painted(colour: str, rows: slice, columns: slice, shade: float = 1.0) -> np.ndarray:
    frame = np.full((64, 64, 3), 140, dtype=np.uint8)
    frame[rows, columns] = np.round(np.array(PALETTE[colour]) * 255 * shade).astype(np.uint8)
    return frame


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shade", [1.0, 0.55])
def test_a_painted_body_is_read_with_its_colour_and_place(colour: str, shade: float) -> None:
    """A patch of a palette colour, lit or shaded, is found as that colour only, at its centre."""
    reading = read_colours(_painted(colour, slice(20, 26), slice(40, 48), shade))
    assert [c for c, found in zip(COLOURS, reading.found, strict=True) if found] == [colour]
    assert reading.centroid[COLOURS.index(colour)] == pytest.approx([43.5, 22.5], abs=0.3)


def test_grey_and_specks_are_not_read() -> None:
    """A grey frame has no body, and a patch below the smallest readable size counts as missing, not as a guess."""
    assert not read_colours(np.full((2, 64, 64, 3), 90, dtype=np.uint8)).found.any()
    speck = read_colours(_painted("red", slice(20, 21), slice(20, 22)))
    assert not speck.found.any()
    assert (speck.pixels < MIN_PIXELS).all()
    assert np.isnan(speck.centroid).all()


def test_the_largest_patch_of_a_colour_is_its_body() -> None:
    """A second, smaller patch of the same colour does not pull the place away."""
    frame = _painted("blue", slice(10, 18), slice(10, 18))
    frame[50:54, 50:54] = frame[12, 12]
    assert read_colours(frame).centroid[COLOURS.index("blue")] == pytest.approx([13.5, 13.5], abs=0.3)
