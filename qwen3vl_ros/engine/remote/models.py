"""What a server says of the models it serves, and whether they answer yet.

Source: `GET /models` of OpenAI's API; `GET /health`, which vLLM, SGLang and llama.cpp answer at the server's root, with 503 while
a model is loading.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import httpx

from qwen3vl_ros.engine.remote.faults import Again, Faults, beginning
from qwen3vl_ros.types import EngineError, ModelNotFound

_MOST_BYTES = 1 << 23  # a list of thousands of models is a tenth of it


async def served_models(client: httpx.AsyncClient, faults: Faults) -> dict[str, str]:
    """The names that the server lists, and whose software says so ("vllm"; "" where it does not). Raises Again, EngineError; ModelNotFound where it has no such list."""
    response, raw = await _asked(client, faults, "GET", "models")
    if response.status_code != 200:
        raise faults.refusal(response, raw, False)
    try:
        listed = json.loads(raw)["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        raise EngineError(
            f"{response.url} answered {raw[:80]!r}, which lists no "
            "models; check that remote.url is the base of an OpenAI-compatible API"
        )
    named = [m for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)]
    return {m["id"]: m["owned_by"] if isinstance(m.get("owned_by"), str) else "" for m in named}


async def loaded(client: httpx.AsyncClient, faults: Faults) -> None:
    """Raises Again while the server says that its model is loading; a server that says nothing of it is ready."""
    root = urlsplit(str(client.base_url))
    response, raw = await _asked(client, faults, "GET", f"{root.scheme}://{root.netloc}/health")
    if response.status_code == 503:
        raise faults.refusal(response, raw, False)


async def tried(client: httpx.AsyncClient, faults: Faults, model: str, names: str) -> None:
    """Asks for one token of a model that is not listed. Raises ModelNotFound where the server does not know it."""
    body = {"model": model, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1, "temperature": 0}
    response, raw = await _asked(client, faults, "POST", "chat/completions", json=body)
    if response.status_code == 200:
        return
    refusal = faults.refusal(response, raw, False)
    if isinstance(refusal, Again):
        raise refusal
    raise ModelNotFound(f"{client.base_url} does not serve remote.model = {model!r}; it serves: {names} ({refusal})")


async def _asked(
    client: httpx.AsyncClient, faults: Faults, method: str, path: str, **more: Any
) -> tuple[httpx.Response, bytes]:
    """The response, and as much of its body as is worth reading."""
    try:
        async with client.stream(method, path, **more) as response:
            return response, await beginning(response, _MOST_BYTES)
    except httpx.HTTPError as error:
        raise faults.lost(error, 0, safe=True) from error
