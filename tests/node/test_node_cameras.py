"""Several cameras, one engine: each has its own topics, services, prompt, ids, drafts and diagnostics, and its share."""

import pytest
from ros_graph import OK, RESULTS, STALE, FakeCamera, until

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.questions import Point
from qwen3vl_ros.srv import SetPrompt

NODE = "/qwen3vl/perception"
TWO = {"cameras": "[front, wrist]", "camera__front__targets": "[mug]", "camera__wrist__targets": "[bowl]"}
# What a node with one camera offers, and always did. A name that comes or goes breaks somebody's planner.
TRACKS = ("tracks_2d", "tracks_3d", "track_states")
TOPICS = [f"{NODE}/{name}" for name in (*RESULTS, *TRACKS, "text", "annotated_image", "markers")]
# Of the node as a whole, whatever its cameras are called.
ITS_OWN = [f"{NODE}/{name}" for name in ("transition_event", "readings", "events", "alarms", "plan")]
ACTIONS = "ask", "follow_instruction"
ITS_OWN += [f"{NODE}/{action}/_action/{name}" for action in ACTIONS for name in ("feedback", "status")]
OF_THE_PLANNER = [f"/qwen3vl/execute_step/_action/{name}" for name in ("feedback", "status")]
SERVICES = [
    *(f"{NODE}/{name}" for name in ("set_prompt", "enable", "detect", "track", "measure", "find_place")),
    *(f"{NODE}/{name}" for name in ("inspect", "set_watch", "alarm_command", "report")),
    *(f"{NODE}/{action}/_action/{name}" for action in ACTIONS for name in ("send_goal", "cancel_goal", "get_result")),
    *(f"{NODE}/{name}_parameters" for name in ("describe", "get", "list", "set")),
    *(f"{NODE}/{name}" for name in ("get_parameter_types", "set_parameters_atomically", "get_type_description")),
    *(f"{NODE}/{name}" for name in ("change_state", "get_state", "get_available_states")),
    *(f"{NODE}/{name}" for name in ("get_available_transitions", "get_transition_graph")),
]


@pytest.fixture(scope="module")
def running(shared_graph):
    """Two cameras at 30 Hz in the same frame, whose prompts differ, and everything said about them."""
    process = shared_graph.start_node("echo", **TWO)
    cameras = {name: FakeCamera(shared_graph, namespace=f"/qwen3vl/{name}").matched() for name in ("front", "wrist")}
    heard = {name: shared_graph.results(f"{NODE}/{name}") for name in cameras}
    for camera in cameras.values():
        camera.stream(30)
    yield shared_graph, process, cameras, heard
    for camera in cameras.values():
        camera.stop()


def answered(future):
    until(future.done, what="a reply")
    return future.result()


def first_of(said: list, prompt_id: int) -> int:
    """Where the answers to a prompt begin; 0 while there are none. Those to the one before may be heard later than that it is over."""
    return next((i for i, m in enumerate(said) if m.prompt_id == prompt_id), 0)


def of_camera(name):
    return lambda status, values: status.name == f"qwen3vl/perception: {name}"


def test_each_camera_is_asked_its_own_prompt_and_both_have_their_share(running):
    _, _, _, heard = running
    until(lambda: all(len(heard[name]["detections_2d"]) >= 30 for name in heard), what="thirty answers a camera")
    for name, target in (("front", "mug"), ("wrist", "bowl")):
        labels = {d.results[0].hypothesis.class_id for m in heard[name]["detections_2d"] for d in m.detections}
        assert labels == {target}
        assert all(f'"{target}"' in m.prompt for m in heard[name]["generation"])
        until(lambda: any(m.detections for m in heard[name]["detections_3d"]), what="3D boxes of both")
    prompts = {name: {m.prompt_id for m in heard[name]["generation"]} for name in heard}
    assert len(prompts["front"] | prompts["wrist"]) == 2, "a prompt's number is its alone"

    def fair() -> bool:
        """Of the next answers, as long as both cameras' pictures come: on a busy machine one of them may be late."""
        before = {name: len(heard[name]["generation"]) for name in heard}
        said = lambda: sorted(len(heard[name]["generation"]) - before[name] for name in heard)
        until(lambda: said()[1] >= 30, what="thirty answers")
        few, many = said()
        return many < 2 * few

    until(fair, what="shares of one engine, of which none is twice the other")


def test_an_id_belongs_to_one_object_of_one_camera(running):
    """The cube stands at the same place of both pictures."""
    _, _, _, heard = running
    ids = {
        name: {d.id for topic in ("detections_2d", "detections_3d") for m in heard[name][topic] for d in m.detections}
        for name in heard
    }
    assert len(ids["front"]) == len(ids["wrist"]) == 1 and ids["front"] != ids["wrist"]
    for name in heard:
        grasped = {g.detection_id for m in heard[name]["grasp_targets"] for g in m.targets}
        assert grasped <= ids[name]


