"""Pictures in the demo's recording: small, and read by the readers that people have."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sensor_msgs.msg")
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from qwen3vl_ros.convert import depth_of, rgb_of
from qwen3vl_ros.demo.compression import DEPTH_PERIOD_NS, Compression, suffix_of
from qwen3vl_ros.demo.observer import message_definition
from qwen3vl_ros.demo.recording import Recording
from qwen3vl_ros.node import messages
from qwen3vl_ros.node.client import encoded
from qwen3vl_ros.sim.stream import SimStream

SECOND = 1_000_000_000


def image(pixels, stamp=SECOND):
    return messages.image(messages.header_of(stamp, "camera"), pixels)


def test_depth_comes_back_to_the_millimetre_and_what_was_not_measured_stays_so():
    depth = np.linspace(0.1, 9, 480 * 640, dtype=np.float32).reshape(480, 640)
    depth[:10], depth[10:20], depth[20:30], depth[30:40], depth[40:50] = np.nan, np.inf, 0, -1, 70
    small = Compression().compressed(image(depth))
    back = depth_of(small)
    assert small.format == "16UC1; compressedDepth png" and small.header.frame_id == "camera"
    assert np.all(back[:50] == 0) and np.abs(back[50:] - depth[50:]).max() <= 0.00051
    exact = (np.arange(480 * 640).reshape(480, 640) % 60000).astype(np.uint16)
    assert np.array_equal(depth_of(Compression().compressed(image(exact))), depth_of(image(exact)))


def test_one_depth_a_second_is_kept_also_after_the_clock_went_back():
    compression, depth = Compression(), np.ones((48, 64), np.float32)
    at = (0, 0.3, 0.999, 1.0, 1.4, 2.1, 0.5, 0.9, 1.5)
    kept = [t for t in at if compression.compressed(image(depth, int((100 + t) * SECOND)))]
    assert kept == [0, 1.0, 2.1, 0.5, 1.5] and DEPTH_PERIOD_NS == SECOND


def test_half_a_minute_of_the_fastest_demo_stays_below_25_mb_and_reads_back(tmp_path):
    """A tenth of it: 24 answers in three seconds, their depth as noisy as the demo's."""
    with SimStream(seed=3, motion="all_moving", scene_every_s=1.0, depth_noise=True) as stream:
        frames = [stream.frame_at(t)[0] for t in np.arange(0, 3, 0.5)]
    colour, annotated, depth = Compression(), Compression(), Compression()
    path = tmp_path / "demo.mcap"
    with Recording(path, message_definition) as recording:
        for topic in ("/image/compressed", "/annotated/compressed", "/depth/compressedDepth"):
            recording.open_topic(topic, "sensor_msgs/msg/CompressedImage")
        for i in range(24):
            frame, stamp = frames[i % len(frames)], SECOND + i * SECOND // 8
            for topic, kept, pixels in (
                ("/image", colour, frame.rgb),
                ("/annotated", annotated, frame.rgb),
                ("/depth", depth, frame.depth_m),
            ):
                small = kept.compressed(image(pixels, stamp))
                if small is not None:
                    recording.write(topic + suffix_of(topic == "/depth"), encoded(small), stamp)
    assert recording.counts["/depth/compressedDepth"] == 3
    assert path.stat().st_size * 10 < 22_000_000, "a tenth of the demo's half minute"
    with open(path, "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert {c.compression for c in reader.get_summary().chunk_indexes} == {"zstd"}
        for _, channel, _, message in reader.iter_decoded_messages():
            shape = depth_of(message).shape if "Depth" in channel.topic else rgb_of(message).shape
            assert shape[:2] == (480, 640)
