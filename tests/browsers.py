"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from databases import unavailable
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# As tall as MLflow's charts are together: it draws only those that can be seen.
WIDTH, HEIGHT = 1600, 3000
CURVES = """() => [...document.querySelectorAll(".js-plotly-plot")].map(plot => plot.data.map(
    curve => [curve.name || "", Array.from(curve.x || []), Array.from(curve.y || [])]
))"""
MILLISECONDS = 120_000  # in which a page has to show what is looked for

Curve = tuple[str, list[Any], list[Any]]  # its name in the legend, steps, values


@contextmanager
def browser_page(width: int = WIDTH, height: int = HEIGHT) -> Iterator[Page]:
    """A page of a browser that knows nothing yet: no cookies, no settings."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        unavailable("There is no Chromium; `make services` installs it.")
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        with playwright.chromium.launch(executable_path=path, args=options) as browser:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(MILLISECONDS)
            yield page


def curves(page: Page) -> list[list[Curve]]:
    """The curves of each chart, as Plotly has drawn them."""
    drawn = page.evaluate(CURVES)
    return [[(name, x, y) for name, x, y in chart] for chart in drawn]