def test_drafts_are_kept_by_camera_although_both_have_one_frame(running):
    graph, _, _, heard = running
    assert {m.header.frame_id for name in heard for m in heard[name]["generation"]} == {"camera_color_optical_frame"}
    status = graph.diagnosed(lambda s, v: "answers to front" in v and "answers to wrist" in v)
    assert len([v.key for v in status.values if v.key.startswith("answers to ")]) == 2


def test_a_new_prompt_of_one_camera_leaves_the_other_as_it_is(running):
    graph, _, _, heard = running
    kept = heard["wrist"]["generation"][-1].prompt_id
    response = graph.set_prompt("cube", prefix=f"{NODE}/front")
    assert response.success and response.prompt_id != kept
    first = until(lambda: first_of(heard["front"]["generation"], response.prompt_id), what="an answer to it")
    before = {name: len(heard[name]["generation"]) for name in heard}
    until(lambda: all(len(heard[name]["generation"]) > before[name] + 3 for name in heard))
    assert {m.prompt_id for m in heard["front"]["generation"][first:]} == {response.prompt_id}
    assert {m.prompt_id for m in heard["wrist"]["generation"][before["wrist"] :]} == {kept}
    assert graph.set_prompt("mug", prefix=f"{NODE}/front").success


def test_one_camera_s_stream_is_switched_off_alone(running):
    graph, _, _, heard = running
    assert graph.enable(False, f"{NODE}/wrist").success
    off_ns = graph.node.get_clock().now().nanoseconds
    since = lambda name: [m for m in heard[name]["generation"] if stamp_ns(m.header) > off_ns]
    until(lambda: len(since("front")) > 5)
    assert not since("wrist")
    assert graph.enable(True, f"{NODE}/wrist").success
    until(lambda: len(since("wrist")) > 2, what="its stream again")


@pytest.mark.parametrize(
    "service, camera, label",
    [
        ("detect", "front", "mug"),
        ("detect", "wrist", "bowl"),
        ("wrist/detect", "", "bowl"),
        ("front/detect", "front", "mug"),
    ],
)
def test_a_call_looks_through_the_camera_it_names(running, service, camera, label):
    graph = running[0]
    reply = answered(graph.detect(name=f"{NODE}/{service}", camera=camera))
    assert reply.success, reply.message
    assert [d.results[0].hypothesis.class_id for d in reply.detections_2d.detections] == [label]
    own = answered(graph.detect(["cup"], name=f"{NODE}/{service}", camera=camera))
    assert own.success and own.generation.prompt_id == 0 and reply.generation.prompt_id > 0


@pytest.mark.parametrize(
    "service, camera, words",
    [
        ("detect", "", "camera is empty and there are several; name one of front, wrist"),
        ("detect", "rear", "camera 'rear' is unknown; the cameras are front, wrist"),
        ("front/detect", "wrist", "this is that of 'front'"),
        ("front/detect", "rear", "camera 'rear' is unknown"),
    ],
)
def test_a_call_for_a_camera_that_cannot_be_meant_is_refused_by_name(running, service, camera, words):
    reply = answered(running[0].detect(["mug"], name=f"{NODE}/{service}", camera=camera))
    assert not reply.success and words in reply.message


def test_a_call_may_have_a_task_of_its_own(running):
    graph = running[0]
    reply = answered(graph.detect(name=f"{NODE}/front/detect", task="point"))
    assert reply.generation.prompt == Point(("mug",)).prompt() and reply.generation.prompt_id == 0
    refused = answered(graph.detect(name=f"{NODE}/front/detect", task="segment"))
    assert not refused.success and "task 'segment' is unknown; it must be one of detect, point" in refused.message


def test_diagnostics_tell_each_camera_and_the_node_apart(running):
    graph = running[0]
    front = graph.diagnosed(lambda s, v: of_camera("front")(s, v) and s.level == OK and int(v["answers"]) > 0)
    values = {v.key: v.value for v in front.values}
    assert "mug" in values["prompt"] and values["image topic"] == "/qwen3vl/front/image_raw, 1 publishers"
    assert "engine" not in values
    node = graph.diagnosed(lambda s, v: s.name == "qwen3vl/perception")
    values = {v.key: v.value for v in node.values}
    assert "scripted" in values["engine"] and values["state"] == "active" and "last image" not in values


