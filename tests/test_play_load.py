"""Eight players at once for a minute: fair shares, and memory that stays where it is. Run by ``make test-slow``."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Origin

from worldsim.play.wire import unpack

ROOT = Path(__file__).resolve().parent.parent
PLAYERS, WARM_S, SECONDS = 8, 75, 60
"""Until they are warm, every player still gathers the steps that can be taken back."""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")]


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """Serve the embedded checkpoint to eight players; host with port, and the process."""
    command = [sys.executable, "-m", "worldsim", "play", "--port", "0", "--no-browser", "--sessions", str(PLAYERS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://([^/\s]+)", process.stderr.readline())
    assert found
    yield found[1], process.pid
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def resident_mb(pid: int) -> float:
    """Return the memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


async def play(host: str, until: float) -> list[float]:
    """Push and orbit until a time, and return when frames came."""
    came, way, turned = [], 1.0, 0.0
    async with connect(f"ws://{host}/play", origin=Origin(f"http://{host}"), max_size=None) as socket:
        while (now := time.monotonic()) < until:
            if now - turned > 1:
                way, turned = -way, now
                await socket.send(json.dumps({"type": "hold", "levels": [way, 0, way / 2, 0, 0], "id": int(now)}))
            message = await socket.recv()
            if isinstance(message, bytes) and unpack(message)[0]["kind"] == "frame":
                came.append(time.monotonic())
    return came


@pytest.mark.timeout(240)
def test_eight_players_for_a_minute(server: tuple[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    """Everybody gets as many frames as everybody else, to within a fifth, and a minute adds next to nothing to memory."""
    host, pid = server

    async def all_of_them() -> tuple[list[list[float]], float, float]:
        begun = time.monotonic()
        players = [asyncio.create_task(play(host, begun + WARM_S + SECONDS)) for _ in range(PLAYERS)]
        await asyncio.sleep(WARM_S)
        before = resident_mb(pid)
        came = await asyncio.gather(*players)
        return [[at for at in times if at > begun + WARM_S] for times in came], before, resident_mb(pid)

    came, before, after = asyncio.run(all_of_them())
    rates = [len(times) / SECONDS for times in came]
    longest = max(b - a for times in came for a, b in itertools.pairwise(times))
    with capsys.disabled():
        print(f"\n8 players: {min(rates):.1f} .. {max(rates):.1f} frames/s each, longest pause {longest:.2f} s, "
              f"{before:.0f} MB, after {SECONDS} s {after:.0f} MB")  # fmt: skip
    assert min(rates) > 0.8 * max(rates) and min(rates) > 0.5
    assert after < 1.1 * before + 20 and after < 2000
