"""No test of any room depends on being quick; and the fixtures that need a browser.

Those skip, with a reason, where there is no Chromium.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, LAUNCH, LIGHT, SETTLED, stub_page, watched
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip("no Chromium: apt-get install chromium, or set CKPTLAB_CHROMIUM=/path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(**LAUNCH)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """A fresh page that fails the test for any error it reports; its last look is in `tmp_path`."""
    page = chromium.new_page(viewport={"width": 1100, "height": 800})
    page.set_default_timeout(20_000)
    with watched(page):
        yield page
        page.screenshot(path=str(tmp_path / "last.png"))
    page.close()


@pytest.fixture
def shown(page: Any) -> Callable[..., Any]:
    """Shows a scene on the stub model, and waits until it is drawn."""

    def show(scene: Any, theme: str = LIGHT, **how: Any) -> Any:
        page.set_content(stub_page(scene, theme, **how))
        page.evaluate(SETTLED)
        return page

    return show