def test_a_camera_unplugged_holds_up_nobody_and_comes_back(running):
    graph, _, cameras, heard = running
    cameras["wrist"].unplug()
    graph.diagnosed(lambda s, v: of_camera("wrist")(s, v) and s.level == STALE and "0 publishers" in v["image topic"])
    before = len(heard["front"]["generation"])
    until(lambda: len(heard["front"]["generation"]) > before + 20, what="the other camera's answers")
    graph.diagnosed(lambda s, v: of_camera("front")(s, v) and s.level == OK)
    graph.diagnosed(lambda s, v: s.name == "qwen3vl/perception" and s.level == OK)
    assert graph.set_parameter("camera.wrist.max_age", 0.5).successful
    gone = answered(graph.detect(name=f"{NODE}/wrist/detect", timeout=0.4))
    assert graph.set_parameter("camera.wrist.max_age", 30.0).successful
    assert not gone.success and "the newest is" in gone.message
    assert answered(graph.detect(name=f"{NODE}/front/detect")).success
    back = FakeCamera(graph, namespace="/qwen3vl/wrist").matched()
    cameras["wrist"].image, cameras["wrist"].depth, cameras["wrist"].info = back.image, back.depth, back.info
    after = len(heard["wrist"]["generation"])
    cameras["wrist"].stream(30)
    until(lambda: len(heard["wrist"]["generation"]) > after + 5, what="its answers again")
    graph.diagnosed(lambda s, v: of_camera("wrist")(s, v) and s.level == OK)


def test_ids_do_not_repeat_after_a_cleanup(running):
    """The last test of this node: it takes a new engine."""
    graph, _, _, heard = running
    until(lambda: all(heard[name]["detections_2d"] for name in heard))
    used = {d.id for name in heard for m in heard[name]["detections_2d"] for d in m.detections}
    for name in ("deactivate", "cleanup", "configure"):
        assert graph.transition(name)
    off_ns = graph.node.get_clock().now().nanoseconds
    since = lambda name: [m for m in heard[name]["detections_2d"] if stamp_ns(m.header) > off_ns]
    assert graph.transition("activate")
    until(lambda: all(len(since(name)) > 2 for name in heard), what="answers again")
    anew = {d.id for name in heard for m in since(name) for d in m.detections}
    assert len(anew) == 2 and not anew & used


# -- names ------------------------------------------------------------------------------------------


def offers(graph, topics, services, inputs):
    """Assert that these, and no others, are the names that the node `perception` has, once all are known here."""
    wanted, of_node = (sorted(topics), sorted(services), sorted(inputs)), ("perception", "/qwen3vl")
    until(lambda: of_node in graph.node.get_node_names_and_namespaces(), what="the node")

    def found():
        published = dict(graph.node.get_publisher_names_and_types_by_node(*of_node))
        subscribed = dict(graph.node.get_subscriber_names_and_types_by_node(*of_node))
        offered = dict(graph.node.get_service_names_and_types_by_node(*of_node))
        return (
            sorted(t for t in published if t.startswith(NODE)),
            sorted(offered),
            sorted(t for t in subscribed if not t.endswith(("/clock", "/parameter_events"))),
        )

    try:
        until(lambda: found() == wanted)
    except AssertionError:
        assert [set(had) ^ set(should) for had, should in zip(found(), wanted)] == [set(), set(), set()]
        raise


def test_one_camera_without_a_name_has_the_topics_and_services_it_always_had(graph):
    graph.start_node("instant", cameras="['']")
    offers(
        graph,
        [*TOPICS, *ITS_OWN],
        SERVICES,
        [f"/qwen3vl/{name}" for name in ("image_raw", "depth/image_raw", "camera_info")] + OF_THE_PLANNER,
    )
    reply = answered(graph.detect(["cube"], camera="front"))
    assert not reply.success and "this node's one camera has no name" in reply.message
    graph.diagnosed(lambda s, v: s.name == "qwen3vl/perception" and v["state"] == "active" and v["engine"])
    assert len(graph.messages["/diagnostics"][-1].status) == 1


def test_named_cameras_have_theirs_under_their_names(graph):
    graph.start_node("instant", cameras="[front]", camera__front__use_depth=False)
    own = [f"{NODE}/front/{name}" for name in ("set_prompt", "enable", "detect")]
    offers(
        graph,
        [*(t.replace(NODE, f"{NODE}/front") for t in TOPICS), *ITS_OWN],
        {*SERVICES, *own} - {f"{NODE}/set_prompt", f"{NODE}/enable"},
        ["/qwen3vl/front/image_raw", "/qwen3vl/front/camera_info", *OF_THE_PLANNER],  # without depth, as it was asked
    )
    camera = FakeCamera(graph, namespace="/qwen3vl/front", depth=False).matched().stream(20)
    assert answered(graph.detect(["cube"])).success, "the only camera need not be named"
    camera.stop()


