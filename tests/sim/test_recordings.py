"""Recordings with every fault that recorders, disks and cameras make: what is whole is played as it was, what is not is
left out and said.
"""

import shutil

import bags
import cv2
import numpy as np
import pytest
from bags import (
    COMPRESSED,
    IMAGE,
    START_NS,
    STEP_NS,
    camera,
    compressed,
    depth_mm,
    image,
    info,
    number_of,
    picture,
    png,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3vl_ros.sim.replay import ReplaySource
from qwen3vl_ros.types import InvalidInput

MS = 1_000_000


def play(path, **how):
    """(what was recorded, what was said)."""
    said = []
    return list(ReplaySource(path, lost=said.append, **how).recorded()), said


def depth_number(recorded) -> int | None:
    return None if recorded.depth is None else round(float(recorded.depth.metres[0, 0]) * 1000) - 500


# -- which depth belongs to which picture -------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lost=st.sets(st.integers(0, 11), max_size=8),
    late_ms=st.integers(-15, 15),
    step_ms=st.sampled_from([33, 50, 100]),
    logged_ms=st.lists(st.integers(0, 30), min_size=24, max_size=24),
)
def test_a_picture_has_its_own_depth_or_none(tmp_path_factory, lost, late_ms, step_ms, logged_ms):
    """Whatever was lost, and in whatever order the recorder got it."""
    messages = [
        (topic, logged_ns + logged_ms[i % 24] * MS, message)
        for i, (topic, logged_ns, message) in enumerate(
            camera(12, lost_depth=lost, depth_late_ns=late_ms * MS, step_ns=step_ms * MS)
        )
    ]
    path = bags.write(tmp_path_factory.mktemp("bag") / "b", sorted(messages, key=lambda entry: entry[1]))
    played, said = play(path)
    assert [number_of(r.frame.rgb) for r in played] == list(range(12)) and not said
    for i, recorded in enumerate(played):
        assert depth_number(recorded) == (None if i in lost else i)
        assert (recorded.frame.depth_m is None) == (i in lost)
        if recorded.depth:
            assert recorded.depth.stamp_ns - recorded.frame.stamp_ns == late_ms * MS


def test_a_slower_depth_camera_fills_no_gaps(tmp_path):
    path = bags.write(tmp_path / "b", camera(20, lost_depth=range(1, 20, 2)))
    assert [depth_number(r) for r in play(path)[0]] == [i if i % 2 == 0 else None for i in range(20)]


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(depth_frame="depth_optical"), "in frame 'depth_optical' but the image in 'optical'"),
        (dict(depth_frame="/optical/depth"), "not registered"),
        (dict(depth_late_ns=30 * MS, step_ns=200 * MS), ""),
    ],
)
def test_depth_that_the_node_would_refuse_keeps_what_it_is_refused_for(tmp_path, change, words):
    played, said = play(bags.write(tmp_path / "b", camera(4, **change)))
    assert len(played) == 4 and len(said) == bool(words) and words in "".join(said)
    for i, recorded in enumerate(played):
        assert recorded.frame.depth_m is None and depth_number(recorded) == i
        assert recorded.depth.frame_id == change.get("depth_frame", "optical").lstrip("/")


