"""Headless Chromium over the live page, as a person uses it: by what can be read on it."""

from __future__ import annotations

import re
import shutil

import pytest
from playwright.sync_api import Error

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
FOUND = next(filter(None, map(shutil.which, BROWSERS)), None)
# WebGL by the CPU, small, because the tests share the machine with a camera and a model.
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage")
DESK, PHONE = {"width": 1100, "height": 700}, {"width": 390, "height": 780}
PATIENCE_MS = 240_000

needs_browser = pytest.mark.skipif(
    FOUND is None, reason="no Chromium here: apt-get install chromium-headless-shell fonts-wqy-microhei"
)


def start(graph, module: str, **parameters):
    given = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    from ros_graph import PATIENT  # only where there is ROS

    patient = PATIENT if module == "perception.main" else ()
    arguments = ("--ros-args", "-r", "__ns:=/qwen3vl", *patient, *given)
    return graph.start("-m", f"qwen3vl_ros.node.{module}", *arguments, name=module.split(".")[0])


def start_page(graph, *arguments: str) -> str:
    page = graph.start("-m", "qwen3vl_ros.web", "--port", "0", *arguments, name="page")
    return re.search(r"http://localhost:\d+", page.logged("page: http://localhost:"))[0]


class Tab:
    """One browser that shows the page. requests: every address it asked for; said: what its console had."""

    def __init__(self, browser, url: str, viewport=DESK):
        self.context = browser.new_context(viewport=viewport)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.requests, self.said = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.goto(url)

    def close(self) -> None:
        self.context.close()

    def field(self, label: str):
        """The line beside a label."""
        return self.page.get_by_text(label, exact=True).locator("xpath=ancestor::*[.//input][1]//input")

    def write(self, label: str, words: str) -> None:
        """Type into a line."""
        self.field(label).fill(words)
        # The page sends what is typed in slices of a twentieth of a second, by its own clock.
        self.page.evaluate("() => new Promise((over) => setTimeout(over, 150))")

    def enter(self, label: str, words: str) -> None:
        """Type into a line, and send it."""
        self.write(label, words)
        self.field(label).press("Enter")

    def choose(self, label: str, option: str) -> None:
        """One of the choices beside a label."""
        self.field(label).first.click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def part(self, name: str, words: str = ""):
        """A part of a panel that holds these words, once it is there."""
        found = self.page.locator(f".qwen.{name}", has_text=words).first
        try:
            found.wait_for(state="attached")
        except Error:
            there = self.page.locator(f".qwen.{name}").all_text_contents()
            raise AssertionError(f"{words!r} is not in {name}, which has {there}") from None
        return found

    def see(self, words: str):
        """These words, anywhere, once they can be seen."""
        found = self.page.get_by_text(words).first
        found.wait_for()
        return found
