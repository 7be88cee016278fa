"""The U-Nets of the presets are matched, and counted by the command that says so."""

from __future__ import annotations

import pytest
import torch

from worldsim import checkpoint as checkpoints
from worldsim.attention import attend
from worldsim.cli import main
from worldsim.config import preset
from worldsim.eval.sizes import WORLD, Size, counting, size


def counted(name: str) -> Size:
    """Count a preset for the Arena."""
    return size(preset(name), checkpoints.load(WORLD).world)


@pytest.mark.parametrize("base", ["nano", pytest.param("small", marks=pytest.mark.slow)])
def test_u_nets_are_as_large_or_as_costly_as_the_transformer(base: str):
    """Parameters agree within 2 %, operations of training within 5 %; `nano` stays within 1 M, `small` within 10."""
    wanted = counted(base)
    assert wanted.parameters <= {"nano": 1_050_000, "small": 10_000_000}[base]
    for kind in ("unet", "unet-stacked"):
        assert counted(f"{base}-{kind}").parameters == pytest.approx(wanted.parameters, rel=0.02)
        assert counted(f"{base}-{kind}-flops").training_mflop == pytest.approx(wanted.training_mflop, rel=0.05)


@pytest.mark.parametrize(("rung", "most"), [("pico", 105_000), ("micro", 300_000)])
def test_rungs_of_the_ladder_have_their_u_nets(rung: str, most: int):
    """Smaller transformers stand beside U-Nets of as many parameters, within 2 %."""
    wanted = counted(rung).parameters
    assert most / 1.1 < wanted <= most and counted(f"{rung}-unet").parameters == pytest.approx(wanted, rel=0.02)


def test_operations_are_those_of_the_network():
    """A dreamt frame of the transformer takes two runs; training takes two streams there and back: about three times that."""
    dit = counted("nano")
    assert 2.5 * dit.dream_mflop < dit.training_mflop < 3.5 * dit.dream_mflop
    assert dit.architecture == "dit"


def test_attention_costs_the_same_whatever_computes_it():
    """Plain products (bfloat16) and the fused kernel (float32) count alike, there and back: 2 and 4 products."""
    shape, keys = (2, 3, 8, 16), 24
    for dtype in (torch.bfloat16, torch.float32):
        q, k, v = (
            torch.randn(*shape[:2], length, shape[3], dtype=dtype, requires_grad=True) for length in (8, keys, keys)
        )
        with counting() as counter:
            out = attend(q, k, v, torch.zeros(2, 1, 8, keys, dtype=dtype))
        assert counter.get_total_flops() == 2 * 2 * 2 * 3 * 8 * keys * 16
        with counting() as counter:
            out.sum().backward()
        assert counter.get_total_flops() == 2 * 4 * 2 * 3 * 8 * keys * 16


def test_presets_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]):
    """One line a preset, with its numbers; a misspelt name is answered with the close one."""
    assert main(["presets", "nano,nano-unet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["architecture", "nano", "nano-unet"]
    assert int(lines[1].split()[2]) == counted("nano").parameters
    assert main(["presets", "nanno"]) == 2
    assert "did you mean 'nano'" in capsys.readouterr().err
