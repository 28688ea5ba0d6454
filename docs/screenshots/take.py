# ruff: noqa: INP001
"""The pictures of this folder, from a running turboserve: python docs/screenshots/take.py http://localhost:8080"""

import asyncio
import os
import shutil
import sys
from pathlib import Path

from playwright.async_api import Browser, ViewportSize, async_playwright

FOLDER = Path(__file__).parent
LAPTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
WAIT_MS = 30_000
CHUNKS_SHOWN = "(n) => turboserve.shownIndex >= n"


async def play(browser: Browser, url: str, name: str, viewport: ViewportSize) -> None:
    """From the empty page to a prompt change that has arrived."""
    page = await browser.new_page(viewport=viewport, color_scheme="dark", device_scale_factor=2)
    await page.goto(url)
    await page.locator("#fleet[data-state=ready]").wait_for(timeout=WAIT_MS)
    await page.screenshot(path=FOLDER / f"{name}-start.jpg", quality=88)
    await page.fill("#prompt", "a yellow star orbits at night")
    await page.click("#submit")
    await page.wait_for_function(CHUNKS_SHOWN, arg=12, timeout=WAIT_MS)
    await page.fill("#prompt", "a big red ball bouncing over a meadow")
    await page.click("#submit")
    await page.locator("#story li").nth(1).wait_for(timeout=WAIT_MS)
    shown = await page.evaluate("() => turboserve.shownIndex")
    await page.wait_for_function(CHUNKS_SHOWN, arg=shown + 4, timeout=WAIT_MS)
    await page.screenshot(path=FOLDER / f"{name}.jpg", quality=88, full_page=viewport is PHONE)
    await page.click("#close")
    await page.close()


async def main(url: str) -> None:
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
        await play(browser, url, "laptop", LAPTOP)
        await play(browser, url, "phone", PHONE)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
