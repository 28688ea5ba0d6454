"""The web page in a real Chromium, on real services with the tiny model, whose colour tells the prompt."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, ViewportSize, expect

from tests.fixtures.gateway import GatewayProgram, Stage
from tests.fixtures.system import System

WAIT_MS = 40_000
LAPTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}

expect.set_options(timeout=WAIT_MS)

# Mean red minus mean blue of what is on screen, whichever player shows it.
REDNESS = """() => {
  const screen = [...document.querySelectorAll("#canvas, #video")].find((one) => !one.hidden);
  const small = new OffscreenCanvas(8, 8).getContext("2d");
  small.drawImage(screen, 0, 0, 8, 8);
  const { data } = small.getImageData(0, 0, 8, 8);
  let sum = 0;
  for (let i = 0; i < data.length; i += 4) sum += data[i] - data[i + 2];
  return sum / 64;
}"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def _until(page: Page, condition: str, argument: Any = None) -> None:
    """Until the JavaScript function `condition` is true of `argument`."""
    await page.wait_for_function(condition, arg=argument, timeout=WAIT_MS)


async def _read(page: Page, name: str) -> Any:
    return await page.evaluate("(name) => turboserve[name]", name)


async def _moves_on(page: Page, chunks: int = 2) -> None:
    """Until so many further chunks came on screen."""
    shown = await _read(page, "shownIndex")
    wanted = (-1 if shown is None else shown) + chunks
    await _until(page, "(n) => turboserve.shownIndex >= n", wanted)


async def _shows(page: Page, *, red: bool) -> None:
    await _until(page, f"() => ({REDNESS})() {'> 90' if red else '< -90'}")


async def _start(page: Page, prompt: str) -> None:
    await page.fill("#prompt", prompt)
    await page.click("#submit")
    await _until(page, "() => turboserve.framesDrawn > 0")


