"""~/path/<id> over DDS: where a thing went, for whoever comes late too, and in the report."""

import json
import re
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import OPTICAL, FakeCamera, until
from test_node_tracks import NODE, START_PX, TRACKS, begun, cube_at, slide
from vision_msgs.msg import Detection2DArray

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.srv import Report

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_the_way_of_a_thing_is_told_with_its_times_and_reported(graph, tmp_path):
    kept = tmp_path / "kept"
    paths = {"inspection.paths": "[cube]", "inspection.directory": str(kept)}
    graph.start_node("watchful", image_qos="reliable", max_age=60.0, **paths)
    camera = FakeCamera(graph, qos=50).matched()
    heard = {name: graph.listen(f"{NODE}/{name}", kind, 200) for name, kind in TRACKS.items()}
    heard["detections_2d"] = graph.listen(f"{NODE}/detections_2d", Detection2DArray)
    begun(camera, heard)

    def topics():
        return [n for n, _ in graph.node.get_topic_names_and_types() if n.startswith(f"{NODE}/path/")]

    rest = dict(zip(("rgb", "depth_m"), cube_at(START_PX)))
    (topic,) = until(lambda: camera.shoot(apart_s=0.1, **rest) and topics(), what="a path, of the thing at rest")
    began_ns = graph.node.get_clock().now().nanoseconds
    for _ in range(3):  # back to the left it jumps, which is no way that it went
        slide(camera, heard["track_states"], 60)
        if len(graph.messages[topic]) == 0:
            late = graph.listen(topic, PathMessage, LATCHED)
    ids = {t.id for m in heard["track_states"] for t in m.tracks}
    assert topic.removeprefix(f"{NODE}/path/id_") in ids
    path = until(lambda: late and len(late[-1].poses) >= 3 and late[-1], what="a path of three places")
    assert path.header.frame_id == OPTICAL
    places = np.array([[p.pose.position.x, p.pose.position.y, p.pose.position.z] for p in path.poses])
    stamps = [stamp_ns(p.header) for p in path.poses]
    assert stamps == sorted(stamps) and stamps[-1] > began_ns
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert np.all(steps >= 0.02) and np.ptp(places[:, 0]) > 0.03, "it went to the right"
    assert np.ptp(places[:, 1]) < 0.02 and np.ptp(places[:, 2]) < 0.05

    report = graph.call(Report, f"{NODE}/report")
    assert report.success, report.message
    folder = Path(urlparse(report.uri).path)
    assert re.search(r"cube", (folder / "report.md").read_text())
    (told,) = json.loads((folder / "report.json").read_text())["paths"]
    assert (told["label"], told["frame_id"]) == ("cube", OPTICAL) and told["length_m"] > 0.03
    assert len(told["poses"]) >= len(path.poses) and all(
        re.match(r"\d{4}-\d\d-\d\dT", p["stamp"]) for p in told["poses"]
    )
