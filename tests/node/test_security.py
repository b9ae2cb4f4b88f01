"""Who may do what: the policy for SROS2 names what the running graph has, and a process that cannot be secured does not run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ros_graph import START_PATIENCE_S, FakeCamera, until

ROOT = Path(__file__).resolve().parents[2]
# Only with a simulated clock, compressed images, or objects whose ways are kept.
SOMETIMES = {"/clock", "/qwen3vl/image_raw/compressed", "/qwen3vl/perception/path/*"}
ON_DEMAND = {"tools": {"/qwen3vl/image_raw"}}  # once a picture is wanted
SIDES = {
    ("topics", "publish"): "get_publisher_names_and_types_by_node",
    ("topics", "subscribe"): "get_subscriber_names_and_types_by_node",
    ("services", "reply"): "get_service_names_and_types_by_node",
    ("services", "request"): "get_client_names_and_types_by_node",
}
NODES = ("qwen3vl_ros.node.perception.main", "qwen3vl_ros.node.sim_camera")
OURS = ("perception", "sim_camera", "sim_robot", "page", "tools")


def allowed(node: str) -> dict[tuple[str, str], set[str]]:
    """Full names by side of an enclave's one profile."""
    policy = ElementTree.parse(ROOT / "config" / "sros2_policy.xml")
    (profile,) = policy.iterfind(f".//enclave[@path='/qwen3vl/{node}']/profiles/profile")
    namespace = profile.get("ns")

    def full(name: str) -> str:
        if name.startswith("/"):
            return name
        return f"{namespace}/{node}{name[1:]}" if name.startswith("~") else f"{namespace}/{name}"

    def named(kind: str, side: str) -> set[str]:
        return {full(e.text) for group in profile.iterfind(f"{kind}[@{side}='ALLOW']") for e in group}

    names = {(kind, side): named(kind, side) for kind, side in SIDES}
    for role, told, asked in (("execute", "publish", "reply"), ("call", "subscribe", "request")):
        for action in named("actions", role):  # what an action is made of
            names["topics", told] |= {f"{action}/_action/{part}" for part in ("feedback", "status")}
            names["services", asked] |= {
                f"{action}/_action/{part}" for part in ("send_goal", "cancel_goal", "get_result")
            }
    return names


@pytest.fixture(scope="module")
def both(shared_graph):
    shared_graph.start_node("instant", enabled=False, target_frame="world")
    for module in (NODES[1], "qwen3vl_ros.node.sim_robot"):
        shared_graph.start("-m", module, "--ros-args", "-r", "__ns:=/qwen3vl")
    shared_graph.start("-m", "qwen3vl_ros.web", "--port", "0")
    shared_graph.start("-m", "qwen3vl_ros.cli", "mcp", "--http", "--port", "0")
    FakeCamera(shared_graph).matched()
    here = shared_graph.node
    for node in OURS:
        until(lambda node=node: (node, "/qwen3vl") in here.get_node_names_and_namespaces(), START_PATIENCE_S, node)
    return here


@pytest.mark.parametrize("node", OURS)
@pytest.mark.parametrize("side", SIDES, ids=" ".join)
def test_the_policy_names_what_a_node_has_and_nothing_else(both, node, side):
    def there():
        return {name for name, _ in getattr(both, SIDES[side])(node, "/qwen3vl")}

    wanted = allowed(node)[side]
    missed = wanted - SOMETIMES - ON_DEMAND.get(node, set())
    until(lambda: there() >= missed, what=f"{sorted(wanted)}; there is {sorted(there())}")
    assert there() - wanted == set(), "of the node, and not in the policy"


def test_what_others_may_use_is_offered_by_somebody():
    ours = [allowed(node) for node in OURS]
    offered = {side: set().union(*(o[side] for o in ours)) for side in SIDES}
    used = [allowed(node) for node in ("planner", "operator", "page", "tools")]
    for of in used:
        assert of["topics", "subscribe"] <= offered["topics", "publish"] | SOMETIMES
        assert of["services", "request"] <= offered["services", "reply"]
    asked = used[0]["services", "request"] | used[1]["services", "request"]
    assert {n for n in offered["services", "reply"] if "/perception/" in n} == asked, "a service nobody may call"


def test_the_planner_changes_neither_parameters_nor_states():
    may = allowed("planner")["services", "request"]
    assert not [name for name in may if "parameter" in name or name.endswith("change_state")]


@pytest.mark.parametrize("module", NODES)
@pytest.mark.parametrize("domain", ["233", "-1", "kitchen", "1.5"])
def test_a_domain_that_is_none_is_one_line(module, domain):
    done = start(module, ROS_DOMAIN_ID=domain)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"ROS_DOMAIN_ID '{domain}' is no ROS domain" in line and "0 to 232" in line


@pytest.mark.parametrize("module", NODES)
@pytest.mark.parametrize(
    "environment, arguments, words",
    [
        ({"ROS_LOG_DIR": "/proc/nowhere"}, [], "log directory"),
        ({}, ["--ros-args", "-p", "nonsense"], "parameter override rule"),
        ({}, ["--ros-args", "--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
        ({}, ["--ros-args", "-r", "__ns:=a b"], "remap rule"),
    ],
    ids=["log folder", "parameter", "parameter file", "remapping"],
)
def test_what_ros_refuses_at_the_start_is_one_line_of_ours(module, environment, arguments, words):
    done = start(module, *arguments, ROS_DOMAIN_ID="101", **environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("module", NODES)
def test_a_process_without_keys_does_not_run_where_security_is_enforced(module, tmp_path):
    (tmp_path / "enclaves").mkdir()
    secured = {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(tmp_path),
    }
    done = start(module, ROS_DOMAIN_ID="101", **secured)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "security" in done.stderr.splitlines()[-1].lower()


def start(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ | environment)
