"""Whatever can be asked: the trivial answers, known ones, a stranger's model, and every way to answer wrongly."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import worldsim
from worldsim.errors import UsageError
from worldsim.eval.predictors import Constant, CopyLast, Known, OthersActions, Predictor, Question, ask, load_predictor

STRANGER = """
import numpy as np

class Repeats:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        return np.tile(context_frames[:, None, None, -1], (1, num_samples, actions.shape[1], 1, 1, 1))

class Floats(Repeats):
    def predict(self, *args):
        return super().predict(*args) / 255.0

class Short(Repeats):
    def predict(self, *args):
        return super().predict(*args)[:, :, 1:]

class Breaks:
    def predict(self, *args):
        raise RuntimeError("out of dreams")

class Lost(Repeats):
    def __init__(self):
        raise FileNotFoundError("weights.bin")

class Listless(Repeats):
    def predict(self, *args):
        return super().predict(*args).tolist()

class Needy(Repeats):
    def __init__(self, weights):
        self.weights = weights

class Mute:
    pass
"""


@pytest.fixture
def question() -> Question:
    """Return five contexts of three frames and four actions that follow."""
    rng = np.random.default_rng(0)
    return Question(
        frames=rng.integers(0, 256, (5, 3, 16, 16, 3), dtype=np.uint8),
        context_actions=rng.uniform(-1, 1, (5, 2, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, (5, 4, 2)).astype(np.float32),
    )


class Echo:
    """Paints the sum of its actions so far, so that what it was told can be seen."""

    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        """Return grey frames."""
        shade = (100 + 50 * actions[..., 0].cumsum(1)).clip(0, 255).astype(np.uint8)
        frames = np.broadcast_to(shade[:, None, :, None, None, None], (*shade.shape[:1], num_samples, 4, 16, 16, 3))
        return frames.copy()


def test_trivial_answers(question: Question):
    """Copies and constants are what they say, for every sample and step."""
    copies = ask(CopyLast(), question, seeds=range(5), num_samples=2, batch=2)
    assert copies.shape == (5, 2, 4, 16, 16, 3)
    assert (copies == question.frames[:, None, None, -1]).all()
    grey = np.full((16, 16, 3), 77, np.uint8)
    assert (ask(Constant(grey), question, seeds=range(5)) == 77).all()
    assert isinstance(CopyLast(), Predictor) and isinstance(worldsim.load("arena-small"), Predictor)


def test_others_actions_are_never_ones_own(question: Question):
    """Every context is told the actions of another one, each of them once."""
    own = ask(Echo(), question, seeds=range(5))[:, 0, :, 0, 0, 0]
    others = ask(OthersActions(Echo()), question, seeds=range(5))[:, 0, :, 0, 0, 0]
    assert (own != others).any(axis=1).all()
    assert sorted(map(tuple, own.tolist())) == sorted(map(tuple, others.tolist()))


def test_known_answers_are_found_by_what_is_asked(question: Question):
    """The order and the batch do not matter; another question is refused."""
    truth = np.random.default_rng(1).integers(0, 256, (5, 4, 16, 16, 3), dtype=np.uint8)
    known = Known(question, truth)
    turned = question.rows(slice(None, None, -1))
    assert (ask(known, turned, seeds=range(5), num_samples=2, batch=3) == truth[::-1, None]).all()
    other = Question(
        frames=question.frames, context_actions=question.context_actions, actions=question.actions + np.float32(0.1)
    )
    with pytest.raises(UsageError, match="context"):
        ask(known, other, seeds=range(5))


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module of somebody else's."""
    (tmp_path / "stranger_models.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("stranger_models", None)
    return "stranger_models"


def test_a_strangers_model_can_be_asked(stranger: str, question: Question):
    """Ten lines suffice: a class with `predict`, made without arguments."""
    assert (
        ask(load_predictor(f"{stranger}:Repeats"), question, seeds=range(5))[:, 0, 0] == question.frames[:, -1]
    ).all()


@pytest.mark.parametrize(
    ("kind", "named"),
    [("Floats", "float64"), ("Short", r"\(5, 1, 3"), ("Breaks", "RuntimeError: out of dreams"), ("Listless", "list")],
)
def test_wrong_answers_are_named(stranger: str, question: Question, kind: str, named: str):
    """Wrong type, too few frames, no array, an exception: the error names the predictor and what it did."""
    with pytest.raises(UsageError, match=f"{kind}.*{named}"):
        ask(load_predictor(f"{stranger}:{kind}"), question, seeds=range(5))


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("stranger_models:Nobody", "Nobody"),
        ("no_such_module:Model", "no_such_module"),
        ("stranger_models:Needy", "weights"),
        ("stranger_models:Mute", "predict"),
        ("stranger_models:Lost", r"Lost.*FileNotFoundError: weights\.bin"),
        ("hf:nobody", "hf:nobody.*OWNER/NAME"),
        ("no-such-checkpoint", "no-such-checkpoint"),
    ],
)
def test_wrong_names_are_explained(stranger: str, name: str, named: str):
    """No module, no class, a class that needs arguments or has no predict, no checkpoint: each error says so."""
    del stranger
    with pytest.raises(UsageError, match=named):
        load_predictor(name)