def test_names_that_cannot_be_cameras_end_the_start_with_the_reason(graph):
    wrong = {
        "[front, front]": "names 'front' more than once",
        "[1st]": "'1st' is no name of a camera; a letter and then letters, digits and _",
        "['left wrist']": "'left wrist' is no name",
        "[front/left]": "'front/left' is no name",
        "[_hidden]": "'_hidden' is no name",
        "[detections_2d]": "'detections_2d' is the name of a topic or service of the node itself",
        "[detect]": "'detect' is the name",
        "[get_state]": "'get_state' is the name",
        "[depth]": "'depth' is the name",
        "[image_raw]": "'image_raw' is the name",
        "[perception]": "'perception' is the name",
    }
    started = [(graph.start_node("instant", ready=False, cameras=given), words) for given, words in wrong.items()]
    for process, words in started:
        assert process.status() == 2, process.log
        assert "parameter cameras" in process.log and words in process.log and "Traceback" not in process.log


# -- parameters -------------------------------------------------------------------------------------


def test_a_camera_s_own_parameters_go_before_the_common_ones_and_unknown_ones_are_told(graph):
    process = graph.start_node(
        "instant",
        cameras="[front, wrist]",
        max_age=0.4,
        camera__front__max_age=30,
        camera__rear__targets="[mug]",
        camera__wrist__max_agee=1.0,
        camera__wrist__model="other",
    )
    assert "parameter 'camera.rear.targets' is unknown and ignored: parameter cameras names front, wrist" in process.log
    assert "'camera.wrist.max_agee' is unknown and ignored; did you mean 'camera.wrist.max_age'" in process.log
    assert "'camera.wrist.model' is unknown and ignored" in process.log
    front, wrist = (FakeCamera(graph, namespace=f"/qwen3vl/{name}").matched() for name in ("front", "wrist"))
    heard = {name: graph.results(f"{NODE}/{name}") for name in ("front", "wrist")}
    stamps = []
    until(
        lambda: (
            stamps.append(front.shoot(age_s=1.0))
            or wrist.shoot(age_s=1.0)
            and [m for m in heard["front"]["generation"] if stamp_ns(m.header) in stamps]
        ),
        what="an answer to an image one second old, which the front camera may have",
    )
    graph.diagnosed(lambda s, v: of_camera("wrist")(s, v) and int(v["dropped: stale"]) > 0)
    assert not heard["wrist"]["generation"]
    assert graph.get_parameter("camera.front.max_age") == 30 and graph.get_parameter("camera.wrist.max_age") is None
    assert graph.set_parameter("camera.wrist.max_age", 20.0).successful
    until(lambda: wrist.shoot(age_s=1.0) and heard["wrist"]["generation"], what="an answer with its own limit")
    refused = graph.set_parameter("camera.wrist.max_age", -1.0)
    assert not refused.successful
    refused = graph.set_parameter("camera.wrist.task", "point")
    assert not refused.successful and "read on configure" in refused.reason
    refused = graph.set_parameter("cameras", ["front"])
    assert not refused.successful and "read-only parameter: cameras" in refused.reason


def test_a_camera_s_parameter_that_breaks_a_rule_is_named_in_full(graph):
    wrong = {
        "camera__front__image_qos": ("sometimes", "camera.front.image_qos"),
        "camera__front__max_age": (-1.0, "camera.front.max_age"),
        "camera__front__targets": (7, "camera.front.targets"),
    }
    started = [
        (graph.start_node("instant", ready=False, cameras="[front]", **{name: value}), words)
        for name, (value, words) in wrong.items()
    ]
    for process, words in started:
        assert process.status() == 2, process.log
        assert words in process.log and "Traceback" not in process.log


def test_targets_of_one_camera_that_no_prompt_can_hold_fail_on_configure_by_name(graph):
    process = graph.start_node(
        "instant", ready=False, cameras="[front, wrist]", camera__wrist__targets="""['a "quoted" mug']"""
    )
    assert process.status() == 1
    assert "configure failed: parameter camera.wrist.targets" in process.log and "Traceback" not in process.log


def test_services_of_cameras_answer_in_every_state(graph):
    graph.start_node("instant", ready=False, autostart=False, cameras="[front]")
    refused = graph.call(SetPrompt, f"{NODE}/front/set_prompt", SetPrompt.Request(targets=["mug"]))
    assert not refused.success and "unconfigured" in refused.message
    assert not graph.enable(True, f"{NODE}/front").success
    assert "unconfigured" in answered(graph.detect(name=f"{NODE}/front/detect")).message
