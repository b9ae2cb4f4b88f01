"""Every transition, in every order that happens in the field, and every way to end: status 0 when asked, loud
when broken.
"""

import signal

import pytest
from ros_graph import ERROR, FakeCamera, until

from qwen3vl_ros.srv import Detect, SetPrompt

IDLE = {"autostart": False}


def test_transitions_go_round_and_round_and_leak_nothing(graph):
    process = graph.start_node("quick_for_mugs", ready=False, **IDLE)
    camera = FakeCamera(graph)
    assert graph.state() == "unconfigured"
    sizes = []
    for _ in range(8):
        assert graph.transition("configure") and graph.state() == "inactive"
        until(lambda: camera.image.get_subscription_count() == 0, what="inactive means not subscribed")
        for _ in range(2):
            assert graph.transition("activate") and graph.state() == "active"
            camera.matched()
            camera.shoot()
            assert graph.transition("deactivate"), "also while the engine answers"
        assert graph.transition("cleanup") and graph.state() == "unconfigured"
        sizes.append((process.threads(), process.rss_mib()))
    until(lambda: camera.image.get_subscription_count() == 0, what="no subscription left")
    (threads_2nd, rss_2nd), (threads_last, rss_last) = sizes[1], sizes[-1]
    assert threads_last == threads_2nd
    assert rss_last - rss_2nd < 12, f"memory grows: {sizes}"


def test_the_log_has_one_line_about_the_engine_and_diagnostics_the_reasons(graph):
    log = graph.start_node("instant").log
    (line,) = [line.partition("]: ")[2] for line in log.splitlines() if "the engine: " in line]
    assert line == "the engine: scripted, instant, cpu, none" and len(line) <= 120
    graph.diagnosed(lambda s, v: v["engine"].endswith("(a test)"), ever=True)


def test_deactivating_stops_the_answer_in_flight_and_publishes_nothing_more(graph):
    graph.start_node("quick_for_mugs")  # which takes ten minutes for a cube, whoever waits for it
    camera = FakeCamera(graph).matched()
    heard = graph.results()
    graph.diagnosed(lambda s, v: v["state"] == "active")
    camera.stream(20)
    graph.diagnosed(lambda s, v: int(v["images"]) > 3)
    assert graph.transition("deactivate")
    camera.stop()
    assert graph.transition("activate")
    assert not heard["generation"]


def test_a_model_that_cannot_be_loaded_fails_with_the_reason_and_can_be_tried_again(graph):
    process = graph.start_node("second_try", ready=False, **IDLE)
    assert graph.transition("configure") is False
    assert graph.state() == "unconfigured"
    assert "the network is down" in process.log
    graph.diagnosed(lambda s, v: s.level == ERROR and "the network is down" in s.message, what="ERROR with the reason")
    assert graph.transition("configure") and graph.state() == "inactive"
    graph.diagnosed(lambda s, v: s.level != ERROR)


def test_autostart_without_a_model_ends_with_an_error_and_the_reason(graph):
    process = graph.start_node("no_model", "-p", "model:=/nowhere", ready=False)
    assert process.status() == 1
    assert "model '/nowhere' is not a directory" in process.log


def test_a_defect_in_the_loader_ends_the_process_with_a_traceback(graph):
    process = graph.start_node("broken_load", ready=False)
    assert process.status() == 1
    assert "a defect in the loader" in process.log and "Traceback" in process.log


def test_a_defect_in_the_engine_ends_the_process_and_answers_whoever_waits(graph):
    process = graph.start_node("broken", enabled=False)
    camera = FakeCamera(graph).matched()
    waiting = graph.detect()
    until(lambda: camera.shoot() and waiting.done(), what="an answer to the call")
    assert not waiting.result().success and "ZeroDivisionError" in waiting.result().message
    assert process.status() == 1
    assert "FATAL" in process.log and "Traceback" in process.log and "a defect in the engine" in process.log


def test_the_node_answers_while_it_loads_and_says_that_it_does(graph, tmp_path):
    process = graph.start_node("gated_load", ready=False, env={"GATE": str(tmp_path / "gate")})
    process.logged("loading the model")
    graph.diagnosed(lambda s, v: v["state"] == "configuring", what="the state in /diagnostics", ever=True)
    response = graph.call(Detect, "/qwen3vl/perception/detect")
    assert not response.success and "configuring" in response.message
    (tmp_path / "gate").touch()
    process.logged("active: ")


def test_services_of_a_node_that_is_not_configured_say_so(graph):
    graph.start_node("instant", ready=False, **IDLE)
    detect = graph.call(Detect, "/qwen3vl/perception/detect")
    assert not detect.success and "unconfigured" in detect.message
    prompt = graph.call(SetPrompt, "/qwen3vl/perception/set_prompt", SetPrompt.Request(targets=["mug"]))
    assert not prompt.success and "unconfigured" in prompt.message
    assert not graph.enable(True).success


def test_the_shutdown_transition_ends_the_process_in_peace(graph):
    process = graph.start_node("quick_for_mugs")
    camera = FakeCamera(graph).matched().stream(20)
    graph.diagnosed(lambda s, v: int(v["images"]) > 3)
    assert graph.transition("active_shutdown")
    camera.stop()
    assert process.status() == 0


