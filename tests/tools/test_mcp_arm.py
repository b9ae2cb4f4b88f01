"""An agent moves the simulated arm: plan, a person's yes, follow and cancel, over the protocol and DDS, with the embedded model."""

from __future__ import annotations

import re

import anyio
import numpy as np
import pytest

pytest.importorskip("mcp")
from mcp import Client
from mcp_types import ElicitResult
from workbench import Workbench


@pytest.fixture(scope="module")
def bench(shared_graph):
    return Workbench(shared_graph)


@pytest.fixture(scope="module")
def address(bench):
    server = bench.graph.start("-m", "qwen3vl_ros.cli", "mcp", "--http", "--port", "0", name="mcp")
    return re.search(r"http://127\.0\.0\.1:\d+/mcp", server.logged("tools at http"))[0]


def test_what_a_person_approved_is_done_what_is_cancelled_stops_and_what_was_done_is_refused(bench, address):
    shown, steps = [], []

    async def says_yes(context, params):
        shown.append(params.message)
        return ElicitResult(action="accept", content={"approve": True})

    async def on_progress(progress, total, message):
        steps.append(message)

    async def use():
        async with Client(address, elicitation_callback=says_yes, read_timeout_seconds=600) as client:
            await client.list_tools()  # results are held to their schemas
            call = lambda name, arguments, **more: client.call_tool(name, arguments, **more)
            place = await call("find_place", {"object": "red box", "relation": "next to", "reference": "blue bowl"})
            planned = await call("plan", {"instruction": "put the red box next to the blue bowl"})
            chosen = {name: planned.structured_content[name] for name in ("plan_id", "revision")}
            done = await call("follow", chosen, progress_callback=on_progress)
            again = await call("follow", chosen)
            second = await call("plan", {"instruction": "put the yellow ball into the blue bowl"})
            chosen = {name: second.structured_content[name] for name in ("plan_id", "revision")}
            steps.clear()
            ended = []

            async def follow():
                ended.append(await call("follow", chosen, progress_callback=on_progress))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                with anyio.fail_after(280):
                    while not (ended or any("executing" in step for step in steps)):
                        await anyio.sleep(0.05)
                stopped = await call("cancel", {})
            return place, planned, done, again, ended[0], stopped

    # A real arm's grip may slip, and says so, or its motion ends before it is told to: what is held to is what an agent is told of it.
    for _ in range(5):
        bench.reset()
        shown.clear(), steps.clear()
        before = bench.where("red box")
        place, planned, done, again, ended, stopped = anyio.run(use)
        if not done.is_error and stopped.structured_content["cancelled"] and "CANCELLED" in str(ended.content):
            break
        assert not done.is_error or "was not carried out" in done.content[0].text
    assert place.structured_content["places"][0]["feasible"] and place.structured_content["frame"] == "world"
    assert [step["action"] for step in planned.structured_content["steps"]] == ["pick", "place"]
    assert "red box" in shown[0] and "blue bowl" in shown[0] and len(shown) == 2
    assert not done.is_error, done.content
    assert {step["status"] for step in done.structured_content["steps"]} == {"DONE"}
    after, bowl = bench.where("red box"), bench.where("blue bowl")
    assert np.linalg.norm(np.subtract(after, before)) > 0.03
    assert 0.05 < np.linalg.norm(np.subtract(after, bowl)[:2]) < 0.25
    assert again.is_error and "make one with plan" in again.content[0].text, "its revision has risen"
    assert stopped.structured_content["cancelled"] == 1
    assert ended.is_error and "CANCELLED" in ended.content[0].text
