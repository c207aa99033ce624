"""A real browser for pages: found where it is installed, and what it complains of while a page is open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium through Playwright; skips with a reason where either is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    named = [os.environ.get("KDBIAS_CHROMIUM") or "", *_NAMES]
    found = next((path for name in named if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs chromium: apt-get install chromium, or KDBIAS_CHROMIUM=its path")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(running: Any, page: Path, width: int = 1200, **look: Any) -> Iterator[Any]:
    """A page in a window of its own; fails where it asked for anything, or anything was complained of."""
    context = running.new_context(viewport={"width": width, "height": 900}, **look)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.add_init_script(
        "window.broken = [];"
        "addEventListener('securitypolicyviolation', e => window.broken.push(e.violatedDirective));"
    )
    tab.goto(page.resolve().as_uri())
    yield tab
    broken = tab.evaluate("window.broken")
    context.close()
    assert (said, broken or []) == ([], [])
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [page.resolve().as_uri()]
