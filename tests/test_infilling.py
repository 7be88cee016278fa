"""Filling clips in: who sees what, what is left alone, and that it can be learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldsim.config import ModelConfig
from worldsim.detail import FLOW_PIXELS
from worldsim.eval import infilling_report
from worldsim.eval.infilling import ClipDenoiser, Shown, fill, fill_loss

TINY = ModelConfig(width=32, depth=2, heads=1, patch=8, cond_width=16, window=8)
SHOWN = Shown(start=2, between=2, end=2)
FRAMES = torch.rand(2, 6, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
ACTIONS = torch.rand(2, 5, 1, generator=torch.Generator().manual_seed(1)) * 2 - 1


def network(*, both_ways: bool) -> ClipDenoiser:
    torch.manual_seed(0)
    return ClipDenoiser(1, both_ways=both_ways, config=TINY)


@pytest.mark.parametrize("both_ways", [True, False])
def test_only_attention_both_ways_sees_the_end(both_ways: bool):
    """Another end changes what is filled in before it, or nothing at all; another start always does."""
    model, shown = network(both_ways=both_ways), SHOWN.mask(torch.tensor([True, True]))
    other_end, other_start = FRAMES.clone(), FRAMES.clone()
    other_end[:, 4:] *= -1
    other_start[:, :2] *= -1
    filled, with_end, with_start = (
        fill(model, one, ACTIONS, shown, seed=3)[:, SHOWN.hidden] for one in (FRAMES, other_end, other_start)
    )
    assert torch.equal(filled, with_end) != both_ways
    assert not torch.allclose(filled, with_start)
    last_action = ACTIONS.clone()
    last_action[:, 4] += 1
    assert torch.equal(filled, fill(model, FRAMES, last_action, shown, seed=3)[:, SHOWN.hidden]) != both_ways


def test_hidden_frames_are_not_looked_at_and_shown_ones_are_kept():
    """What is filled in hangs on the shown frames alone, which come back as they are."""
    model, shown = network(both_ways=True), SHOWN.mask(torch.tensor([True, False]))
    assert shown.tolist() == [[True, True, False, False, True, True], [True, True, False, False, False, False]]
    other = torch.where(shown[..., None, None, None], FRAMES, -FRAMES)
    one, two = (fill(model, frames, ACTIONS, shown, seed=3) for frames in (FRAMES, other))
    assert torch.equal(one, two) and torch.equal(one[shown], FRAMES[shown])
    assert not torch.equal(one, fill(model, FRAMES, ACTIONS, shown, seed=4))


def test_frames_beside_the_gap_are_moved_and_blended():
    """What is put out for a pixel fetches it from the start or the end, or paints it; an end that is not seen has no share."""
    shown, height = SHOWN.mask(torch.tensor([True, False])), 16
    for both_ways in (True, False):
        model = network(both_ways=both_ways)
        pixels = torch.zeros(2, 6, height, height, 10)
        pixels[..., 5] = 20.0  # the end's share
        pixels[..., 0] = 3 / FLOW_PIXELS  # three rows down in the last frame of the start
        frames = model.blend(FRAMES, shown, pixels)
        end_first, start_first = frames[0, 2], frames[1, 2]
        moved = FRAMES[:, 1].roll(-3, dims=1)
        expected = FRAMES[0, 4] if both_ways else moved[0] / 2  # and half of a new value, which is 0
        torch.testing.assert_close(end_first[2:10, 2:-2], expected[2:10, 2:-2], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(start_first[2:10, 2:-2], moved[1, 2:10, 2:-2] / 2, atol=1e-3, rtol=1e-3)
        pixels[..., 6], pixels[..., 7:] = 99.0, 0.25
        torch.testing.assert_close(model.blend(FRAMES, shown, pixels), torch.full_like(FRAMES, 0.25))


def test_the_loss_falls():
    """A clip is learnt by heart."""
    model = network(both_ways=True)
    optimizer, shown = torch.optim.AdamW(model.parameters(), lr=3e-3), SHOWN.mask(torch.tensor([True, True]))
    losses = []
    for step in range(60):
        loss = fill_loss(model, FRAMES, ACTIONS, shown, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_a_report_is_made_and_gone_on_with(stripe_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two networks are trained, scored beside what knows nothing, and not trained again."""
    monkeypatch.setattr(infilling_report, "CHECKED", 4)
    results = infilling_report.infilling(str(stripe_recording), str(tmp_path), steps=2, seeds=1, workers=1)
    assert set(results["trainings"]) == {"both ways 0", "past only 0"}
    rows = results["trainings"]["past only 0"]["errors"]
    assert set(rows) == {"last frame", "cross-fade", "end shown", "end hidden"}
    assert len(rows["last frame"]) == 6 and min(rows["last frame"]) > 0
    text = (tmp_path / "README.md").read_text()
    assert "| attention both ways, end shown |" in text and "| cross-fade |" in text
    assert (tmp_path / "strip_both_ways.png").is_file()
    kept = (tmp_path / "trainings" / "past-only-0.json").stat().st_mtime_ns
    assert infilling_report.infilling(str(stripe_recording), str(tmp_path), steps=2, seeds=1)["differences"]
    assert (tmp_path / "trainings" / "past-only-0.json").stat().st_mtime_ns == kept
    with pytest.raises(SystemExit, match="another number of steps"):
        infilling_report.infilling(str(stripe_recording), str(tmp_path), steps=3, seeds=1)
