"""An object has one place, of the kind that was asked: key points, outlines and corners are no further objects."""

import pytest
from answers import A_PX, ASK, BOTH, BOX_3D, MUG, POINT, SIZE, boxes, outcome, said

from qwen3vl_ros.questions import Point
from qwen3vl_ros.types import View

BESIDE_A_BOX = {
    "key points": '"keypoints": [[150, 250], [250, 350]]',
    "key points in one list": '"keypoints": [150, 250, 250, 350]',
    "key points by name": '"keypoints": [{"name": "handle", "x": 150, "y": 250}, {"name": "rim", "x": 160, "y": 210}]',
    "two points": '"points": [[150, 250], [250, 350]]',
    "a polygon of two": '"polygon": [[150, 250], [250, 350]]',
    "a segmentation": '"segmentation": [150, 250, 250, 350]',
    "a mask with a box": '"mask": {"bbox_2d": [150, 250, 250, 350]}',
    "a centre": '"center": [200, 300], "centre": {"x": 200, "y": 300}',
    "the same in pixels": '"bbox": [64, 96, 192, 192]',
    "the same in shares": '"box": [0.1, 0.2, 0.3, 0.4]',
    "coordinates": '"coordinates": [[100, 200], [301, 400]]',
    "a 3D box": '"bbox_3d": [0, 0, 1, 1, 1, 1, 0, 0, 0]',
    "all at once": '"center": [200, 300], "keypoints": [[1, 2], [3, 4]], "polygon": [1, 2, 3, 4], "area": 40000',
}


@pytest.mark.parametrize("beside", BESIDE_A_BOX.values(), ids=BESIDE_A_BOX.keys())
@pytest.mark.parametrize("first", [True, False], ids=["box first", "box last"])
def test_a_box_is_one_box_whatever_stands_beside_it(beside, first):
    box = '"bbox_2d": [100, 200, 300, 400], "label": "mug"'
    text = f"[{{{box}, {beside}}}]" if first else f"[{{{beside}, {box}}}]"
    answer = BOTH.read(said(text), (View(SIZE),))
    assert (boxes(answer), answer.dropped) == ([A_PX], 0)


BESIDE_A_POINT = {
    "key points": '"keypoints": [[150, 250], [250, 350]]',
    "a box": '"bbox_2d": [100, 200, 300, 400]',
    "a box of corners": '"bbox_2d": [[100, 200], [300, 400]]',
    "a polygon": '"polygon": [[150, 250], [250, 350], [1, 2]]',
    "a centre": '"center": [201, 300]',
}


@pytest.mark.parametrize("beside", BESIDE_A_POINT.values(), ids=BESIDE_A_POINT.keys())
def test_a_point_is_one_point_whatever_stands_beside_it(beside):
    answer = POINT.read(said(f'[{{{beside}, "point_2d": [200, 300], "label": "mug"}}]'), (View(SIZE),))
    assert [p.xy_px for p in answer.points] == [(128.0, 144.0)] and answer.dropped == 0


def test_a_3d_box_beside_a_2d_box_is_one():
    text = '[{"bbox_2d": [1, 2, 3, 4], "bbox_3d": [0, 0, 1, 1, 1, 1, 0, 0, 0], "center": [0, 0, 1], "label": "car"}]'
    answer = BOX_3D.read(said(text), (View(SIZE),))
    assert (len(answer.boxes_3d), answer.dropped) == (1, 0)


def test_a_free_answer_gives_one_thing_for_a_box_with_its_point():
    answer = ASK.read(said('It is {"bbox_2d": [100,200,300,400], "point_2d": [1, 2], "label": "mug"}'), (View(SIZE),))
    assert (boxes(answer), answer.points) == ([A_PX], ())


def test_parts_with_labels_of_their_own_are_objects():
    text = (
        '[{"label": "mug", "bbox_2d": [100,200,300,400], "parts": [{"label": "handle", "bbox_2d": [280,250,300,350]}]}]'
    )
    assert outcome(BOTH, text) == ("objects", ["mug", "handle"])


# -- a box where a point was asked -------------------------------------------------------------------------------

