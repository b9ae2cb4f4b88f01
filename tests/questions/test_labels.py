"""What objects are called: lists pair up, languages are chosen between, and nothing is guessed."""

import pytest
from answers import A_PX, B_PX, BOTH, MUG, SIZE, TEXT, boxes, outcome, said

from qwen3vl_ros.questions import Detect, Detect3D, Point
from qwen3vl_ros.types import View

TWO = "[100, 200, 300, 400], [500, 600, 700, 800]"
PARALLEL = {
    "as found": f'[{{"bbox_2d": [{TWO}], "label": ["mug", "red cube"]}}]',
    "plural keys": f'{{"bboxes": [{TWO}], "labels": ["mug", "red cube"], "scores": [0.9, 0.8]}}',
    "labels first": f'{{"classes": ["mug", "red cube"], "boxes": [{TWO}]}}',
    "in a wrapper": f'{{"<OD>": {{"bboxes": [{TWO}], "labels": ["mug", "red cube"]}}}}',
    "numbers in strings": '{"bbox_2d": [["100","200","300","400"],["500","600","700","800"]], "label": ["mug","red cube"]}',
    "lists in strings": '{"bbox_2d": ["[100,200,300,400]", "[500,600,700,800]"], "label": ["mug", "red cube"]}',
    "lists in one string": '{"bbox_2d": "[[100,200,300,400],[500,600,700,800]]", "label": ["mug", "red cube"]}',
    "boxes by corner names": '{"boxes": [{"x1":100,"y1":200,"x2":300,"y2":400},{"x1":500,"y1":600,"x2":700,"y2":800}],'
    ' "labels": ["mug", "red cube"]}',
    "boxes in objects": '{"labels": ["mug", "red cube"], "instances": [{"bbox_2d": [100,200,300,400]},'
    ' {"bbox_2d": [500,600,700,800]}]}',
    "labels in objects": f'{{"boxes": [{TWO}], "labels": [{{"name": "mug"}}, {{"name": "red cube"}}]}}',
    "labels in one string": f'[{{"bbox_2d": [{TWO}], "label": "mug, red cube"}}]',
    "in two languages": f'{{"bbox_2d": [{TWO}], "label_zh": ["杯子", "红色方块"], "label_en": ["mug", "red cube"]}}',
    "pairs in rows": '[["mug", [100, 200, 300, 400]], ["red cube", [500, 600, 700, 800]]]',
    "rows": '[["mug", 100, 200, 300, 400], ["red cube", 500, 600, 700, 800]]',
    "rows, label last": '[[100, 200, 300, 400, "mug"], [500, 600, 700, 800, "red cube"]]',
}


@pytest.mark.parametrize("text", PARALLEL.values(), ids=PARALLEL.keys())
def test_parallel_lists_pair_up(text):
    answer = BOTH.read(said(text), (View(SIZE),))
    assert (boxes(answer), answer.dropped) == ([A_PX, B_PX], 0)


def test_parallel_lists_of_points_3d_boxes_and_lines_pair_up():
    cars = (
        '{"bbox_3d": [[0,0,1,1,1,1,0,0,0], [1,0,2,1,1,1,0,0,0]], "label": ["car", "van"]}',
        '{"points": [[100, 200], [500, 600]], "labels": ["car", "van"]}',
    )
    assert outcome(Detect3D(("car", "van")), cars[0]) == ("objects", ["car", "van"])
    assert outcome(Point(("car", "van")), cars[1]) == ("objects", ["car", "van"])
    assert outcome(TEXT, f'{{"bbox_2d": [{TWO}], "text_content": ["EXIT", "12 V"]}}') == ("objects", ["EXIT", "12 V"])


ALONE = {  # what remains of two where one is not there or cannot be read, and how many were lost
    "an empty list": ('{"bbox_2d": [[], [500,600,700,800]], "label": ["mug", "red cube"]}', 0),
    "a null": ('{"bbox_2d": [null, [500,600,700,800]], "label": ["mug", "red cube"]}', 0),
    "too short": ('{"bbox_2d": [[5, 6, 7], [500,600,700,800]], "label": ["mug", "red cube"]}', 1),
    "names for numbers": ('{"bbox_2d": [[x1, y1, 3, 4], [500,600,700,800]], "label": ["mug", "red cube"]}', 1),
    "denied": (f'{{"bbox_2d": [{TWO}], "label": ["no mug", "red cube"]}}', 0),
}


@pytest.mark.parametrize("text, dropped", ALONE.values(), ids=ALONE.keys())
def test_each_of_a_parallel_list_keeps_its_own_label(text, dropped):
    answer = BOTH.read(said(text), (View(SIZE),))
    assert (boxes(answer), answer.dropped) == ([B_PX], dropped)


UNEQUAL = {
    "three boxes, two labels": '{"bbox_2d": [[1,2,30,40],[100,200,300,400],[500,600,700,800]], "label": ["mug","red cube"]}',
    "two boxes, three labels": f'{{"bbox_2d": [{TWO}], "label": ["mug", "red cube", "mug"]}}',
    "two boxes, a list of one label": f'{{"bbox_2d": [{TWO}], "label": ["mug"]}}',
    "one box, two labels": '{"bbox_2d": [100, 200, 300, 400], "label": ["mug", "red cube"]}',
    "plural keys": '{"boxes": [[100, 200, 300, 400]], "labels": ["mug", "red cube"]}',
    "boxes in objects": '{"labels": ["mug", "red cube"], "instances": [{"bbox_2d": [100,200,300,400]}]}',
}


