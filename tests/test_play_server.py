"""The server of the page: who may come in, what is refused, how much one player may take, and what is left when one goes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocket, WebSocketDisconnect

from worldsim import checkpoint as checkpoints
from worldsim.envs.arena import arena_spec
from worldsim.errors import UsageError
from worldsim.play.access import Access
from worldsim.play.command import play
from worldsim.play.connection import Connection
from worldsim.play.house import House
from worldsim.play.limits import Limits, TokenBucket
from worldsim.play.protocol import MESSAGES, Guess, Hold, parse
from worldsim.play.server import build_app
from worldsim.play.session import Session
from worldsim.play.shelf import Shelf
from worldsim.play.tape import decode
from worldsim.play.wire import unpack
from worldsim.spec import WorldSpec
from worldsim.world_model import untrained

HERE = "127.0.0.1:8765"
OWN = {"host": HERE, "origin": f"http://{HERE}"}
TOKEN = "a secret of some length"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Return an untrained model of the Arena, by its folder."""
    made = gym.make("worldsim:worldsim/Arena-v0", disable_env_checker=True)
    model = untrained(arena_spec(made))
    made.close()
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    return Shelf([str(checkpoints.save(model.checkpoint, folder, card="untrained", dtype=torch.float32))])


@contextlib.contextmanager
def serving(shelf: Shelf, access: Access | None = None, **limits: Any) -> Iterator[tuple[House, TestClient]]:
    """Serve with given limits; at the end nobody may be left, and no world."""
    house = House(shelf, Limits(**limits), access or Access(host="127.0.0.1"))
    with TestClient(build_app(house), base_url=f"http://{HERE}") as client:
        yield house, client
        eventually(lambda: house.players == house.worlds == 0)
    assert house.worlds == 0


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)


