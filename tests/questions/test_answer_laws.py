"""What must never happen whatever a model writes, and what always does."""

import json

import numpy as np
from answers import ASK, BOTH, BOX_3D, MUG, POINT, SIZE, TEXT, said
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3vl_ros.questions.parsing import tolerant_json
from qwen3vl_ros.types import MalformedAnswer, View

SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
REQUESTS = st.sampled_from([BOTH, MUG, POINT, BOX_3D, TEXT, ASK])
PIECES = st.sampled_from(
    [
        '{"bbox_2d": ',
        "[1, 2, 3, 4]",
        "[100, 200, 300, 400]",
        '"label"',
        ": ",
        '"mug"',
        "}",
        "{",
        "[",
        "]",
        ",",
        '"',
        "'",
        "\\",
        "\n",
        "```json",
        "```",
        "NaN",
        "-1e999",
        "1e-320",
        "999999999999",
        "[[",
        "]]",
        '\\"',
        "null",
        '{"point_2d": [5, 6], "label": "x"}',
        '{"bbox_3d": [0,0,1,1,1,1,0,0,0]}',
        "<think>",
        "</think>",
        "\u0000",
        "“",
        "，",
        "é",
        "\ud800",
        "：",
        "\u2028",
        " ",
        "!",
        "0.5",
        "1_0",
        "٣",
        "²",
        "There are no mugs",
        "x1",
        ":",
        "=",
    ]
)


def check(text, request, size, finish="stop"):
    """The law: an answer inside the image with sane numbers, or MalformedAnswer."""
    try:
        answer = request.read(said(text, finish), (View(size),))
    except MalformedAnswer as error:
        assert error.text == text and str(error)
        return None
    for d in answer.detections:
        x1, y1, x2, y2 = d.box_xyxy_px
        assert 0.0 <= x1 < x2 <= size[0] and 0.0 <= y1 < y2 <= size[1] and 0.0 <= d.score <= 1.0
        d.label.encode()
    for p in answer.points:
        assert 0.0 <= p.xy_px[0] <= size[0] and 0.0 <= p.xy_px[1] <= size[1] and 0.0 <= p.score <= 1.0
    for b in answer.boxes_3d:
        assert np.all(np.isfinite(b.center_m)) and np.all(b.size_m > 0) and np.all(np.isfinite(b.rotation))
    assert answer.dropped >= 0 and answer.repeats >= 0
    return answer


@SETTINGS
@given(
    text=st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=80).map("".join)),
    request_=REQUESTS,
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    finish=st.sampled_from(["stop", "length", "repeat"]),
)
def test_no_text_crashes_or_leaves_the_image(text, request_, size, finish):
    check(text, request_, size, finish)