BOX_FOR_A_POINT = {
    "box tokens": "<|box_start|>(100,200),(300,400)<|box_end|>",
    "reference and box tokens": "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>",
    "key of a box": '[{"bbox_2d": [100, 200, 300, 400], "label": "mug"}]',
    "corners in pairs": '[{"bbox_2d": [[100, 200], [300, 400]], "label": "mug"}]',
    "corners by name": '[{"x1": 100, "y1": 200, "x2": 300, "y2": 400, "label": "mug"}]',
    "corners in a box": '{"bbox": {"xmin": 100, "ymin": 200, "xmax": 300, "ymax": 400}, "label": "mug"}',
    "opposite corners": '{"top_left": [100, 200], "bottom_right": [300, 400], "label": "mug"}',
    "opposite corners in a box": '{"bbox": {"top_left": {"x": 100, "y": 200}, "bottom_right": {"x": 300, "y": 400}}}',
    "points of a box": '{"bbox": {"points": [[100, 200], [300, 400]]}, "label": "mug"}',
    "a rectangle's points": '{"points": [[100, 200], [300, 400]], "shape_type": "rectangle", "label": "mug"}',
    "corners in reverse": '[{"bbox_2d": [300, 400, 100, 200], "label": "mug"}]',
    "bare list": "[100, 200, 300, 400]",
    "element": "<bbox>100, 200, 300, 400</bbox>",
}


def test_a_thing_that_is_called_as_a_form_is_a_thing():
    for text in (
        '{"type": "circle", "point_2d": [100, 200]}',
        '{"shape": "circle", "label": "circle", "center": [100, 200]}',
    ):
        assert outcome(Point(("circle",)), text) == ("objects", ["circle"])


@pytest.mark.parametrize("text", BOX_FOR_A_POINT.values(), ids=BOX_FOR_A_POINT.keys())
def test_a_box_where_a_point_was_asked_is_its_centre_and_the_notes_say_so(text):
    answer = POINT.read(said(text), (View(SIZE),))
    assert [(p.label, p.xy_px) for p in answer.points] == [("mug", (128.0, 144.0))]
    assert any("centre" in note for note in answer.notes)


NO_POINT = {
    "pairs whose tokens were stripped": "mug(100,200),(300,400)",
    "older markup": "<ref>mug</ref><box>(100,200),(300,400)</box>",
    "corners in words": "The top-left corner is (100, 200) and the bottom-right one is (300, 400).",
    "from and to": "The mug reaches from (100, 200) to (300, 400).",
    "quad tokens": "<|quad_start|>(100,200),(300,200),(300,400),(100,400)<|quad_end|>",
    "four corners of a box": '[{"bbox_2d": [[100,200],[300,200],[300,400],[100,400]], "label": "mug"}]',
    "four numbers of a point": '[{"point_2d": [100, 200, 300, 400], "label": "mug"}]',
    "key points of one object": '[{"keypoints": [[150, 250], [250, 350]], "label": "mug"}]',
    "a polygon's points": '{"points": [[100, 200], [300, 400], [5, 6]], "shape_type": "polygon", "label": "mug"}',
    "GeoJSON's polygon": '{"geometry": {"type": "Polygon", "coordinates": [[[1,2],[3,2],[3,4],[1,4]]]}, "label": "mug"}',
    "a corner and a size": '[{"x": 100, "y": 200, "width": 50, "height": 60, "label": "mug"}]',
    "a corner and a size in a box": '[{"bbox": {"x": 100, "y": 200, "w": 50, "h": 60}, "label": "mug"}]',
}


@pytest.mark.parametrize("text", NO_POINT.values(), ids=NO_POINT.keys())
def test_what_may_be_corners_is_no_point(text):
    assert outcome(POINT, text) == ("malformed", [])