def heard(socket: WebSocketTestSession, kind: str, fits: Callable[[dict[str, Any]], bool] = lambda _: True) -> Any:
    """Return the next message of a kind that fits: a dictionary, or header and pictures."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        event = socket.receive()
        if event["type"] == "websocket.close":
            raise WebSocketDisconnect(event["code"], event.get("reason"))
        if event.get("text") is not None:
            message = json.loads(event["text"])
            if message["type"] == kind and fits(message):
                return message
        else:
            header, panes = unpack(event["bytes"])
            if header["kind"] == kind and fits(header):
                return header, panes
    raise AssertionError(f"no {kind}")


def closed(socket: WebSocketTestSession) -> int:
    """Return the code that the server ends the connection with."""
    with pytest.raises(WebSocketDisconnect) as end:
        heard(socket, "none such")
    return end.value.code


def test_a_game(shelf: Shelf) -> None:
    """Held controls reach both worlds and are told back; pause, step, rewind, fork, link, record and question are answered."""
    with serving(shelf) as (_, client), client.websocket_connect("/play", headers=OWN) as socket:
        hello = heard(socket, "hello")
        assert hello["truth"] and hello["checkpoint"] == shelf.names[0] and len(hello["bindings"]) == 5
        socket.send_json({"type": "speed", "rate": 30})
        socket.send_json({"type": "reset", "seed": 3, "task": "reach", "factors": {"count": 1}})
        assert heard(socket, "begun")["seed"] == 3
        socket.send_json({"type": "hold", "levels": [1, 0, 0, 0, 0], "id": 7})
        _, panes = heard(socket, "frame", lambda header: header["input"] == 7)
        assert {name: clip.shape for name, clip in panes.items()} == dict.fromkeys(("truth", "dream"), (1, 64, 64, 3))
        socket.send_json({"type": "pause", "on": True})
        header, panes = heard(socket, "frame", lambda header: header["paused"])
        socket.send_json({"type": "fork"})
        assert heard(socket, "fork")[0]["step"] == header["step"]
        socket.send_json({"type": "step"})
        heard(socket, "frame", lambda later: later["step"] == header["step"] + 1)
        socket.send_json({"type": "return", "fork": 0})
        _, again = heard(socket, "frame", lambda later: later["step"] == header["step"])
        assert all(np.array_equal(panes[name], again[name]) for name in panes)
        socket.send_json({"type": "link"})
        _, strides = decode(heard(socket, "link")["link"], 600)
        assert len(strides) == header["step"] and strides[-1].levels == (127, 0, 0, 0, 0)
        socket.send_json({"type": "record", "on": True})
        socket.send_json({"type": "step"})
        socket.send_json({"type": "record", "on": False})
        event = heard(socket, "file")
        assert event[0]["name"] == "worldsim.webp"
        socket.send_json({"type": "rewind", "count": 1})
        assert heard(socket, "rewound")["count"] == 1
        socket.send_json({"type": "challenge", "on": True})
        heard(socket, "question")
        assert list(heard(socket, "frame", lambda header: header["hidden"])[1]) == ["dream"]
        socket.send_json({"type": "guess", "x": 0.5, "y": 0.5})
        assert heard(socket, "verdict")["score"]["rounds"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "[" * 9000, '"pause"', '{"type": 1}', '{"type": "dance"}', '{"type": "pause"}',
        '{"type": "pause", "on": 1}', '{"type": "pause", "on": true, "more": 1}', '{"type": "reset", "seed": -1}',
        '{"type": "reset", "seed": 1e3}', '{"type": "reset", "seed": true}', '{"type": "guess", "x": NaN, "y": 0}',
        '{"type": "guess", "x": 1e999, "y": 0}', '{"type": "hold", "levels": []}', '{"type": "hold", "levels": [2]}',
        '{"type": "reset", "seed": 0, "factors": {"count": {"a": 1}}}', '{"type": "reset", "seed": ' + "9" * 4000 + "}",
        '{"type": "view", "name": ["frame"]}', '{"type": "\\ud800"}', '{"type": "checkpoint", "name": "' + "x" * 2000 + '"}',
        '{"type": "reset", "seed": 0, "factors": {"bodies": [{"colour": "red"}]}}',
    ],
)  # fmt: skip
def test_malformed_messages_are_refused_in_words(text: str) -> None:
    """What is no message is refused by a UsageError of one paragraph that names what is allowed."""
    with pytest.raises(UsageError, match="allowed") as refusal:
        parse(text)
    assert len(str(refusal.value)) < 700 and "\n" not in str(refusal.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["on", "seed", "task", "factors", "levels", "id", "count", "fork", "name", "rate", "x", "y", "link"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=60)
    | JSON.map(json.dumps)
    | st.builds(lambda name, rest: json.dumps({**rest, "type": name}), st.sampled_from([*MESSAGES, "x"]),
                st.dictionaries(NAMES, JSON, max_size=3))
)  # fmt: skip
@example('{"type": "hold", "levels": [1, -1.0, 0], "id": 3}')
def test_any_text_is_a_message_or_refused(text: str) -> None:
    """Whatever text comes, it is a checked message or a UsageError, never another exception."""
    try:
        message = parse(text)
    except UsageError:
        return
    assert type(message) in MESSAGES.values()
    if isinstance(message, Hold):
        assert all(-1 <= level <= 1 for level in message.levels)
    if isinstance(message, Guess):
        assert 0 <= message.x <= 1 and 0 <= message.y <= 1


def test_a_session_survives_nonsense(shelf: Shelf) -> None:
    """Malformed and impossible requests get a refusal each, without a traceback, and the game goes on."""
    with serving(shelf) as (_, client), client.websocket_connect("/play", headers=OWN) as socket:
        wrong = [
            "{", "[1]", '{"type": "fork", "x": 1}', '{"type": "return", "fork": 5}', '{"type": "steps", "count": 3}',
            '{"type": "checkpoint", "name": "/etc"}', '{"type": "reset", "seed": 0, "factors": {"count": 77}}',
            '{"type": "reset", "seed": 0, "task": "fly"}', '{"type": "open", "link": "zzz"}', '{"type": "guess", "x": 0, "y": 1}',
            '{"type": "record", "on": false, "format": "webp"}', '{"type": "reset", "seed": 0, "factors": {"state": "x"}}',
        ]  # fmt: skip
        for text in wrong:
            socket.send_text(text)
            reason = heard(socket, "refused")["reason"]
            assert "Likely fix" in reason and "Traceback" not in reason
        socket.send_bytes(b"\x00\xff")
        assert "JSON" in heard(socket, "refused")["reason"]
        socket.send_json({"type": "hold", "levels": [1, 0], "id": 1})
        assert "one per action" in heard(socket, "refused")["reason"]
        step = heard(socket, "frame")[0]["step"]
        heard(socket, "frame", lambda header: header["step"] > step)


def test_a_mistake_of_ours_is_told_without_its_traceback(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server itself is wrong the player hears that, the connection ends with 1011, and the worlds are freed."""

    def break_down(self: Session) -> int:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Session, "fork", break_down)
    with serving(shelf) as (_, client), client.websocket_connect("/play", headers=OWN) as socket:
        socket.send_json({"type": "fork"})
        assert "secret" not in heard(socket, "refused")["reason"]
        assert closed(socket) == 1011


