"""Who may speak to the page, what it may load, what it writes, and what files it takes; without ROS and without a browser."""

from __future__ import annotations

import http.client
import re
import socket

import numpy as np
import pytest

pytest.importorskip("viser")

import cv2
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from qwen3vl_ros.types import InvalidInput
from qwen3vl_ros.web import html
from qwen3vl_ros.web.server import refusal, serve
from qwen3vl_ros.web.uploads import MOST_PICTURES, pictures_of, thumbnail_html


@pytest.fixture(scope="module")
def port():
    server = serve("127.0.0.1", 0, "a test")
    yield server.get_port()
    server.stop()


@pytest.mark.parametrize(
    "headers, refused",
    [
        ({"Host": "localhost:7860"}, False),
        ({"Host": "127.0.0.1:7860", "Origin": "http://127.0.0.1:7860"}, False),
        ({"Host": "[::1]:7860", "Origin": "http://[::1]:7860"}, False),
        ({"Host": f"{socket.gethostname()}:7860", "Origin": f"http://{socket.gethostname()}:7860"}, False),
        ({"Host": "localhost:7860", "Origin": "http://evil.example"}, True),
        ({"Host": "localhost:7860", "Origin": "http://localhost:8000"}, True),
        ({"Host": "localhost:7860", "Origin": "null"}, True),
        ({"Host": "evil.example:7860", "Origin": "http://evil.example:7860"}, True),
        ({"Host": "localhost.evil.example:7860"}, True),
        ({"Host": ""}, True),
        ({}, True),
    ],
)
def test_only_the_page_itself_may_speak_to_it_under_names_that_are_this_machines(headers, refused):
    assert bool(refusal(headers)) == refused


def test_another_sites_socket_is_refused_and_the_pages_own_is_not(port):
    with pytest.raises(InvalidStatus) as told:
        connect(f"ws://localhost:{port}", origin="http://evil.example", subprotocols=["viser-v0"])
    assert told.value.response.status_code == 403
    with connect(f"ws://localhost:{port}", origin=f"http://localhost:{port}"):
        pass


def test_the_page_is_sent_with_a_policy_that_lets_it_load_nothing_from_elsewhere(port):
    connection = http.client.HTTPConnection("localhost", port)
    connection.request("GET", "/")
    response = connection.getresponse()
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert response.status == 200 and policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    allowed = {word for sources in policy.values() for word in sources.split()}
    assert allowed <= {"'none'", "'self'", "'unsafe-inline'", "'wasm-unsafe-eval'", "blob:", "data:"}


def test_a_port_that_is_taken_is_refused_by_its_number(port):
    with pytest.raises(InvalidInput, match=f"127.0.0.1 port {port}: .*--port"):
        serve("127.0.0.1", port, "another")
    with pytest.raises(InvalidInput, match="no.such.host.invalid"):
        serve("no.such.host.invalid", port, "another")


EVIL = "<img src=x onerror=alert(1)>\"' onload=alert(2) </bdi><script>"


def test_words_are_shown_as_they_are():
    pieces = [html.text(EVIL), html.note(EVIL), html.table([[html.text(EVIL)]], [EVIL])]
    pieces.append(html.boxes_svg((640, 480), [(1, 2, 3, 4, EVIL, "#fff"), (np.nan, 0, 1, 1, "gone", "#fff")]))
    for piece in pieces:
        assert "&lt;img src=x" in piece and "<img" not in piece and "<script" not in piece and "gone" not in piece
    assert len(html.text("x" * 10**6)) < 5000


def test_a_plot_has_gaps_where_nothing_was_read():
    drawn = html.line_svg([1.0, 2.0, np.nan, 2.0, 1.0], limit=1.5)
    assert drawn.count("M") == 3 and "stroke-dasharray" in drawn  # two pieces and the limit
    assert html.line_svg([np.nan, 1.0]) == "" and "nan" not in html.line_svg([3.0, 3.0, np.nan])


def video(folder, count: int) -> bytes:
    """So many pictures at 10 Hz, each lighter than the one before."""
    path = folder / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), 10 * number % 250, np.uint8))
    writer.release()
    return path.read_bytes()


def test_a_photo_is_one_picture_and_a_video_a_few_in_their_order(tmp_path):
    rgb = np.full((48, 64, 3), (200, 20, 20), np.uint8)
    (photo,) = pictures_of("photo.png", cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())
    assert (photo.width, photo.height, photo.encoding) == (64, 48, "rgb8") and bytes(photo.data[:3]) == b"\xc8\x14\x14"
    (wide,) = pictures_of("wide.png", cv2.imencode(".png", np.zeros((10, 4000, 3), np.uint8))[1].tobytes())
    assert (wide.width, wide.height) == (1280, 3)
    stills = pictures_of("video.avi", video(tmp_path, 25))
    shades = [int(np.mean(still.data)) for still in stills]
    stamps = [still.header.stamp.sec + still.header.stamp.nanosec / 1e9 for still in stills]
    assert len(stills) == MOST_PICTURES and shades == sorted(shades) and shades[0] < 10 and shades[-1] > 230
    assert stamps[0] == 0 and stamps[-1] == pytest.approx(2.4)
    (one,) = pictures_of("one.avi", video(tmp_path, 1))
    assert one.header.stamp.sec == 0 and one.height == 48
    (line,) = pictures_of("line.png", cv2.imencode(".png", np.zeros((1, 4000, 3), np.uint8))[1].tobytes())
    assert (line.width, line.height) == (1280, 1) and thumbnail_html([line]).count("data:image/jpeg") == 1
    (thread,) = pictures_of("thread.png", cv2.imencode(".png", np.zeros((4000, 1, 3), np.uint8))[1].tobytes())
    assert (thread.width, thread.height) == (1, 1280) and thumbnail_html([thread])
    with pytest.raises(InvalidInput, match="long.avi lasts longer than 60 s"):
        pictures_of("long.avi", video(tmp_path, 700))
    for name, content in (
        ("none.avi", video(tmp_path, 0)),
        ("notes.txt", b"words"),
        ("empty.png", b""),
        ("cut.png", b"\x89PNG\r\n\x1a\n"),
    ):
        with pytest.raises(InvalidInput, match=re.escape(name)):
            pictures_of(name, content)
    with pytest.raises(InvalidInput, match="41 MB, more than 40"):
        pictures_of("large.mp4", bytes(41_000_000))
