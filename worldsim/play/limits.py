"""How much one player may ask for: sizes, rates, sessions. Knows no world and no network."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server grants. One player cannot take more than this, whatever is sent."""

    sessions: int = 4
    """Players at a time; the next one is told so."""
    message_bytes: int = 16_384
    """Size of a message from the page; a longer one ends the connection."""
    messages_per_s: float = 60.0
    """Messages taken from one page in the long run; more are refused."""
    burst: int = 120
    """Messages taken at once after a quiet time."""
    strikes: int = 300
    """So many messages more refused than taken, for their rate or for what they say, end the connection."""
    waiting: int = 8
    """Commands of one player that wait for their turn; more are refused. Of held keys only the latest counts."""
    send_timeout_s: float = 10.0
    """A page that takes nothing for so long is given up."""
    history_steps: int = 128
    """Steps that can be taken back."""
    keyframe_steps: int = 16
    """Every so many steps both worlds are kept whole; what lies between is played again."""
    forks: int = 6
    """Moments that a player can keep."""
    recorded_steps: int = 600
    """Steps of one recording; then it stops by itself."""
    link_steps: int = 600
    """Steps that a permalink reproduces, from the beginning of the scene."""


class TokenBucket:
    """Takes ``rate`` messages a second in the long run and ``burst`` at once; ``clock`` gives seconds."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._left, self._then = float(burst), clock()

    def take(self) -> bool:
        """Return whether one more message is within the rate, and count it if so."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