def test_a_world_that_cannot_begin_is_told(tmp_path: Path) -> None:
    """Without true world and lead-ins the player hears why, and the connection ends with nothing left behind."""
    spec = WorldSpec(
        env_id="PlayTest/NotInstalled-v0", frame_shape=(32, 32, 3), action_names=("up",), action_low=(-1.0,),
        action_high=(1.0,), frame_rate_hz=10.0, context_steps=0,
    )  # fmt: skip
    folder = checkpoints.save(untrained(spec).checkpoint, tmp_path / "alone", card="untrained", dtype=torch.float32)
    with serving(Shelf([str(folder)])) as (_, client), client.websocket_connect("/play", headers=OWN) as socket:
        assert "NotInstalled" in heard(socket, "refused")["reason"]
        assert closed(socket) == 1011


def test_seats_are_counted_and_freed(shelf: Shelf) -> None:
    """The player after the last seat is told so; who leaves, also in the middle of a step, frees seat and worlds."""
    with serving(shelf, sessions=1) as (house, client):
        with client.websocket_connect("/play", headers=OWN) as first:
            heard(first, "hello")
            with client.websocket_connect("/play", headers=OWN) as second:
                assert second.receive_json() == {"type": "full", "sessions": 1}
                assert closed(second) == 1013
            assert house.players == house.worlds == 1
            heard(first, "frame")
        eventually(lambda: house.players == house.worlds == 0)
        with client.websocket_connect("/play", headers=OWN) as third:  # leaves while its worlds are being made
            assert house.players == 1
            third.close()
        eventually(lambda: house.players == house.worlds == 0)
        with client.websocket_connect("/play", headers=OWN) as fourth:
            heard(fourth, "hello")


def test_one_runaway_does_not_starve_others(shelf: Shelf) -> None:
    """While one page floods the server, another gets its frames in time, and the flood is refused and ended."""
    with (
        serving(shelf, sessions=2, burst=20, messages_per_s=20.0, strikes=150) as (_, client),
        client.websocket_connect("/play", headers=OWN) as wild,
        client.websocket_connect("/play", headers=OWN) as calm,
    ):
        heard(wild, "hello")
        heard(calm, "hello")
        for count in range(400):
            wild.send_json({"type": "fork"} if count % 2 else {"type": "hold", "levels": [1, 0, 0, 0, 0]})
        start = heard(calm, "frame")[0]["step"]
        begun = time.monotonic()
        heard(calm, "frame", lambda header: header["step"] >= start + 10)
        assert time.monotonic() - begun < 10
        heard(wild, "refused", lambda message: "messages a second" in message["reason"])
        assert closed(wild) == 1008


def test_long_messages_end_the_connection(shelf: Shelf) -> None:
    """A message beyond the size that is granted ends the connection with 1009."""
    with serving(shelf, message_bytes=1000) as (_, client), client.websocket_connect("/play", headers=OWN) as socket:
        socket.send_text(json.dumps({"type": "open", "link": "x" * 1000}))
        assert closed(socket) == 1009


def test_pictures_are_replaced_and_not_queued(shelf: Shelf) -> None:
    """A picture that was not sent in time gives way to the next: at most one of a kind waits."""

    async def offer() -> Connection:
        async def nothing(*_: Any) -> Any: ...

        socket = WebSocket({"type": "websocket", "path": "/play", "headers": []}, nothing, nothing)
        connection = Connection(socket, House(shelf, Limits(), Access(host="localhost")))
        for count in range(5):
            connection._offer("frame", bytes([count]))
        connection._offer("plans", b"p")
        return connection

    connection = asyncio.run(offer())
    assert connection._pictures == {"frame": b"\x04", "plans": b"p"} and connection.dropped == 4


def test_a_page_that_takes_nothing_is_given_up(shelf: Shelf) -> None:
    """When a page stays connected but takes no message for too long, the session ends and its worlds are freed."""
    connected: list[bool] = []

    async def receive() -> dict[str, str]:
        if connected:
            await asyncio.Event().wait()
        connected.append(True)
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await asyncio.Event().wait()

    async def serve() -> House:
        house = House(shelf, Limits(send_timeout_s=0.2), Access(host="localhost"))
        socket = WebSocket({"type": "websocket", "path": "/play", "headers": []}, receive, send)
        await socket.accept()
        await asyncio.wait_for(Connection(socket, house).run(), 30)
        house.close()
        return house

    assert asyncio.run(serve()).worlds == 0


