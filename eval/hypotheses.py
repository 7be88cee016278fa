"""What `worldsim compare` asks, written down before anything is trained: claims, measures, margins, words of outcome.

The claims are those of the article that says transformers make better world simulators than convolutional U-Nets. Every
test is two-sided: a claim may come out reversed. Knows no files and no models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from worldsim.eval.rows import LIMITED, ORACLE
from worldsim.eval.statistics import Estimate

EQUIVALENT = 0.05
"""Differences in skill within this of nothing make no difference to anyone."""
LEVEL = 0.05
LEAST_TRAININGS = 3
"""Trainings an arm from which on intervals are taken over trainings, and words other than `OPEN` are said."""
LOST = "skill_lost_at_other_sizes"
"""Name of the number that `worldsim.eval.other_sizes` finds."""
SUPPORTED, REVERSED, SAME, OPEN = "supported", "reversed", "equivalent", "inconclusive"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One claim, and the number that decides it."""

    code: str
    claim: str
    families: tuple[str, ...] = ()
    """Families of probes that ask; none where it is answered by one number a model (`Probed.numbers`)."""
    measure: str | None = None
    """A measure of the families, None for their skill; without families the number's name."""
    ceiling: str = ORACLE
    """Row whose skill is 1."""
    sign: int = 1
    """-1 where less is better."""
    unit: str = "skill"
    margin: float = EQUIVALENT
    """Differences smaller than this count as none."""
    primary: bool = True
    """Whether it counts among those that are corrected for their number."""


HYPOTHESES = (
    Hypothesis(
        code="H1", claim="objects persist while they are hidden", ceiling=LIMITED,
        families=("P1b", "P1c", "P1d", "P1e", "P1f"),
    ),
    Hypothesis(code="H2", claim="the world stays consistent in 3D", families=("P2a", "P2b", "P2e")),
    Hypothesis(
        code="H3", claim="causes have their effects", ceiling=LIMITED,
        families=("P3-I1", "P3-I2", "P3-I3", "P3-I4", "P3-I5", "P3-I6"),
    ),
    Hypothesis(
        code="H4", claim="combinations never seen are predicted as well as those seen", families=("P4-C1", "P4-C2"),
        measure="gap", sign=-1, unit="cm", margin=0.5,
    ),
    Hypothesis(
        code="H5", claim="dreams stay whole for longer", families=("P5b",), measure="whole for", unit="frames", margin=5.0,
    ),
    Hypothesis(
        code="H7", claim="other resolutions and aspect ratios cost less skill", measure=LOST, sign=-1,
    ),
    Hypothesis(
        code="H9", claim="still pixels do not flicker", families=("P5a",), measure="flicker", sign=-1, unit="grey levels",
        margin=0.1, primary=False,
    ),
    Hypothesis(
        code="H8", claim="U-Nets learn more in equal steps", measure="error_8", unit="squared error after 8 frames",
        margin=0.005, primary=False,
    ),
)  # fmt: skip

FASTER = Hypothesis(code="H6", claim="error falls faster with compute", unit="exponent", margin=0.05, primary=False)
"""Asked of a ladder of trainings (`worldsim.eval.comparison_ladder`), one each, against the U-Net of as many parameters alone."""

NOT_TESTED: Mapping[str, str] = {
    "text": "the model is steered by text: worldsim has actions, no text",
    "tokenizer": "a learned tokenizer helps: all arms work on pixels",
    "state-space, mixture-of-experts": "other trunks: no such arm",
}
"""What the article also claims and this comparison says nothing about."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """Transformer less U-Net under one way of matching them, and how likely so much is by chance."""

    difference: Estimate
    p: float
    trainings: int
    """Fewest training seeds of an arm."""
    method: str


def outcome(hypothesis: Hypothesis, contrasts: Sequence[Contrast], p: float) -> str:
    """Return the fixed word for a claim from its contrasts under all ways of matching, and ``p`` corrected for their number.

    Supported or reversed only if all intervals lie on one side of nothing and ``p`` is below `LEVEL`; equivalent if all
    lie within the margin. With fewer trainings an arm than `LEAST_TRAININGS` nothing is known of how trainings differ, and
    all is inconclusive, whatever the intervals over scenes say.
    """
    if min(one.trainings for one in contrasts) < LEAST_TRAININGS:
        return OPEN
    ends = [sorted((hypothesis.sign * one.difference.low, hypothesis.sign * one.difference.high)) for one in contrasts]
    if all(-hypothesis.margin < low and high < hypothesis.margin for low, high in ends):
        return SAME
    if p < LEVEL and all(low > 0 for low, _ in ends):
        return SUPPORTED
    if p < LEVEL and all(high < 0 for _, high in ends):
        return REVERSED
    return OPEN


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Return p values corrected for their number (Holm 1979): the k-th smallest of n times n - k + 1, and never falling."""
    corrected, least = {}, 0.0
    for rank, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(ps) - rank)))
        corrected[name] = least
    return corrected
