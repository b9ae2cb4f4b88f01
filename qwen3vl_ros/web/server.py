"""viser's server, closed to everybody but its own page.

A browser lets any site open a socket to this machine, and this page moves an arm: so a handshake whose Origin is not the page
itself is refused, under the names that are this machine's alone (a foreign name may be made to point here). The page is sent
with a policy that lets it load nothing from elsewhere and stand in no other page, whatever a scene or a model says.
Sources: RFC 6455 section 10.2; CSP Level 3. Knows no ROS.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from functools import partial
from typing import Any, Iterator
from urllib.parse import urlsplit

import viser
import websockets.asyncio.server as sockets
from viser._messages import FileTransferPart, FileTransferStartUpload, ShareUrlRequest

from qwen3vl_ros.types import InvalidInput

LOOPBACK = "127.0.0.1"
# viser's client is one file that unpacks its own script, so inline ones are allowed; what loads is not, whoever asks for it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob: data:; "
    "style-src 'unsafe-inline'; img-src blob: data:; font-src data:; connect-src 'self' blob: data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve(host: str, port: int, title: str, most_mb: float = 40) -> viser.ViserServer:
    """The server, listening. most_mb: of a file that a browser gives. Raises InvalidInput where the address cannot be had: viser would quietly take the next port."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InvalidInput(
            f"the page cannot listen on {host} port {port}: {error}; choose another --port or --host"
        ) from error
    with _guarded():
        server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
    # Anybody's message could otherwise have the page published through a server on the internet.
    server._websock_server.unregister_handler(ShareUrlRequest)
    # Nothing that everybody sees takes files, and viser would give one to any control that a browser names.
    for kind in (FileTransferStartUpload, FileTransferPart):
        server._websock_server.unregister_handler(kind)
    server.on_client_connect(partial(_bound_uploads, most_mb))
    return server


def _bound_uploads(most_mb: float, client: viser.ClientHandle) -> None:
    """viser takes what a browser sends, and looks at it when all is here: one file at a time, and no more than it was said to be."""
    gui = client.gui
    begun, start, take = (
        gui._current_file_upload_states,
        gui._handle_file_transfer_start,
        gui._handle_file_transfer_part,
    )

    def started(client_id: int, message: FileTransferStartUpload) -> None:
        begun.clear()
        if message.size_bytes > most_mb * 1e6:
            words = f"{message.filename[:80]} has {message.size_bytes / 1e6:.0f} MB, more than {most_mb:g}; give a smaller one"
            client.add_notification("This file was not taken", words, color="red")
        elif isinstance(
            gui._gui_input_handle_from_uuid.get(message.source_component_uuid), viser.GuiUploadButtonHandle
        ):
            start(client_id, message)

    def came(client_id: int, message: FileTransferPart) -> None:
        state = begun.get(message.transfer_uuid)
        if state is not None and state["transferred_bytes"] + len(message.content) > state["total_bytes"]:
            begun.clear()
        else:
            take(client_id, message)

    connection = gui._websock_interface
    for kind, was, now in ((FileTransferStartUpload, start, started), (FileTransferPart, take, came)):
        connection.unregister_handler(kind, was)
        connection.register_handler(kind, now)


def refusal(headers: Any) -> str:
    """Why a request may not be answered; empty if it may. headers: of HTTP, by name."""
    host = headers.get("Host", "")
    if not _is_ours(urlsplit(f"//{host}").hostname or ""):
        return f"this page is not served under the name {host}; use localhost, an address or this machine's own name"
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return "another site's page may not speak to this one"
    return ""


def _is_ours(name: str) -> bool:
    """Whether a name is an address, or one that nobody else can make point to this machine."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    own = socket.gethostname().lower()
    return name in ("localhost", own, own.partition(".")[0], f"{own.partition('.')[0]}.local")


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """While viser starts listening: it has no setting for who may connect, but takes what listens from this module."""
    listen = sockets.serve

    def listen_guarded(handler, *args, process_request, **how):
        return listen(handler, *args, process_request=partial(_checked, process_request), **how)

    sockets.serve = listen_guarded
    try:
        yield
    finally:
        sockets.serve = listen


def _checked(answer, connection, request):
    if reason := refusal(request.headers):
        return connection.respond(403, reason + "\n")
    response = answer(connection, request)
    if response is not None:
        for name, value in HEADERS.items():
            response.headers[name] = value
    return response
