"""A browser as the live page's server knows one: connects, says where its camera is, and takes all that comes. Chromium's own work is
not the page's, and would be the most of all on a machine without a GPU.

usage: page_viewer.py PORT
"""

from __future__ import annotations

import sys

import msgspec
import viser
from viser._messages import ViewerCameraMessage
from websockets.sync.client import connect


def main() -> None:
    url, protocol = f"ws://localhost:{sys.argv[1]}", f"viser-v{viser.__version__}"
    looks = ViewerCameraMessage(
        wxyz=(1.0, 0.0, 0.0, 0.0), position=(0.0, 0.0, 1.0), fov=1.0, near=0.1, far=10.0,
        image_height=600, image_width=800, look_at=(0.0, 0.0, 0.0), up_direction=(0.0, 0.0, 1.0),
    )  # fmt: skip
    with connect(url, subprotocols=[protocol], compression=None, max_size=None) as socket:
        socket.send(msgspec.msgpack.encode(looks.as_serializable_dict()))
        print("watching", flush=True)
        for _ in socket:
            pass


if __name__ == "__main__":
    main()