class Watched:
    """What a page asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        page.on("request", self._requested)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _requested(self, request: Request) -> None:
        self.hosts.add(request.url.split("/")[2])

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


@pytest.fixture
async def page(browser: Browser, running_system: System) -> AsyncIterator[Page]:
    page = await browser.new_page(viewport=LAPTOP, base_url=running_system.url)
    page.set_default_timeout(WAIT_MS)
    watched = Watched(page)
    await page.goto("/")
    yield page
    await page.close()
    assert watched.hosts <= {running_system.url.split("/")[2], ""}
    assert [one for one in watched.complaints if "404" not in one and "422" not in one] == []


async def test_plays_and_shows_a_new_prompt_in_mid_stream(page: Page) -> None:
    await _start(page, "a red ball")
    assert await _read(page, "player") == "webcodecs"
    await _moves_on(page)
    await _shows(page, red=True)
    drawn = await _read(page, "framesDrawn")

    await page.fill("#prompt", "a blue ball")
    await page.press("#prompt", "Enter")
    await expect(page.locator("#story li")).to_have_count(2)
    await _shows(page, red=False)
    await expect(page.locator("#now-prompt")).to_have_text("a blue ball")
    await expect(page.locator("#detail")).to_contain_text("your change, from chunk")
    assert await _read(page, "framesDrawn") > drawn
    assert (
        await page.locator("#strip [data-hue]").evaluate_all(
            "(all) => new Set(all.map((c) => c.dataset.hue)).size"
        )
        == 2
    )


async def test_the_server_is_never_far_ahead_of_the_screen(page: Page) -> None:
    await _start(page, "a red ball")
    for _ in range(4):
        await _moves_on(page, 1)
        state = await page.evaluate("() => ({ ...turboserve })")
        assert state["granted"] <= state["shownIndex"]
        assert state["nextIndex"] <= state["shownIndex"] + 3


async def test_pause_holds_the_picture_and_resume_goes_on(page: Page) -> None:
    await _start(page, "a red ball")
    await page.click("#pause")
    await expect(page.locator("#veil-title")).to_have_text("Paused")
    await _until(page, "() => turboserve.status === 'paused'")
    drawn = await _read(page, "framesDrawn")
    await page.evaluate(
        "async () => { for (let i = 0; i < 60; i++) await new Promise(requestAnimationFrame); }"
    )
    assert await _read(page, "framesDrawn") == drawn

    await page.click("#pause")
    await _until(page, "() => turboserve.status === 'active'")
    await _moves_on(page, 3)
    await expect(page.locator("#veil")).not_to_be_visible()


async def test_someone_else_finds_it_in_the_list_and_a_reload_comes_back(
    page: Page, browser: Browser
) -> None:
    await _start(page, "a red ball on white")
    session = await _read(page, "session")
    other = await browser.new_page(viewport=LAPTOP, base_url=page.url.split("/#")[0])
    await other.goto("/")
    await other.click(f"[data-session={session}]")
    await _until(other, "() => turboserve.framesDrawn > 0")
    await _moves_on(other)
    await other.reload()
    await _until(other, "() => turboserve.framesDrawn > 0")
    assert await _read(other, "session") == session

    await page.click("#close")
    for one in (page, other):
        await expect(one.locator("#veil-title")).to_have_text("This session has ended")
        await expect(one.locator("#submit")).to_have_text("Start")
    await other.close()


async def test_the_fleet_shows_who_makes_the_video_and_who_pauses(page: Page) -> None:
    ready = page.locator("#workers li[data-state=ready]")
    await expect(ready).to_have_count(1)
    await _start(page, "a red ball")
    await expect(ready.locator(".seat[aria-current]")).to_have_attribute("data-status", "active")
    await page.click("#pause")
    await expect(ready.locator(".seat[aria-current]")).to_have_attribute("data-status", "paused")
    await page.click("#close")
    await expect(ready.locator(".seat[aria-current]")).to_have_count(0)


@pytest.fixture
async def second_gateway(running_system: System, tmp_path: Path) -> AsyncIterator[GatewayProgram]:
    """One to kill: it serves the same sessions as the first."""
    gateway = GatewayProgram(tmp_path, running_system.nats_url)
    gateway.start()
    yield gateway
    gateway.program.kill()


async def test_a_killed_gateway_is_said_and_the_page_recovers(
    second_gateway: GatewayProgram, browser: Browser
) -> None:
    page = await browser.new_page(viewport=LAPTOP)
    await page.goto(second_gateway.url)
    await _start(page, "a red ball")
    await _moves_on(page)
    session = await _read(page, "session")

    second_gateway.program.kill()
    await expect(page.locator("#problem")).to_contain_text("Lost the connection to the server. Trying again")
    await expect(page.locator("#fleet-words")).to_have_text("Server not reachable")
    shown = await _read(page, "nextIndex") - 1

    second_gateway.start()
    await expect(page.locator("#problem")).not_to_be_visible()
    await _until(page, "(n) => turboserve.shownIndex > n", shown)
    assert await _read(page, "session") == session
    await page.close()


async def test_a_broken_chunk_is_passed_over_and_too_many_are_given_up(
    gateway: GatewayProgram, stage: Stage, browser: Browser
) -> None:
    session = stage.new_session()
    page = await browser.new_page(viewport=LAPTOP)
    await page.goto(f"{gateway.url}/#{session}")
    await stage.report(session, viewers=1, granted_through=-1)
    await stage.make(session, 0)
    await expect(page.locator("#said")).to_contain_text("could not be decoded")
    await stage.make(session, 1, 2)
    await expect(page.locator("#veil")).to_contain_text("This browser can't play the video.")
    await page.close()


async def test_media_source_extensions_play_too(page: Page) -> None:
    await page.goto("/?player=mse")
    await _start(page, "a red ball")
    assert await _read(page, "player") == "mse"
    await _moves_on(page, 3)
    await _shows(page, red=True)
    await page.click("#pause")
    await _until(page, "() => turboserve.status === 'paused' && document.querySelector('#video').paused")
    await page.click("#pause")
    await page.fill("#prompt", "a blue ball")
    await page.click("#submit")
    await _shows(page, red=False)


async def test_what_is_wrong_is_said_in_words(page: Page) -> None:
    said, veil = page.locator("#said"), page.locator("#veil")
    await page.click("#submit")
    await expect(said).to_contain_text("The prompt is empty.")
    await expect(page.locator("#prompt")).to_be_focused()
    await page.fill("#prompt", "ball " * 200)
    await page.click("#submit")
    await expect(said).to_contain_text("characters are more than")
    await page.fill("#prompt", "a red ball")
    await page.fill("#seed", "seven")
    await page.click("#submit")
    await expect(said).to_contain_text("The seed must be a whole number")
    await page.fill("#seed", "7")
    await page.fill("#prompt", "a red zeppelin")
    await page.click("#submit")
    await expect(said).to_contain_text("zeppelin")
    await expect(page.locator("#about")).to_contain_text("seed 7")
    for nobody in ("100%", "main_00000000000000000000"):
        await page.goto(f"/#{nobody}")
        await page.reload()
        await expect(veil).to_contain_text("This session doesn't exist")
    await page.fill("#prompt", "a red ball")
    await page.click("#submit")
    await _until(page, "() => turboserve.framesDrawn > 0")


@pytest.mark.parametrize("viewport", [PHONE, {"width": 320, "height": 640}, LAPTOP])
async def test_nothing_is_wider_than_the_screen(page: Page, viewport) -> None:
    await page.set_viewport_size(viewport)
    assert await page.evaluate(OVERFLOW) == 0
    await _start(page, "a red ball " + "on white " * 12 + "x" * 90)
    await expect(page.locator("#story li")).to_have_count(1)
    await expect(page.locator("#sessions li").first).to_be_visible()
    assert await page.evaluate(OVERFLOW) == 0


async def test_without_a_player_it_says_what_would_help(browser: Browser, running_system: System) -> None:
    page = await browser.new_page(viewport=PHONE)
    await page.add_init_script(
        "for (const name of ['VideoDecoder', 'MediaSource', 'ManagedMediaSource']) delete globalThis[name];"
    )
    await page.goto(running_system.url)
    await page.fill("#prompt", "a red ball")
    await page.click("#submit")
    await expect(page.locator("#veil")).to_contain_text("This browser can't play the video.")
    await page.close()


async def test_the_keyboard_is_enough(page: Page) -> None:
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.type("a red ball")
    await page.keyboard.press("Enter")
    await _until(page, "() => turboserve.framesDrawn > 0")
    await page.locator("#stage").focus()
    await page.keyboard.press("Space")
    await expect(page.locator("#veil-title")).to_have_text("Paused")
