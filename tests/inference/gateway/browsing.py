"""Headless Chromium from the system's packages, which says what went wrong in a page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Nothing of the browser's own business with its maker.
FLAGS = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
)


@dataclass(kw_only=True)
class Watched:
    """A page, and all that it should not have done.

    Attributes:
        page: Playwright's.
        outside: addresses that it asked for and that are not the gateway's.
        complaints: errors and warnings of its console, and exceptions of its script.
    """

    page: "Page"
    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def overflows(self) -> list[str]:
        """What reaches out of the window sideways: the page itself, and elements."""
        return self.page.evaluate(
            """() => {
                const width = document.documentElement.clientWidth;
                const found = [...document.querySelectorAll("body *")].filter((element) => {
                    const box = element.getBoundingClientRect();
                    return box.width && (box.right > width + 1 || box.left < -1);
                }).map((element) => element.outerHTML.slice(0, 120));
                const whole = document.documentElement.scrollWidth;
                return whole > width ? [`${whole} > ${width}`, ...found] : found;
            }"""
        )


@contextmanager
def chromium() -> "Iterator[Browser]":
    """A browser, or a skip where none is installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"chromium absent: none of {', '.join(NAMES)} is installed")
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(browser: "Browser", root: str, *, width: int, **context: Any) -> Iterator[Watched]:
    """A page of a gateway in a window of some width."""
    own = browser.new_context(viewport={"width": width, "height": 900}, **context)
    try:
        seen = Watched(page=own.new_page())
        seen.page.on(
            "request",
            lambda request: (
                request.url.startswith((root, "data:")) or seen.outside.append(request.url)
            ),
        )
        seen.page.on(
            "console",
            lambda message: (
                message.type in ("error", "warning") and seen.complaints.append(message.text)
            ),
        )
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        yield seen
    finally:
        own.close()