@pytest.mark.parametrize("question", [BOTH, MUG], ids=["two targets", "one target"])
@pytest.mark.parametrize("text", UNEQUAL.values(), ids=UNEQUAL.keys())
def test_lists_of_unequal_length_keep_the_boxes_and_guess_no_label(text, question):
    answer = question.read(said(text), (View(SIZE),))
    assert answer.detections and {d.label for d in answer.detections} == {""}
    assert any("labels for" in note for note in answer.notes)


PLACE = '"bbox_2d": [100, 200, 300, 400]'
LANGUAGES = {
    "by suffix": f'[{{{PLACE}, "name_zh": "杯子", "name_en": "mug"}}]',
    "by prefix": f'[{{{PLACE}, "zh_label": "杯子", "en_label": "mug"}}]',
    "by region": f'[{{{PLACE}, "label_zh-CN": "杯子", "label_en-US": "mug"}}]',
    "in words": f'[{{{PLACE}, "chinese_name": "杯子", "english_name": "mug"}}]',
    "in Chinese words": '[{"边界框": [100, 200, 300, 400], "中文名": "杯子", "英文名": "mug"}]',
    "without a name": f'[{{{PLACE}, "zh": "杯子", "en": "mug"}}]',
    "nested names": f'[{{{PLACE}, "names": {{"zh": "杯子", "en": "mug"}}}}]',
    "nested label": f'[{{{PLACE}, "label": {{"chinese": "杯子", "english": "mug"}}}}]',
    "names first": f'[{{"names": {{"zh": "杯子", "en": "mug"}}, {PLACE}}}]',
    "a list of names": f'[{{{PLACE}, "label": ["杯子", "mug"]}}]',
    "a list of objects": f'[{{{PLACE}, "labels": [{{"lang": "zh", "text": "杯子"}}, {{"lang": "en", "text": "mug"}}]}}]',
    "label in one, name in the other": f'[{{{PLACE}, "label": "杯子", "label_en": "mug"}}]',
    "in brackets": f'[{{{PLACE}, "label": "杯子 (mug)"}}]',
    "in full-width brackets": f'[{{{PLACE}, "label": "mug（杯子）"}}]',
    "with a slash": f'[{{{PLACE}, "label": "mug / 杯子"}}]',
    "side by side": f'[{{{PLACE}, "label": "杯子 mug"}}]',
    "in an object with more": f'[{{{PLACE}, "label": {{"name": "mug", "confidence": 0.9}}}}]',
    "three languages": f'[{{{PLACE}, "names": {{"ja": "マグ", "zh": "杯子", "en": "mug"}}}}]',
}


@pytest.mark.parametrize("text", LANGUAGES.values(), ids=LANGUAGES.keys())
def test_of_names_in_several_languages_the_one_that_was_asked_for_is_the_label(text):
    assert boxes(BOTH.read(said(text), (View(SIZE),))) == [A_PX]
    assert outcome(Detect(("红色方块", "杯子")), text)[0] == "objects"


@pytest.mark.parametrize(
    "text", [LANGUAGES[k] for k in ("by suffix", "in Chinese words", "nested names", "in brackets")]
)
def test_a_chinese_target_gets_its_chinese_name(text):
    assert outcome(Detect(("红色方块", "杯子")), text) == ("objects", ["杯子"])


def test_where_no_name_fits_a_target_the_request_s_language_decides():
    text = f'[{{{PLACE}, "name_zh": "水杯", "name_en": "cup"}}]'
    assert outcome(BOTH, text) == ("objects", ["cup"])
    assert outcome(Detect(("杯子", "方块")), text) == ("objects", ["水杯"])


def test_languages_of_two_objects_in_one_pair_of_braces_stay_with_their_own():
    text = (
        '[{"bbox_2d": [100,200,300,400], "name_zh": "杯子", "name_en": "mug", '
        '"bbox_2d": [500,600,700,800], "name_zh": "红色方块", "name_en": "red cube"}]'
    )
    assert boxes(BOTH.read(said(text), (View(SIZE),))) == [A_PX, B_PX]


def test_another_object_s_name_is_no_translation():
    text = f'[{{{PLACE}, "label": "handle", "object": "mug"}}]'
    assert outcome(BOTH, text) == ("objects", ["handle"])


def test_a_name_fits_its_target_whatever_its_article_and_hyphens():
    for label in ("red-cube", "red_cube", "the Red Cube", "a red cube."):
        assert outcome(BOTH, f'[{{{PLACE}, "label": "{label}"}}]') == ("objects", ["red cube"])


def test_a_target_that_is_also_a_key_is_named_by_it():
    question = Detect(("box", "point"))
    text = '{"box": [100, 200, 300, 400], "point": [500, 600, 700, 800]}'
    assert outcome(question, text) == ("objects", ["box", "point"])
    assert outcome(Detect(("box", "mug")), '{"box": [100, 200, 300, 400], "label": "mug"}') == ("objects", ["mug"])


def test_a_label_without_end_is_cut():
    (detection,) = BOTH.read(said(f'[{{{PLACE}, "label": "{"very " * 2000}mug"}}]'), (View(SIZE),)).detections
    assert len(detection.label) == 1000
