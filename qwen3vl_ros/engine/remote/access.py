"""May this server be asked, and how: its address, the API key, TLS, images on their way, and a circuit
breaker.

A key never leaves but as the header of a request that is encrypted or stays in the private network; no
message says it.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import socket
import ssl
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator, Sequence
from urllib.parse import urlsplit

import cv2
import numpy as np

from qwen3vl_ros.config import RemoteConfig
from qwen3vl_ros.engine.prompt.pixels import MAX_ASPECT
from qwen3vl_ros.types import EngineError, InvalidInput

_LEAST_SIDE = 28  # pixels of the longer side: one visual token where patches are smallest
_FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class CircuitBreaker:
    """Spares a server that fails from every frame's request. States: closed, open, half-open (one attempt is
    let through).

    Opens after FAILURES in a row for FIRST_PAUSE_S, doubled by each further failure up to LONGEST_PAUSE_S.
    One thread reports; any thread may read.
    """

    FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S = 3, 1.0, 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._open_until_s = 0.0
        self.failures = 0
        self.last_error = ""

    @property
    def state(self) -> str:
        if self.failures < self.FAILURES:
            return "closed"
        return "open" if self.wait_s > 0 else "half-open"

    @property
    def wait_s(self) -> float:
        """Seconds until an attempt is let through."""
        return max(self._open_until_s - self._clock(), 0.0)

    def succeeded(self) -> None:
        self.failures, self._open_until_s = 0, 0.0

    def failed(self, error: Exception) -> None:
        self.failures += 1
        self.last_error = str(error)
        if self.failures >= self.FAILURES:
            pause_s = self.FIRST_PAUSE_S * 2.0 ** min(self.failures - self.FAILURES, 30)
            self._open_until_s = self._clock() + min(pause_s, self.LONGEST_PAUSE_S)


def base_url(url: str) -> str:
    """`remote.url` without a slash at its end; /v1 where it has no path. Raises InvalidInput."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:  # brackets that do not close, characters that no address has
        parts = urlsplit("")
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if "@" in parts.netloc:  # first, and without the address: it holds a secret
        raise InvalidInput(
            "parameter remote.url holds credentials; put the key into an environment "
            "variable and name that in remote.api_key_env"
        )
    if not usable or parts.query or parts.fragment or parts.path.rstrip("/").endswith("/completions"):
        raise InvalidInput(f"parameter remote.url = {url!r} must be the base of an API such as http://host:8000/v1")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def api_key(variable: str, url: str) -> str:
    """The key in the environment variable, empty if none is named. Raises InvalidInput, never showing either:
    a key that was put into the parameter by mistake must not reach a log."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InvalidInput(
            "the environment variable that remote.api_key_env names is not set; it takes the "
            "variable's name, not the key"
        )
    if not (key.isascii() and key.isprintable()):
        raise InvalidInput("the API key in the variable that remote.api_key_env names holds characters that no key has")
    if url.startswith("http://") and not _is_private(urlsplit(url).hostname):
        raise InvalidInput(
            f"{url} is neither encrypted nor in a private network, so the API key would be "
            "readable on the way; use https, or leave remote.api_key_env empty"
        )
    return key


def tls_context(ca_file: str) -> ssl.SSLContext | bool:
    """For httpx: certificates are always verified, against ca_file alone where it is given. Raises
    InvalidInput."""
    if not ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidInput(f"parameter remote.ca_file = {ca_file!r} is no PEM file of certificates: {error}") from error


def image_folder(remote: RemoteConfig) -> Path | None:
    """Where images are put for the server; None for images in the request. Raises InvalidInput."""
    if remote.image_transport == "base64":
        return None
    folder = Path(remote.image_dir)
    if not (remote.image_dir and folder.is_absolute() and folder.is_dir() and os.access(folder, os.W_OK)):
        raise InvalidInput(
            f"parameter remote.image_dir = {remote.image_dir!r} must be an existing, writable "
            "directory with an absolute path that the server sees too; or use "
            "remote.image_transport base64"
        )
    return folder


@contextlib.contextmanager
def image_urls(images: Sequence[np.ndarray], folder: Path | None, max_pixels: int) -> Iterator[list[str]]:
    """URLs of the images (each HxWx3 uint8 RGB) as lossless PNG: data URLs, or files in `folder` while the
    context lasts.

    Images of more than max_pixels are made smaller first (0 = never); boxes in 0..1000 do not change by it.
    """
    written: list[Path] = []
    try:
        urls = []
        for rgb in images:
            png = _png(rgb, max_pixels)
            if folder is None:
                urls.append("data:image/png;base64," + base64.b64encode(png).decode())
                continue
            try:
                with tempfile.NamedTemporaryFile(dir=folder, prefix="qwen3vl_", suffix=".png", delete=False) as file:
                    written.append(Path(file.name))
                    file.write(png)
                    os.fchmod(file.fileno(), 0o644)  # the server may be another user
            except OSError as error:
                raise EngineError(f"cannot write an image for the server: {error}; check remote.image_dir") from error
            urls.append(written[-1].as_uri())
        yield urls
    finally:
        for path in written:
            path.unlink(missing_ok=True)


def _png(rgb: np.ndarray, max_pixels: int) -> bytes:
    right = isinstance(rgb, np.ndarray) and rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3
    if not (right and rgb.size):
        what = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise InvalidInput(f"an image must be HxWx3 uint8 RGB, got {what}")
    height, width = rgb.shape[:2]
    _refuse_useless(width, height, "")
    if 0 < max_pixels < height * width:
        factor = (max_pixels / (height * width)) ** 0.5
        size = max(int(width * factor), 1), max(int(height * factor), 1)
        _refuse_useless(*size, f", as generation.max_pixels = {max_pixels} makes one of {width}x{height},")
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), _FAST_PNG)[1].tobytes()


def _refuse_useless(width: int, height: int, how: str) -> None:
    """A server answers these with errors of its own, or with boxes of a picture that it stretched."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidInput(f"an image of {width}x{height}{how} is thinner than 1:{MAX_ASPECT:.0f}; crop it")
    if max(width, height) < _LEAST_SIDE:
        raise InvalidInput(
            f"an image of {width}x{height}{how} is smaller than the {_LEAST_SIDE}x{_LEAST_SIDE} that a model sees "
            "as one place; send a larger picture"
        )


def _is_private(host: str) -> bool:
    """Whether every address of the host is this machine or in a private network."""
    try:
        found = {info[4][0].partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(address) for address in found]
    addresses = [getattr(a, "ipv4_mapped", None) or a for a in addresses]
    return all(a.is_private or a.is_loopback for a in addresses)