def test_the_rate_is_that_of_the_bucket() -> None:
    """As many messages as the burst pass at once, and then as many as the rate."""
    now = [0.0]
    bucket = TokenBucket(2.0, 3, clock=lambda: now[0])
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]
    now[0] = 1.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("bound", "host", "origin", "token", "welcome"),
    [
        ("127.0.0.1", HERE, f"http://{HERE}", "", True),
        ("127.0.0.1", "localhost:9", "http://localhost:9", "", True),
        ("127.0.0.1", "[::1]:9", "http://[::1]:9", "", True),
        ("127.0.0.1", HERE, "", "", False),
        ("127.0.0.1", HERE, "null", "", False),
        ("127.0.0.1", HERE, "http://evil.example", "", False),
        ("127.0.0.1", HERE, "http://127.0.0.1:1", "", False),  # another server on this machine
        ("127.0.0.1", HERE, f"file://{HERE}", "", False),
        ("127.0.0.1", "evil.example:8765", "http://evil.example:8765", "", False),  # a name rebound to this machine
        ("127.0.0.1", "192.168.0.7:8765", "http://192.168.0.7:8765", "", False),
        ("127.0.0.1", "[", "http://[", "", False),
        ("127.0.0.1", "", "http://", "", False),
        ("0.0.0.0", "192.168.0.7:8765", "http://192.168.0.7:8765", TOKEN, True),
        ("0.0.0.0", "192.168.0.7:8765", "http://192.168.0.7:8765", "", False),
        ("0.0.0.0", "192.168.0.7:8765", "http://192.168.0.7:8765", TOKEN + "x", False),
        ("0.0.0.0", "192.168.0.7:8765", "http://192.168.0.7:8765", "\ud800é", False),
        ("0.0.0.0", "evil.example:8765", "http://evil.example:8765", TOKEN, False),
    ],
)
def test_the_door(bound: str, host: str, origin: str, token: str, welcome: bool) -> None:
    """Only pages of this very server come in, under a name of this machine, and from elsewhere only with the token."""
    access = Access(host=bound, token=TOKEN if bound == "0.0.0.0" else None)
    assert (access.refusal({"host": host, "origin": origin}, token) is None) == welcome


def test_the_door_is_at_the_server(shelf: Shelf) -> None:
    """The server asks the door: other origins, hosts and tokens get no socket, and no page under another name."""
    with serving(shelf, Access(host="127.0.0.1", token=TOKEN)) as (house, client):
        for headers, token in (
            ({"host": HERE}, TOKEN), ({"host": HERE, "origin": "http://evil.example"}, TOKEN), (OWN, ""), (OWN, "wrong"),
            ({"host": "evil.example", "origin": "http://evil.example"}, TOKEN),
        ):  # fmt: skip
            with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"/play?token={token}", headers=headers):
                pass
        assert house.players == 0
        with client.websocket_connect(f"/play?token={TOKEN}", headers=OWN) as socket:
            heard(socket, "hello")
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_the_page_needs_nothing_from_elsewhere(shelf: Shelf) -> None:
    """The page and its parts are served with a policy that lets nothing else in; other paths are not found."""
    with serving(shelf) as (_, client):
        page = client.get("/")
        assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
        for name, kind in (("play.js", "text/javascript"), ("play.css", "text/css"), ("wire.js", "text/javascript")):
            part = client.get(f"/{name}")
            assert part.status_code == 200 and part.headers["content-type"].startswith(kind)
        for path in ("/session.py", "/..%2fsession.py", "/page/play.js", "/none"):
            assert client.get(path).status_code == 404


def test_the_command_refuses_what_cannot_be_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token for other machines, a short one, no seats, a port that is taken, no checkpoint, no packages: each is told."""
    for wrong, words in (
        ({"host": "0.0.0.0"}, "token"), ({"host": "0.0.0.0", "token": "short"}, "16 or more"), ({"sessions": 0}, "1 or more"),
        ({"checkpoint": str(tmp_path)}, "checkpoint"), ({"port": 99999}, "free port"), ({"host": "256.1.1.1", "token": TOKEN}, "address"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            play(**{"browser": False, **wrong})
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    with pytest.raises(UsageError, match=r"pip install 'worldsim\[play\]'"):
        play(browser=False)