@settings(SETTINGS, max_examples=60)
@given(
    unit=st.lists(PIECES, min_size=1, max_size=6).map("".join),
    head=st.lists(PIECES, max_size=4).map("".join),
    tail=st.lists(PIECES, max_size=4).map("".join),
    request_=REQUESTS,
)
def test_no_text_of_20000_characters_hangs(unit, head, tail, request_):
    # Linear takes 0.1 s, quadratic a minute: some of these would not end within the time that a test has.
    check((head + unit * (20_000 // len(unit)))[: 20_000 - len(tail)] + tail, request_, SIZE)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**6), 10**6),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=12),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=20,
)


@SETTINGS
@given(value=JSON, indent=st.sampled_from([None, 1]), ascii_=st.booleans())
def test_valid_json_is_read_as_json_loads_reads_it(value, indent, ascii_):
    objects = []

    def walk(node):
        if isinstance(node, dict):
            objects.append({k: v for k, v in node.items()})
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(inner)

    walk(value)
    found = tolerant_json.read(json.dumps(value, indent=indent, ensure_ascii=ascii_)).objects
    assert all(o.closed and o.braced for o in found)
    assert len(found) == len(objects)
    for ours, theirs in zip(found, objects):
        assert [f.key for f in ours.fields] == list(theirs)
        for f, wanted in zip(ours.fields, theirs.values()):
            if isinstance(wanted, str):
                assert f.text == wanted
            elif isinstance(wanted, (int, float)) and not isinstance(wanted, bool):
                assert [n.value for n in f.groups[0]] == [wanted]
            elif isinstance(wanted, dict):
                assert f.kind == "open"


LABELS = st.text(alphabet="abcdefgh redcube'杯子{}[]:,()\"\\", min_size=1, max_size=16).filter(lambda s: s.strip())


def apart(objects):
    """Whether no two of one name lie within two thousandths of each other: those are the same thing said again."""
    corners = [(" ".join(label.lower().split()), (x, y, x + w, y + h)) for (x, y), (w, h), label in objects]
    return not any(
        a[0] == b[0] and max(abs(p - q) for p, q in zip(a[1], b[1])) <= 2
        for i, a in enumerate(corners)
        for b in corners[:i]
    )


OBJECT = st.tuples(st.tuples(*[st.integers(0, 480)] * 2), st.tuples(*[st.integers(8, 500)] * 2), LABELS)


def answer_text(objects, fence):
    lines = [
        json.dumps({"bbox_2d": [x, y, x + w, y + h], "label": label}, ensure_ascii=False)
        for (x, y), (w, h), label in objects
    ]
    text = "[\n" + ",\n".join("\t" + line for line in lines) + "\n]"
    return (f"```json\n{text}\n```" if fence else text), lines


@SETTINGS
@given(
    objects=st.lists(OBJECT, min_size=1, max_size=8, unique=True).filter(apart),
    fence=st.booleans(),
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
)
def test_a_valid_answer_is_read_exactly(objects, fence, size):
    text, _ = answer_text(objects, fence)
    answer = check(text, BOTH, size)
    wanted = list(dict.fromkeys((" ".join(label.split()), (x, y, x + w, y + h)) for (x, y), (w, h), label in objects))
    got = [
        (d.label, tuple(round(v / size[i % 2] * 1000, 3) for i, v in enumerate(d.box_xyxy_px)))
        for d in answer.detections
    ]
    assert answer.dropped == 0
    assert [(label.lower(), box) for label, box in got] == [(label.lower(), box) for label, box in wanted]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(
    objects=st.lists(
        st.tuples(
            st.tuples(*[st.integers(0, 480)] * 2),
            st.tuples(*[st.integers(8, 500)] * 2),
            st.sampled_from(["mug", "red cube", "杯子", "child's mug"]),
        ),
        min_size=4,
        max_size=8,
        unique_by=lambda o: o[0],
    ).filter(apart),
    fence=st.booleans(),
    data=st.data(),
)
def test_one_broken_character_costs_at_most_the_object_it_stands_in(objects, fence, data):
    text, lines = answer_text(objects, fence)
    at = data.draw(st.integers(0, len(text) - 1))
    how = data.draw(st.sampled_from(["delete", "insert", "swap", "replace"]))
    char = data.draw(st.sampled_from("{}[]:,\"'0 9a\n\\`-."))
    broken = {
        "delete": text[:at] + text[at + 1 :],
        "insert": text[:at] + char + text[at:],
        "swap": text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :],
        "replace": text[:at] + char + text[at + 1 :],
    }[how]
    spans = [(text.index(line), text.index(line) + len(line)) for line in lines]
    touched = [i for i, (start, end) in enumerate(spans) if start <= at + (how == "swap") and at < end]
    answer = check(broken, BOTH, SIZE)
    got = {
        (d.label, tuple(round(v / SIZE[i % 2] * 1000, 3) for i, v in enumerate(d.box_xyxy_px)))
        for d in answer.detections
    }
    for i, ((x, y), (w, h), label) in enumerate(objects):
        if i not in touched:
            assert (label, (x, y, x + w, y + h)) in got, (how, char, broken)
    whole = {(label, (x, y, x + w, y + h)) for (x, y), (w, h), label in objects}
    assert len(got - whole) <= len(touched)  # nothing is invented beside the broken object
    assert len(got) + answer.dropped >= len(objects) - 1
