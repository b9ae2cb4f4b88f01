"""One Chromium for all tests of a file: Playwright leaves an event loop running, which others could not start theirs beside."""

import pytest


@pytest.fixture(scope="module")
def chromium():
    from browser import FLAGS, FOUND
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=FOUND, args=FLAGS)
        yield browser
        browser.close()