@pytest.mark.parametrize(
    "engine, state, number",
    [
        ("instant", "unconfigured", signal.SIGINT),
        ("instant", "inactive", signal.SIGINT),
        ("instant", "active", signal.SIGINT),
        ("instant", "active", signal.SIGTERM),
        ("quick_for_mugs", "generating", signal.SIGINT),
        ("quick_for_mugs", "generating", signal.SIGTERM),
        ("slow_load", "configuring", signal.SIGINT),
        ("slow_load", "configuring", signal.SIGTERM),
    ],
)
def test_a_signal_ends_every_state_with_status_0(graph, engine, state, number):
    autostart = state in ("active", "generating", "configuring")
    process = graph.start_node(engine, ready=state in ("active", "generating"), autostart=autostart)
    if state == "inactive":
        assert graph.transition("configure")
    elif state == "unconfigured":
        assert graph.state() == "unconfigured"
    elif state == "configuring":
        process.logged("loading the model")
    elif state == "generating":
        camera = FakeCamera(graph).matched()
        camera.shoot()
        waiting = graph.detect()
        camera.stream(20)
        graph.diagnosed(lambda s, v: int(v["images"]) > 3)
    process.interrupt(number)
    assert process.status() == 0, process.log
    if state == "generating":
        until(waiting.done, what="the pending call's answer")
        assert not waiting.result().success and "stopping" in waiting.result().message
        camera.stop()
    assert "Traceback" not in process.log and "terminate called" not in process.log


def test_a_signal_while_a_manager_configures_ends_with_status_0(graph):
    process = graph.start_node("slow_load", ready=False, **IDLE)
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    graph.ask(
        ChangeState,
        "/qwen3vl/perception/change_state",
        ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)),
    )
    process.logged("loading the model")
    process.interrupt()
    assert process.status() == 0, process.log


def test_a_signal_while_the_engine_does_not_listen_ends_with_status_0(graph):
    process = graph.start_node("deaf")
    camera = FakeCamera(graph).matched().stream(20)
    graph.diagnosed(lambda s, v: int(v["images"]) > 3)
    process.interrupt()
    assert process.status() == 0, process.log
    camera.stop()


# -- parameters ------------------------------------------------------------------------------------


def test_a_wrong_parameter_at_start_ends_with_status_2_and_its_name(graph):
    wrong = {
        "max_age:=-1.0": "max_age",
        "image_qos:=sometimes": "'sometimes' is not one of sensor_data",
        "gripper.max_width:=wide": "gripper.max_width",
        "targets:=7": "targets",
        "generation.max_new_tokens:=0": "generation.max_new_tokens",
    }
    started = [(graph.start_node("instant", "-p", given, ready=False), words) for given, words in wrong.items()]
    for process, words in started:
        assert process.status() == 2, process.log
        assert words in process.log and "Traceback" not in process.log


def test_targets_no_prompt_can_hold_fail_on_configure_with_the_reason(graph):
    process = graph.start_node("instant", ready=False, targets="""['a "quoted" mug']""")
    assert process.status() == 1
    assert "configure failed: parameter targets" in process.log and "Traceback" not in process.log


def test_parameters_are_declared_changed_and_refused_with_reasons(graph):
    process = graph.start_node("instant", "-p", "max_agee:=1.0", max_age=1)
    assert "'max_agee' is unknown and ignored; did you mean 'max_age'" in process.log
    assert graph.get_parameter("gripper.max_width") == pytest.approx(0.085)
    assert graph.set_parameter("max_age", 0.7).successful
    assert graph.set_parameter("max_age", 2).successful, "a whole number of seconds is a number"
    refused = graph.set_parameter("max_age", 1e9)
    assert not refused.successful and "max_age" in refused.reason or "range" in refused.reason
    refused = graph.set_parameter("model", "other")
    assert not refused.successful and "configure" in refused.reason
    assert graph.get_parameter("model") == ""
    assert graph.transition("deactivate") and graph.transition("cleanup")
    assert graph.set_parameter("targets", ["bowl"]).successful
    assert graph.transition("configure") and graph.transition("activate")
    graph.diagnosed(lambda s, v: "bowl" in v["prompt"], what="the new target after a configure")


def test_namespace_and_remaps_move_every_topic(graph):
    process = graph.start_node(
        "instant", "-r", "__ns:=/robot1", "-r", "image_raw:=/cam/color", "-r", "camera_info:=/cam/info"
    )
    assert "active: /cam/color" in process.log
    camera = FakeCamera(graph, namespace="/robot1", depth=True)
    from sensor_msgs.msg import CameraInfo, Image

    camera.image = graph.node.create_publisher(Image, "/cam/color", 5)
    camera.info = graph.node.create_publisher(CameraInfo, "/cam/info", 5)
    camera.matched()
    heard = graph.results("/robot1/perception")
    until(lambda: camera.shoot() and heard["detections_3d"], what="answers under the namespace")
    until(lambda: camera.shoot() and [m for m in heard["detections_3d"] if m.detections], what="3D under the namespace")