def test_depth_of_another_size_keeps_its_size(tmp_path):
    messages = [
        (topic, ns, image(ns, depth_mm(i // 3)[::2, ::2], "16UC1") if "depth" in topic else message)
        for i, (topic, ns, message) in enumerate(camera(3))
    ]
    played, said = play(bags.write(tmp_path / "b", messages))
    assert [r.depth.metres.shape for r in played] == [(60, 80)] * 3 and all(r.frame.depth_m is None for r in played)
    assert "80x60 but the image is 160x120: it is not registered" in said[0] and len(said) == 1


def test_a_frame_has_no_leading_slash_and_matches_without(tmp_path):
    messages = [(t, ns, image(ns, depth_mm(0), "16UC1", "/optical") if "depth" in t else m) for t, ns, m in camera(2)]
    assert all(r.frame.depth_m is not None for r in play(bags.write(tmp_path / "b", messages))[0])


# -- how depth and calibrations are written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic, kind, before",
    [
        ("/depth/image_raw/compressed", "16UC1; png compressed ", b""),
        ("/depth/image_raw/compressed", "16UC1; png compressed", b""),
        ("/depth/image_raw/compressedDepth", "16UC1; compressedDepth", bytes(12)),
        ("/depth/image_raw/compressedDepth", "16UC1; compressedDepth png", bytes(12)),
    ],
)
def test_compressed_depth_is_depth(tmp_path, topic, kind, before):
    messages = [
        (topic, ns, compressed(ns, before + png(depth_mm(i // 3)), kind)) if "depth" in t else (t, ns, message)
        for i, (t, ns, message) in enumerate(camera(4))
    ]
    played, said = play(bags.write(tmp_path / "b", messages))
    assert [depth_number(r) for r in played] == [0, 1, 2, 3] and not said
    assert all(np.allclose(r.frame.depth_m, depth_mm(i) / 1000, atol=1e-6) for i, r in enumerate(played))


def test_copies_of_one_stream_are_one_stream_and_the_whole_one_is_taken(tmp_path):
    messages = []
    for i, (topic, ns, message) in enumerate(camera(3)):
        messages.append((topic, ns, message))
        if topic == "/color/image_raw":
            messages.append((topic + "/compressed", ns, compressed(ns, png(picture(99)), "rgb8; jpeg compressed bgr8")))
        if topic == "/depth/image_raw":
            for transport, before in (("compressed", b""), ("compressedDepth", bytes(12))):
                data = before + png(depth_mm(99))
                messages.append((f"{topic}/{transport}", ns, compressed(ns, data, f"16UC1; {transport} png")))
    played, _ = play(bags.write(tmp_path / "b", messages))
    assert [(number_of(r.frame.rgb), depth_number(r)) for r in played] == [(0, 0), (1, 1), (2, 2)]
    only_copies = [entry for entry in messages if "compressed" in entry[0] or "info" in entry[0]]
    played, _ = play(bags.write(tmp_path / "c", only_copies))
    assert [(number_of(r.frame.rgb), depth_number(r)) for r in played] == [(99, 99)] * 3


@pytest.mark.parametrize(
    "calibration, words",
    [
        (lambda ns: info(ns, K=np.zeros((3, 3))), "not calibrated"),
        (lambda ns: info(ns, K=[[300, 0, 1e9], [0, 300, 60], [0, 0, 1]]), "no lens"),
        (lambda ns: info(ns, d=[0.1] * 4, model="odd"), "'odd'"),
        (lambda ns: info(ns, size_px=(640, 640)), "another shape"),
        (None, ""),
    ],
)
def test_an_uncalibrated_camera_plays_as_2d(tmp_path, calibration, words):
    played, said = play(bags.write(tmp_path / "b", camera(4, calibration=calibration)))
    assert len(played) == 4 and all(r.frame.K is None and r.depth is not None for r in played)
    assert words in "".join(said) and len(said) == bool(words)
    assert len(list(ReplaySource(tmp_path / "b"))) == 4, "without anybody to tell, too"


@pytest.mark.parametrize("rectification, expected", [("auto", 280.0), ("rectified", 280.0), ("raw", 300.0)])
def test_rectified_recordings_have_the_projection(tmp_path, rectification, expected):
    P = np.array(((280.0, 0, 80, 0), (0, 280, 60, 0), (0, 0, 1, 0)))

    def messages():
        for topic, ns, message in camera(2, calibration=lambda ns: info(ns, d=[0.1] * 5, P=P)):
            yield topic.replace("image_raw", "image_rect") if "color" in topic else topic, ns, message

    for recorded in play(bags.write(tmp_path / "b", messages()), rectification=rectification)[0]:
        assert recorded.frame.K[0, 0] == expected
        assert (recorded.frame.distortion is None) == (expected == 280)


def test_pictures_without_a_stamp_have_the_recorders(tmp_path):
    messages = [
        (topic, ns, {IMAGE: lambda: image(0, picture(0), "rgb8")}.get(message.__msgtype__, lambda: message)())
        for topic, ns, message in camera(4)
        if "depth" not in topic
    ]
    played, _ = play(bags.write(tmp_path / "b", messages))
    assert [r.frame.stamp_ns for r in played] == [START_NS + i * STEP_NS for i in range(4)]


# -- damage -------------------------------------------------------------------------------------------------------

STORAGES = [("mcap", ""), ("mcap", "storage"), ("mcap", "file"), ("sqlite3", ""), ("sqlite3", "message")]
REPAIRS = {"mcap": "mcap recover", "sqlite3": ".recover | sqlite3"}


def noisy(count, seed=0):
    """A recording that no compression makes small, so that it has many chunks and pages."""
    noise = np.random.default_rng(seed)
    for topic, ns, message in camera(count):
        if topic == "/color/image_raw":
            pixels = noise.integers(0, 256, (120, 160, 3), np.uint8)
            pixels[0, 0] = (ns - START_NS) // STEP_NS
            message = image(ns, pixels, "rgb8")
        yield topic, ns, message


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    return {
        (plugin, compress): bags.write(root / f"{plugin}_{compress}", noisy(80), plugin, compress)
        for plugin, compress in STORAGES
    }


def copy_of(path, to, edit):
    shutil.copytree(path, to)
    file = bags.storage(to)
    file.write_bytes(edit(file.read_bytes()))
    return to


@pytest.mark.parametrize("storage", STORAGES, ids="-".join)
@pytest.mark.parametrize("share", [0.35, 0.6, 0.85, 0.999])
def test_a_file_cut_off_plays_until_there_and_says_how_to_repair_it(tmp_path, recordings, storage, share):
    whole = [r.frame for r in play(recordings[storage])[0]]
    path = copy_of(recordings[storage], tmp_path / "cut", lambda data: data[: int(share * len(data))])
    for start in (path, bags.storage(path)):
        played, said = play(start)
        assert 0.5 * share * len(whole) - 12 < len(played) <= len(whole)
        for before, after in zip(whole, (r.frame for r in played)):
            assert before.stamp_ns == after.stamp_ns and np.array_equal(before.rgb, after.rgb)
        assert REPAIRS[storage[0]] in " ".join(said) and ("pieces left out" in said[-1] or len(played) == len(whole))
        with pytest.raises(InvalidInput, match="damaged or cut off"):
            list(ReplaySource(start))


@pytest.mark.parametrize(
    "storage", [s for s in STORAGES if s[1] in ("", "message")][1:] + [("mcap", "storage")], ids="-".join
)
def test_a_damaged_stretch_is_skipped_and_what_is_behind_it_is_played(tmp_path, recordings, storage):
    def scratched(data):
        at = len(data) // 2
        return data[:at] + np.random.default_rng(3).bytes(9000) + data[at + 9000 :]

    path = copy_of(recordings[storage], tmp_path / "scratched", scratched)
    played, said = play(path)
    numbers = [number_of(r.frame.rgb) for r in played]
    assert numbers == sorted(set(numbers)) and 40 <= len(numbers) and numbers[0] == 0 and numbers[-1] >= 75
    assert REPAIRS[storage[0]] in " ".join(said) and "pieces left out" in said[-1]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STORAGES), st.floats(0, 1), st.binary(min_size=1, max_size=40), st.floats(0, 1))
def test_no_damage_is_an_exception_of_others(recordings, tmp_path_factory, storage, where, bytes_there, length):
    def damaged(data):
        at = int(where * len(data))
        return (data[:at] + bytes_there + data[at + len(bytes_there) :])[: max(10, int(len(data) * (0.5 + length)))]

    path = copy_of(recordings[storage], tmp_path_factory.mktemp("d") / "bag", damaged)
    for lost in ([].append, None):
        try:
            for frame in ReplaySource(path, lost=lost):
                assert frame.rgb.shape == (120, 160, 3)
        except InvalidInput as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("plugin", ["mcap", "sqlite3"])
def test_a_recording_that_was_killed_has_no_metadata_and_plays(tmp_path, plugin):
    path = bags.write(tmp_path / "b", camera(5), plugin)
    (path / "metadata.yaml").unlink()
    played, said = play(path)
    assert len(played) == 5 and f"ros2 bag reindex {path}" in said[0]


def test_a_recording_in_several_files_plays_in_their_order(tmp_path):
    path = bags.write(tmp_path / "b", camera(5))
    (path / "metadata.yaml").unlink()
    later = [(t, ns + 10 * STEP_NS, m) for t, ns, m in camera(3)]
    bags.storage(path).rename(path / "b_2.mcap")
    shutil.copy(bags.storage(bags.write(tmp_path / "c", later)), path / "b_10.mcap")
    assert [number_of(r.frame.rgb) for r in play(path)[0]] == [0, 1, 2, 3, 4, 0, 1, 2]


BAD_PICTURES = {
    "an unknown encoding": lambda ns: image(ns, picture(2), "32SC4"),
    "a short buffer": lambda ns: image(ns, picture(2)[:50], "rgb8").__class__(
        bags.header(ns), 120, 160, "rgb8", 0, 480, np.zeros(99, np.uint8)
    ),
    "no pixels": lambda ns: image(ns, np.zeros((0, 0, 3), np.uint8), "rgb8"),
}
BAD_COMPRESSED = {
    "half a JPEG": cv2.imencode(".jpg", picture(2))[1].tobytes()[:-300],
    "half a PNG": png(picture(2))[:-300],
    "nothing": b"",
    "text": b"<html>",
}


@pytest.mark.parametrize("bad", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_one_bad_picture_is_left_out_and_counted(tmp_path, bad):
    messages = [
        (topic, ns, bad(ns) if topic == "/color/image_raw" and i == 6 else message)
        for i, (topic, ns, message) in enumerate(camera(5))
    ]
    played, said = play(bags.write(tmp_path / "b", messages))
    assert [number_of(r.frame.rgb) for r in played] == [0, 1, 3, 4] == [depth_number(r) for r in played]
    assert "cannot be read" in said[0] and "pieces left out: 1" in said[1]
    with pytest.raises(InvalidInput):
        list(ReplaySource(tmp_path / "b"))


@pytest.mark.parametrize("data", BAD_COMPRESSED.values(), ids=BAD_COMPRESSED)
def test_one_bad_compressed_picture_is_left_out_and_counted(tmp_path, data):
    messages = []
    for topic, ns, message in camera(5):
        i = (ns - START_NS) // STEP_NS
        if topic == "/color/image_raw":
            message = compressed(ns, data if i == 2 else png(picture(i)), "rgb8; png compressed bgr8")
            assert message.__msgtype__ == COMPRESSED
        messages.append((topic, ns, message))
    played, said = play(bags.write(tmp_path / "b", messages))
    assert [number_of(r.frame.rgb) for r in played] == [0, 1, 3, 4] and "pieces left out: 1" in said[-1]


def folder(root, count=4):
    (root / "depth").mkdir(parents=True)
    for i in range(count):
        (root / f"{i}.png").write_bytes(png(picture(i)))
        (root / "depth" / f"{i}.png").write_bytes(png(depth_mm(i)))
    (root / "camera_info.yaml").write_text(
        f"width: 160\nheight: 120\nk: {bags.K.ravel().tolist()}\nd: [0.1, 0, 0, 0, 0]\ndistortion_model: plumb_bob\n"
    )
    return root


@pytest.mark.parametrize(
    "spoil, pictures, with_depth, words",
    [
        (lambda r: (r / "1.png").write_bytes(b"no picture"), [0, 2, 3], [0, 2, 3], "1.png cannot be read"),
        (lambda r: (r / "1.png").write_bytes(png(picture(1))[:-90]), [0, 2, 3], [0, 2, 3], "cut short"),
        (lambda r: (r / "1.png").write_bytes(bytes(5000)), [0, 2, 3], [0, 2, 3], "1.png cannot be read"),
        (lambda r: (r / "depth" / "2.png").unlink(), [0, 1, 2, 3], [0, 1, 3], "2.png has no depth"),
        (lambda r: (r / "depth" / "2.png").write_bytes(b""), [0, 1, 2, 3], [0, 1, 3], "2.png has no depth"),
        (lambda r: (r / "depth" / "2.png").write_bytes(png(depth_mm(2)[::2])), [0, 1, 2, 3], [0, 1, 3], "registered"),
        (lambda r: (r / "depth" / "2.png").write_bytes(png(picture(2))), [0, 1, 2, 3], [0, 1, 3], "16-bit grey"),
    ],
)  # fmt: skip
def test_a_folder_with_one_bad_file_plays_the_others(tmp_path, spoil, pictures, with_depth, words):
    root = folder(tmp_path / "r")
    spoil(root)
    played, said = play(root)
    assert [number_of(r.frame.rgb) for r in played] == pictures
    assert [number_of(r.frame.rgb) for r in played if r.frame.depth_m is not None] == with_depth
    assert words in said[0] and "pieces left out: 1" in said[1] and len(said) == 2


@pytest.mark.parametrize("text", ["", "[", "width: 160\nheight: 120\nk: [0, 0, 0, 0, 0, 0, 0, 0, 0]", "k: 3"])
def test_a_folder_with_a_bad_calibration_plays_as_2d(tmp_path, text):
    root = folder(tmp_path / "r")
    (root / "camera_info.yaml").write_text(text)
    played, said = play(root)
    assert len(played) == 4 and all(r.frame.K is None for r in played) and "camera_info.yaml" in said[0]


def test_of_many_losses_the_first_are_said_and_all_are_counted_in_every_round_once(tmp_path):
    root = folder(tmp_path / "r", 30)
    for i in range(1, 30, 2):
        (root / f"{i}.png").write_bytes(b"no picture")
    said = []
    source = iter(ReplaySource(root, loop=True, lost=said.append))
    assert len([next(source) for _ in range(61)]) == 61
    assert len(said) == 6 and "pieces left out: 15" in said[-1]


def test_a_video_cut_off_plays_until_there_and_says_so(tmp_path):
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (160, 120))
    for i in range(60):
        writer.write(picture(i))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    played, said = play(path)
    assert 10 < len(played) < 40 and f"of 60 pictures could be read; `ffmpeg -i {path}" in said[0]


def test_a_video_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (160, 120))
    writer.write(picture(0))
    writer.release()
    with pytest.raises(InvalidInput, match="160x120 pixels, more than the 19199"):
        list(ReplaySource(path, max_pixels=19_199))
