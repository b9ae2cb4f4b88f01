"""What a server says of the models it serves, and whether they answer yet.

Source: `GET /models` of OpenAI's API; `GET /health`, which vLLM, SGLang and llama.cpp answer at the server's root, with 503 while
a model is loading.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from qwen3vl_ros.engine.remote.faults import Again, Faults
from qwen3vl_ros.types import EngineError, ModelNotFound


async def served_models(client: httpx.AsyncClient, faults: Faults) -> dict[str, str]:
    """The names that the server lists, and whose software says so ("vllm"; "" where it does not). Raises Again, EngineError; ModelNotFound where it has no such list."""
    response = await _get(client, faults, "models")
    if response.status_code != 200:
        raise faults.refusal(response, response.content, False)
    try:
        listed = response.json()["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        raise EngineError(
            f"{response.url} answered {response.content[:80]!r}, which lists no "
            "models; check that remote.url is the base of an OpenAI-compatible API"
        )
    named = [m for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)]
    return {m["id"]: m["owned_by"] if isinstance(m.get("owned_by"), str) else "" for m in named}


async def loaded(client: httpx.AsyncClient, faults: Faults) -> None:
    """Raises Again while the server says that its model is loading; a server that says nothing of it is ready."""
    root = urlsplit(str(client.base_url))
    response = await _get(client, faults, f"{root.scheme}://{root.netloc}/health")
    if response.status_code == 503:
        raise faults.refusal(response, response.content, False)


async def tried(client: httpx.AsyncClient, faults: Faults, model: str, names: str) -> None:
    """Asks for one token of a model that is not listed. Raises ModelNotFound where the server does not know it."""
    body = {"model": model, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1, "temperature": 0}
    try:
        response = await client.post("chat/completions", json=body)
    except httpx.HTTPError as error:
        raise faults.lost(error, 0, safe=True) from error
    if response.status_code == 200:
        return
    refusal = faults.refusal(response, response.content, False)
    if isinstance(refusal, Again):
        raise refusal
    raise ModelNotFound(f"{client.base_url} does not serve remote.model = {model!r}; it serves: {names} ({refusal})")


async def _get(client: httpx.AsyncClient, faults: Faults, path: str) -> httpx.Response:
    try:
        return await client.get(path)
    except httpx.HTTPError as error:
        raise faults.lost(error, 0, safe=True) from error
