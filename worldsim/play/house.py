"""What all players of a server share: models, limits, the door, and one thread for all worlds. Knows no protocol.

One thread steps all worlds: renderers belong to the thread that opened them, and two dreams at once on few cores are
slower than one after the other. Every player has at most one job in its queue, so players take turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from worldsim.play.access import Access
from worldsim.play.limits import Limits
from worldsim.play.session import Session
from worldsim.play.shelf import Shelf


class House:
    """The shared part of a server. ``players`` counts seats taken, ``worlds`` sessions whose worlds are open."""

    def __init__(self, shelf: Shelf, limits: Limits, access: Access) -> None:
        self.shelf, self.limits, self.access = shelf, limits, access
        self.players = 0
        self.worlds = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worlds")

    def take_seat(self) -> bool:
        """Take a seat if one is free, and return whether it was."""
        if self.players >= self.limits.sessions:
            return False
        self.players += 1
        return True

    def leave_seat(self) -> None:
        """Free a seat."""
        self.players -= 1

    async def work(self, job: Callable[..., Any], *arguments: Any) -> Any:
        """Run a job in the thread of the worlds, after those that wait already, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *arguments)

    async def open(self) -> Session:
        """Make a session with its worlds. Who is cancelled meanwhile leaves no world behind."""
        made: list[Session] = []

        def job() -> None:
            made.append(Session(self.shelf, self.limits))
            self.worlds += 1

        try:
            await self.work(job)
        except asyncio.CancelledError:
            self._thread.submit(self._close_all, made)  # after the job, should that be under way
            raise
        return made[0]

    async def free(self, session: Session) -> None:
        """Free worlds in their thread, also if the caller is cancelled meanwhile."""
        await asyncio.wrap_future(self._thread.submit(self._close_all, [session]))

    def _close_all(self, sessions: list[Session]) -> None:
        for session in sessions:
            session.close()
            self.worlds -= 1

    def close(self) -> None:
        """Let the thread end its work and stop."""
        self._thread.shutdown(wait=True)
