"""The page in a real browser: keys, pause, fork, recordings, permalinks, the challenge, and what it looks like.

Needs Chromium (``apt-get install chromium``); run by ``make test-browser``. Writes the pictures of the README.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TOKEN = "a secret & of some length"
LONGEST_PNG = 200_000
SLOW_MS = 60_000
PIXELS = """id => document.getElementById(id).querySelector("canvas").toDataURL().split(",")[1]"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the embedded checkpoint by the command itself; Ctrl-C ends it in words and with code 130."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "worldsim", "play", "--port", "0", "--no-browser", "--token", TOKEN]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    found = re.search(r"http://\S+", server.stderr.readline())
    assert found
    yield found[0]
    server.send_signal(signal.SIGINT)
    _, rest = server.communicate(timeout=60)
    assert server.returncode == 130 and rest == "worldsim: interrupted. The page is closed; nothing is kept.\n"


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Return what drives the browser."""
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Return the system's Chromium."""
    launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield launched
    launched.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Return a page that plays, paused in the scene of seed 4; at the end it may not have complained of anything."""
    opened = browser.new_page(viewport={"width": 1280, "height": 860})
    complaints = watched(opened)
    try:
        begin(opened, address)
        yield opened
    finally:
        opened.close()
    assert complaints == []


def watched(page: Page) -> list[str]:
    """Return a list that fills with what goes wrong in a page."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


def begin(page: Page, address: str) -> None:
    """Begin the scene of seed 4 and pause at its beginning."""
    page.goto(address)
    expect(page.locator("#status")).to_contain_text("frames/s", timeout=SLOW_MS)
    page.locator("#scene > summary").click()
    page.locator("#seed").fill("4")
    page.locator("#factor-posts").fill("0")
    page.locator("#scene > summary").click()
    page.keyboard.press("p")
    expect(page.locator("#status")).to_contain_text("paused", timeout=SLOW_MS)
    page.locator("#factors").evaluate("form => form.requestSubmit()")
    expect(page.locator("#status")).to_contain_text("frames/s", timeout=SLOW_MS)
    page.keyboard.press("p")
    expect(page.locator("#status")).to_contain_text("paused", timeout=SLOW_MS)
    while (step := step_of(page)) > 0:
        page.keyboard.press("z")
        expect(page.locator("#status")).not_to_contain_text(f"step {step} ", timeout=SLOW_MS)


def step_of(page: Page) -> int:
    """Return the step that the page shows."""
    found = re.match(r"step (\d+)", page.inner_text("#status"))
    assert found
    return int(found[1])


def steps(page: Page, count: int, key: str | None = None) -> None:
    """Play steps one by one while a key is held."""
    if key:
        page.keyboard.down(key)
    for _ in range(count):
        before = step_of(page)
        page.keyboard.press(".")
        expect(page.locator("#status")).to_contain_text(f"step {before + 1} ", timeout=SLOW_MS)
    if key:
        page.keyboard.up(key)


def pixels(page: Page, name: str) -> np.ndarray:
    """Return what a pane shows, (h, w, 3)."""
    with Image.open(io.BytesIO(base64.b64decode(page.evaluate(PIXELS, name)))) as picture:
        return np.asarray(picture.convert("RGB"))


def both(page: Page) -> dict[str, np.ndarray]:
    """Return what both panes show."""
    return {name: pixels(page, name) for name in ("truth", "dream")}


