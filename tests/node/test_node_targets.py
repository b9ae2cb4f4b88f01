"""An explicit empty list of targets is a pause wherever it is given: ROS has no type for it, and the defaults are not meant."""

import pytest
from ros_graph import FakeCamera, until


def paused(graph) -> bool:
    """Whether the stream is silent about images while a call is answered."""
    camera = FakeCamera(graph).matched().stream(20)
    heard = graph.results()
    graph.diagnosed(lambda s, v: "(nothing)" in v["prompt"], what="no prompt")
    call = graph.detect(["mug"])
    until(call.done, what="the call's answer")
    camera.stop()
    return call.result().success and not heard["generation"]


@pytest.mark.parametrize("given", ["[]", "['']"])
def test_given_on_the_command_line(graph, given):
    process = graph.start_node("instant", targets=given)
    assert "looking for nothing" in process.log and paused(graph)


@pytest.mark.parametrize("text", ["[]", '[""]'])
def test_given_in_a_parameter_file(graph, tmp_path, text):
    (tmp_path / "mine.yaml").write_text(f"/**:\n  ros__parameters:\n    targets: {text}\n")
    process = graph.start_node("instant", "--params-file", str(tmp_path / "mine.yaml"), targets=None)
    assert "looking for nothing" in process.log and paused(graph)


def test_given_while_the_node_is_unconfigured(graph):
    graph.start_node("instant")
    assert graph.transition("deactivate") and graph.transition("cleanup")
    assert graph.set_parameter("targets", []).successful
    assert graph.transition("configure") and graph.transition("activate")
    assert paused(graph)
    assert graph.set_prompt("cube").success
    camera = FakeCamera(graph).matched()
    assert camera.answered(graph.results())["detections_2d"].detections, "and a prompt ends it"


def test_nothing_given_is_no_pause(graph):
    assert "looking for cube, ball, cylinder, mug, bowl" in graph.start_node("instant", targets=None).log
