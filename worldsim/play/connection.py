"""One player's connection: messages in, answers and pictures out, and the clock. Knows what is said, not what it means.

Three tasks: one listens, one plays, one shows. They share slots that hold the latest only: the held controls on the way
in, the picture on the way out. So neither a page that sends too much nor one that takes too little makes anything grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from worldsim.errors import UsageError
from worldsim.play.desk import Answer, Recorded, frame_message, futures_message, hello, perform
from worldsim.play.house import House
from worldsim.play.limits import TokenBucket
from worldsim.play.protocol import Hold, Message, Speed, Step, parse
from worldsim.play.recording import encoded
from worldsim.play.session import Session
from worldsim.play.wire import pack_file

TOO_MUCH, TOO_LARGE, BROKEN, TRY_LATER = 1008, 1009, 1011, 1013
"""WebSocket close codes (RFC 6455 and its registry)."""
_logger = logging.getLogger("worldsim.play")


class Connection:
    """Plays one session over an accepted socket until it is closed from either side."""

    def __init__(self, socket: WebSocket, house: House) -> None:
        self.socket, self.house, self.limits = socket, house, house.limits
        self.dropped = 0
        """Pictures that a later one replaced before they were sent."""
        self._bucket = TokenBucket(self.limits.messages_per_s, self.limits.burst)
        self._inbox: asyncio.Queue[Message] = asyncio.Queue(self.limits.waiting)
        self._held = Hold(levels=())
        self._rate = 10
        self._pictures: dict[str, bytes] = {}
        self._fresh = asyncio.Event()
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Listen, play and show until one of the three ends; then free the worlds."""
        tasks = [asyncio.create_task(job()) for job in (self._listen, self._play, self._show)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            end = None if task.cancelled() else task.exception()
            if end is not None and not isinstance(end, WebSocketDisconnect | OSError | TimeoutError):
                _logger.error("a connection broke", exc_info=end)

    async def _listen(self) -> None:
        strikes, told = 0, -1.0
        while strikes < self.limits.strikes:
            event = await self.socket.receive()
            if event["type"] == "websocket.disconnect":
                return None
            text = event.get("text")
            if len(event.get("bytes") or b"") + len((text or "").encode(errors="replace")) > self.limits.message_bytes:
                return await self._end(TOO_LARGE, "a message is too long")
            if not self._bucket.take():
                strikes += 1
                if time.monotonic() - told > 1:  # one word a second is enough
                    told = time.monotonic()
                    await self._refuse(
                        f"more than {self.limits.messages_per_s:g} messages a second; some were left out"
                    )
                continue
            refusal = self._take(text)
            strikes = max(0, strikes - 1) if refusal is None else strikes + 1
            if refusal is not None:
                await self._refuse(refusal)
        return await self._end(TOO_MUCH, "too many messages that had to be refused")

    def _take(self, text: str | None) -> str | None:
        """Put a message where it belongs, or return why it is refused."""
        if text is None:
            return "binary messages are not understood: send JSON text"
        try:
            message = parse(text)
        except UsageError as error:
            return str(error)
        if isinstance(message, Hold):
            self._held = message
            return None
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull:
            return f"{self.limits.waiting} commands are waiting already"
        return None

    async def _play(self) -> None:
        try:
            session = await self.house.open()
        except UsageError as error:  # nobody can play here: no place to begin, a broken checkpoint
            await self._refuse(str(error))
            return await self._end(BROKEN, "no session could be made")
        try:
            greeting = hello(session)
            self._rate = greeting["rate"]
            await self._tell(greeting)
            await self._look(session)
            await self._turns(session)
        except (WebSocketDisconnect, OSError, TimeoutError):
            raise
        except Exception:  # a mistake of ours: the player is told, the log has the rest
            _logger.exception("a session broke")
            await self._refuse("something broke in the server; its log says what")
            await self._end(BROKEN, "internal error")
        finally:
            await self.house.free(session)

    async def _turns(self, session: Session) -> None:
        """Take commands as they come, and a step whenever it is due."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            message = await self._next(None if session.paused else due - loop.time())
            try:
                if message is None or isinstance(message, Step):
                    due = max(due + 1 / self._rate, loop.time())
                    await self._step(session)
                elif isinstance(message, Speed):
                    self._rate = message.rate
                else:
                    await self._perform(session, message)
                    due = loop.time() + 1 / self._rate
            except UsageError as error:
                await self._refuse(str(error))

    async def _next(self, wait_s: float | None) -> Message | None:
        """Return the next command, or None when ``wait_s`` have passed (None: wait for ever)."""
        if not self._inbox.empty():
            return self._inbox.get_nowait()
        if wait_s is not None and wait_s <= 0:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                return await self._inbox.get()
        return None

    async def _step(self, session: Session) -> None:
        held = self._held

        def job() -> None:
            session.tick(held.levels or [0.0] * session.pair.spec.action_dim)

        try:
            await self._look(session, job, held.id)
        except UsageError:
            self._held = Hold(levels=())
            session.steer_by("off")
            raise

    async def _look(self, session: Session, job: Any = None, held_id: int = 0) -> None:
        """Do a job with the session and put what it then shows into the slots."""
        asked = time.perf_counter()

        def work() -> tuple[bytes, bytes | None]:
            begun = time.perf_counter()
            if job is not None:
                job()
            waited, took = 1000 * (begun - asked), 1000 * (time.perf_counter() - begun)
            clock = {
                "input": held_id,
                "waited_ms": round(waited, 1),
                "took_ms": round(took, 1),
                "dropped": self.dropped,
            }
            return frame_message(session, **clock), futures_message(session)

        frame, plans = await self.house.work(work)
        self._offer("frame", frame)
        if plans is not None:
            self._offer("plans", plans)

    async def _perform(self, session: Session, message: Message) -> None:
        answers = await self.house.work(perform, message, session)
        for answer in answers:
            if isinstance(answer, Recorded):
                content = await asyncio.to_thread(encoded, answer.take, float(self._rate), answer.format)
                answer = pack_file(f"worldsim.{answer.format}", content)
            elif isinstance(answer, Mapping) and answer["type"] in ("hello", "begun"):
                self._held = Hold(levels=())  # keys that were held in the last scene
                self._rate = answer.get("rate", self._rate)
            await self._tell(answer)
        await self._look(session)

    def _offer(self, kind: str, picture: bytes) -> None:
        self.dropped += kind in self._pictures
        self._pictures[kind] = picture
        self._fresh.set()

    async def _show(self) -> None:
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            for kind in ("frame", "plans"):
                picture = self._pictures.pop(kind, None)
                if picture is not None:
                    await self._tell(picture)

    async def _tell(self, answer: Answer) -> None:
        """Send one message; TimeoutError when the page takes nothing for too long."""
        async with self._sending, asyncio.timeout(self.limits.send_timeout_s):
            if isinstance(answer, bytes):
                await self.socket.send_bytes(answer)
            else:
                await self.socket.send_text(json.dumps(answer))

    async def _refuse(self, reason: str) -> None:
        await self._tell({"type": "refused", "reason": reason})

    async def _end(self, code: int, reason: str) -> None:
        async with self._sending, asyncio.timeout(self.limits.send_timeout_s):
            await self.socket.close(code, reason)