def change(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the share of pixels that changed plainly in each pane."""
    return {name: float((np.abs(before[name].astype(int) - after[name]).max(axis=-1) > 40).mean()) for name in before}


def test_keys_move_both_worlds(page: Page) -> None:
    """The arrows move the pusher in both panes and little else; D turns the camera of both; without keys next to nothing moves."""
    start = both(page)
    steps(page, 3)
    still = change(start, both(page))
    before = both(page)
    steps(page, 5, "ArrowUp")
    pushed = change(before, both(page))
    before = both(page)
    steps(page, 4, "d")
    turned = change(before, both(page))
    for name in ("truth", "dream"):
        assert 0.004 < pushed[name] < 0.15 and pushed[name] > still[name]
        assert turned[name] > 0.15 and turned[name] > 2 * pushed[name]
    assert not np.array_equal(pixels(page, "truth"), pixels(page, "dream"))


def test_pause_rewind_and_fork(page: Page) -> None:
    """Paused nothing moves; a rewind and a kept moment show again what they showed; played on, steps go by."""
    paused = both(page), step_of(page)
    page.wait_for_timeout(600)
    assert step_of(page) == paused[1] and change(paused[0], both(page)) == {"truth": 0, "dream": 0}
    page.keyboard.press("f")
    expect(page.locator("#forks button")).to_have_count(1, timeout=SLOW_MS)
    steps(page, 4, "d")
    turned = both(page)
    page.keyboard.press("1")
    expect(page.locator("#status")).to_contain_text(f"step {paused[1]} ", timeout=SLOW_MS)
    assert all(np.array_equal(paused[0][name], pane) for name, pane in both(page).items())
    steps(page, 4, "d")
    assert all(np.array_equal(turned[name], pane) for name, pane in both(page).items())
    page.keyboard.press("z")
    expect(page.locator("#told")).to_contain_text("Went back", timeout=SLOW_MS)
    assert any(not np.array_equal(turned[name], pane) for name, pane in both(page).items())
    page.keyboard.press("p")
    expect(page.locator("#status")).to_contain_text(f"step {paused[1] + 8} ", timeout=SLOW_MS)


def test_a_recording_opens(page: Page, tmp_path: Path) -> None:
    """What R saves is an animated WebP of the steps that were played meanwhile."""
    page.keyboard.press("r")
    expect(page.locator("#record")).to_have_text("Save 0", timeout=SLOW_MS)
    steps(page, 4, "ArrowLeft")
    expect(page.locator("#record")).to_have_text("Save 4", timeout=SLOW_MS)
    with page.expect_download(timeout=SLOW_MS) as download:
        page.keyboard.press("r")
    download.value.save_as(tmp_path / "clip.webp")
    with Image.open(tmp_path / "clip.webp") as clip:
        assert clip.format == "WEBP" and getattr(clip, "n_frames", 1) == 4


def test_a_link_plays_again(page: Page, browser: Browser, address: str) -> None:
    """The address that U makes leads another page to the same scene, actions and frames, and does not hold the token."""
    page.keyboard.press("p")
    for key in ("ArrowUp", "d", "e"):
        page.keyboard.down(key)
        page.wait_for_timeout(900)
        page.keyboard.up(key)
    page.keyboard.press("p")
    expect(page.locator("#status")).to_contain_text("paused", timeout=SLOW_MS)
    page.keyboard.press("u")
    expect(page.locator("#told")).to_contain_text("reproduces", timeout=SLOW_MS)
    wanted, last = both(page), step_of(page)
    other = browser.new_page()
    complaints = watched(other)
    assert "token" not in page.url
    other.goto(address + page.url[page.url.index("#") :])
    expect(other.locator("#status")).to_contain_text("to go", timeout=SLOW_MS)
    other.keyboard.press("p")
    expect(other.locator("#status")).to_contain_text("paused", timeout=SLOW_MS)
    assert step_of(other) < last
    steps(other, last - step_of(other))
    assert all(np.array_equal(wanted[name], pane) for name, pane in both(other).items())
    other.close()
    assert complaints == []


def test_the_challenge_by_keyboard(page: Page) -> None:
    """The truth is covered until the cross is set with arrows and Enter; then all three places are marked and counted."""
    page.keyboard.press("c")
    expect(page.locator("#banner")).to_contain_text("Where?", timeout=SLOW_MS)
    expect(page.locator("#truth .cover")).to_be_visible()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator("#score")).to_contain_text("of 1 won", timeout=SLOW_MS)
    expect(page.locator("#truth .cover")).to_be_hidden()
    assert page.locator("#truth svg text").all_text_contents() == ["truth", "you", "dream"]


def test_buttons_without_a_mouse(page: Page) -> None:
    """Every button can be reached by Tab and pressed by Enter, and says its key; settings do not steer."""
    for identity in ("fork", "autopilot", "differ"):
        page.locator(f"#{identity}").focus()
        page.keyboard.press("Enter")
    expect(page.locator("#forks button")).to_have_count(1, timeout=SLOW_MS)
    expect(page.locator("#autopilot")).to_have_attribute("aria-pressed", "true", timeout=SLOW_MS)
    expect(page.locator("#difference")).to_be_visible()
    assert all(button.get_attribute("title") for button in page.locator(".bar button").all())
    before = step_of(page)
    page.locator("#scene > summary").click()
    page.locator("#seed").focus()
    page.keyboard.press("p")
    assert step_of(page) == before and page.inner_text("#pause") == "Play"


def test_as_many_frames_as_steps(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for 30 steps a second, with keys held, the page shows as many as the machine makes: 15 on two free cores.

    The test asks for half of that, since other work may run beside it.
    """
    page.locator("#speed").select_option("30")
    page.keyboard.press("p")
    page.keyboard.down("ArrowRight")
    page.wait_for_timeout(2000)
    first, begun = step_of(page), time.monotonic()
    page.wait_for_timeout(10_000)
    rate = (step_of(page) - first) / (time.monotonic() - begun)
    shown = page.inner_text("#status")
    page.keyboard.up("ArrowRight")
    with capsys.disabled():
        print(f"\n{rate:.1f} steps a second; the page says: {shown}")
    assert rate > 7.5


def test_a_phone(browser: Browser, address: str) -> None:
    """At 390 pixels nothing is cut off, the touch pad steers both worlds, and the picture of the README is taken."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    page = context.new_page()
    complaints = watched(page)
    begin(page, address)
    before = both(page)
    button = page.locator("#pad button", has_text="orbit right")
    button.dispatch_event("pointerdown")
    steps(page, 4)
    button.dispatch_event("pointerup")
    assert all(share > 0.15 for share in change(before, both(page)).values())
    after = both(page)
    steps(page, 1)
    assert all(share < 0.1 for share in change(after, both(page)).values())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert all((page.locator(f"#{name} canvas").bounding_box() or {"width": 0})["width"] > 150 for name in before)
    assert all(
        (button.bounding_box() or {"height": 0})["height"] >= 40 for button in page.locator("button:visible").all()
    )
    picture(page, "play-390.png")
    context.close()
    assert complaints == []


def test_the_picture_of_the_readme(page: Page) -> None:
    """The page at 1280 pixels, with a difference, a kept moment and the futures of the autopilot."""
    page.keyboard.press("x")
    page.keyboard.press("f")
    page.keyboard.press("e")
    steps(page, 5, "d")
    page.locator("#by").select_option("truth")
    page.keyboard.press("o")
    steps(page, 2)
    expect(page.locator("#plans figure")).to_have_count(8, timeout=SLOW_MS)
    picture(page, "play-1280.png")


def picture(page: Page, name: str) -> None:
    """Take a picture for the documents, which must stay small."""
    target = ROOT / "docs" / "images" / name
    page.screenshot(path=target, full_page=True)
    assert target.stat().st_size < LONGEST_PNG