NO_BOX = {
    "a point": '[{"point_2d": [100, 200], "label": "mug"}]',
    "two points": '[{"points": [[100, 200], [300, 400]], "label": "mug"}]',
    "two points by name": '[{"points": [{"x": 100, "y": 200}, {"x": 300, "y": 400}], "label": "mug"}]',
    "key points": '[{"keypoints": [[150, 250], [250, 350]], "label": "mug"}]',
    "four numbers of points": '[{"point_2d": [100, 200, 300, 400], "label": "mug"}]',
    "point elements": '<points x1="100" y1="200" x2="300" y2="400" alt="mug">mug</points>',
    "a point in box tokens": "<|box_start|>(100,200)<|box_end|>",
    "a centre": '[{"center": [200, 300], "label": "mug"}]',
    "a polygon": '[{"polygon": [100, 200, 300, 400], "label": "mug"}]',
    "corner and size": '[{"bbox": [100, 200, 50, 60], "bbox_format": "xywh", "label": "mug"}]',
    "centre and size": '[{"box": [200, 300, 50, 60], "format": "cxcywh", "label": "mug"}]',
    "COCO's corner and size": '{"image_id": 1, "category_id": 1, "bbox": [100, 200, 350, 460], "label": "mug"}',
    "GeoJSON's polygon": '{"geometry": {"type": "Polygon", "coordinates": [[[1,2],[3,2],[3,4],[1,4]]]}, "label": "mug"}',
    "rows first": '[{"box_2d": [200, 300, 500, 600], "format": "yxyx", "label": "mug"}]',
}


@pytest.mark.parametrize("text", NO_BOX.values(), ids=NO_BOX.keys())
def test_what_is_no_box_is_no_box(text):
    assert outcome(MUG, text) == ("malformed", [])


# -- markup ------------------------------------------------------------------------------------------------------

MARKED_UP = {
    "box tokens": "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>",
    "box tokens with one list": "<|object_ref_start|>mug<|object_ref_end|><|box_start|>[100, 200, 300, 400]<|box_end|>",
    "box tokens in prose": "The <|object_ref_start|>mug<|object_ref_end|> is at <|box_start|>(100,200),(300,400)<|box_end|>.",
    "elements": "<object><label>mug</label><bbox_2d>[100, 200, 300, 400]</bbox_2d></object>",
    "elements in a row": "<label>mug</label><bbox>100,200,300,400</bbox>",
    "attributes": '<object label="mug" bbox_2d="[100, 200, 300, 400]"/>',
    "attributes and content": '<bbox label="mug">100 200 300 400</bbox>',
    "corners as attributes": '<box x1="100" y1="200" x2="300" y2="400">mug</box>',
    "VOC": "<annotation><object><name>mug</name><bndbox><xmin>100</xmin><ymin>200</ymin><xmax>300</xmax>"
    "<ymax>400</ymax></bndbox></object></annotation>",
    "reference and one list": "<ref>mug</ref><box>[[100, 200, 300, 400]]</box>",
    "in an answer element": "<answer><object><label>mug</label><bbox_2d>100,200,300,400</bbox_2d></object></answer>",
}


@pytest.mark.parametrize("text", MARKED_UP.values(), ids=MARKED_UP.keys())
def test_markup_is_read_as_the_same_in_json(text):
    answer = BOTH.read(said(text), (View(SIZE),))
    assert (boxes(answer), answer.dropped) == ([A_PX], 0)


def test_a_name_before_several_box_tokens_holds_for_all_of_them():
    text = (
        "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>"
        "<|box_start|>(500,600),(700,800)<|box_end|> and <|object_ref_start|>red cube<|object_ref_end|>"
        "<|box_start|>(1,2),(30,40)<|box_end|>"
    )
    assert outcome(BOTH, text) == ("objects", ["mug", "mug", "red cube"])


def test_box_tokens_that_are_cut_short_are_lost_alone():
    text = (
        "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|><|box_start|>(500,600),(70"
    )
    answer = BOTH.read(said(text, "length"), (View(SIZE),))
    assert (boxes(answer), answer.dropped) == ([A_PX], 1)


def test_point_elements_number_their_points():
    text = '<points x1="100" y1="200" x2="500" y2="1000" alt="mug">mug</points>'
    answer = POINT.read(said(text), (View(SIZE),))
    assert [(p.label, p.xy_px) for p in answer.points] == [("mug", (64.0, 96.0)), ("mug", (320.0, 480.0))]
