"""A real Chromium against a live server, with a recorder that fails a test on anything the browser complains about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from datasets.demo import sync_label_maps
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.browser.recorder import Recorder
from tests.chromium import chromium_path
from tests.modelhub.dav_server import dav_server as dav_server  # a fixture

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update"]
# Loaded machines draw slowly; nothing here measures time.
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)

SignIn = Callable[..., BrowserContext]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(
        reason="no Chromium on this machine (apt install chromium, or set PORTAL_CHROMIUM to one)"
    )
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
            if chromium_path() is None:
                item.add_marker(missing)


@pytest.fixture(scope="session")
def browser(django_db_setup: None) -> Iterator[Browser]:
    # Inside the driver's event loop Django keeps connections of its own. Those of the other side would stay open for ever, and
    # hinder the end of the test database.
    connections.close_all()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        yield chromium
        connections.close_all()
        chromium.close()


@pytest.fixture
def site(transactional_db: None, live_server: Any) -> str:
    """The address of a portal with the label maps that it brings along."""
    sync_label_maps()
    return str(live_server.url)


@pytest.fixture
def recorder(site: str) -> Iterator[Recorder]:
    """What the browser complained about in the contexts of ``sign_in``; nothing may be left at the end of the test."""
    found = Recorder(site)
    yield found
    found.check()


@pytest.fixture
def sign_in(site: str, browser: Browser, recorder: Recorder) -> Iterator[SignIn]:
    """Return a function that opens a browser context of a user (None: nobody) by its session cookie."""
    opened: list[BrowserContext] = []

    def enter(
        user: Any = None, *, width: int = 1280, height: int = 900, theme: str = "light", **options: Any
    ) -> BrowserContext:
        context = browser.new_context(
            base_url=site, viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce",
            accept_downloads=True, **options,
        )  # fmt: skip
        context.set_default_timeout(PATIENCE_MS)
        opened.append(context)
        if user is not None:
            client = Client()
            client.force_login(user)
            key = client.cookies[settings.SESSION_COOKIE_NAME].value
            context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": key, "url": site}])
        recorder.watch(context)
        return context

    yield enter
    for context in opened:
        context.close()
