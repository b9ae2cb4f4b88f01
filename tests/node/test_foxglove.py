"""The Foxglove layout against what the node and its camera publish."""

import foxglove
from ros_graph import START_PATIENCE_S, FakeCamera, until


def test_the_layout_shows_what_the_node_publishes(graph):
    graph.start_node("instant")
    camera = FakeCamera(graph)
    shown = foxglove.shown(in_demo=False)
    assert {panel.split("!")[0] for panel, _, _ in shown} == {"Image", "3D", "Plot", "RawMessages", "DiagnosticSummary"}
    for panel, topic, field in shown:
        types = until(
            lambda: [i.topic_type for i in graph.node.get_publishers_info_by_topic(topic)],
            START_PATIENCE_S,
            f"a publisher of {topic}, which {panel} shows",
        )
        foxglove.check(panel, types[0], field)
    camera.unplug()
