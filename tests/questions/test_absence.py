"""What is said not to be there is an absence, in labels, fields and prose; what only has a denial in its name is a thing."""

import json

import pytest
from answers import A_PX, BOTH, MUG, SIZE, TEXT, B, boxes, outcome, said

from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import View

CUP = Detect(("杯子",))


def labelled(label, **more):
    return json.dumps([{"bbox_2d": [0, 0, 1000, 1000], "label": label, **more}], ensure_ascii=False)


DENYING = {
    MUG: [
        *(
            "no mug",
            "No Mug",
            "no mugs",
            "no mug found",
            "no mug visible",
            "no mugs in the image",
            "no red mug",
            "zero mugs",
        ),
        *(
            "mug not found",
            "mug: none",
            "mug: no",
            "mug (none)",
            "mug (not visible)",
            "mug - absent",
            "mug is not present",
        ),
        *("mug: missing", "mug isn't visible", "mug isn’t here", "mug does not exist", "missing mug", "without mug"),
        *("there is no mug", "There are no mugs in the image.", "cannot find mug", "The image does not contain a mug."),
        *(
            "none",
            "None",
            "nothing",
            "not found",
            "not visible",
            "N/A",
            "null",
            "no",
            "absent",
            "none found",
            "no match",
        ),
        *("no object", "no objects detected", "no such object", "not a mug", "no cup", "no other mugs"),
        *(
            "没有杯子",
            "没有mug",
            "无",
            "无目标",
            "没有",
            "未找到",
            "未检测到杯子",
            "找不到mug",
            "mug未找到",
            "mug 不存在",
            "mug:无",
        ),
    ],
    CUP: [
        *(
            "没有杯子",
            "无杯子",
            "没有任何杯子",
            "没有红色的杯子",
            "不是杯子",
            "未找到杯子",
            "未发现杯子",
            "看不到杯子",
            "图中没有杯子",
        ),
        *("杯子：无", "杯子不存在", "杯子未找到", "杯子没有找到", "杯子（未检测到）", "无物体", "no cup", "none"),
    ],
    Detect(("sign",)): ["no sign", "no signs found"],
    Detect(("no smoking sign",)): ["no no smoking sign", "no smoking sign: none", "no smoking sign not found"],
    Detect(("the mug without a handle",)): ["no mug without a handle", "mug without a handle: not found"],
    Detect(("不锈钢杯",)): ["没有不锈钢杯", "不锈钢杯：无", "未找到不锈钢杯"],
    Detect(("无线鼠标",)): ["没有无线鼠标", "无无线鼠标", "无线鼠标不存在"],
}
ROWS = [(question, label) for question, labels in DENYING.items() for label in labels]


@pytest.mark.parametrize("question, label", ROWS, ids=[f"{q.targets[0]}-{label}" for q, label in ROWS])
def test_a_label_that_denies_is_an_absence(question, label):
    assert outcome(question, labelled(label)) == ("nothing", [])


THINGS = {
    Detect(("the mug without a handle",)): ["the mug without a handle", "mug without a handle", "mug without handle"],
    Detect(("no smoking sign",)): ["no smoking sign", "No Smoking Sign", "no-smoking sign", "no smoking"],
    Detect(("sign",)): ["no smoking sign", "no parking sign", "no entry sign", "no left turn sign"],
    Detect(("不锈钢杯",)): ["不锈钢杯", "不锈钢杯子"],
    Detect(("鼠标",)): ["无线鼠标"],
    Detect(("无线鼠标",)): ["无线鼠标", "无线 鼠标"],
    Detect(("无人机", "不倒翁")): ["无人机", "小无人机", "不倒翁"],
    Detect(("没有把手的杯子",)): ["没有把手的杯子", "无把手杯子"],
    CUP: ["没有把手的杯子", "不锈钢杯子", "未开封的杯子", "无盖杯子"],
    Detect(("未开封的盒子",)): ["未开封的盒子"],
    Detect(("nonstick pan",)): ["nonstick pan", "non-stick pan"],
    Detect(("notebook", "knob")): ["notebook", "none-slip notebook", "door knob"],
    Detect(("button",)): ["No. 5 button", "no 5"],
    Detect(("missing screw",)): ["missing screw"],
    Detect(("bottle",)): ["bottle with no label", "bottle without cap", "empty bottle", "bottle not for sale"],
    Detect(("valve",)): ["valve: not open", "valve (not closed)"],
    MUG: ["mug with nothing in it", "mug, not broken"],
}
ROWS = [(question, label) for question, labels in THINGS.items() for label in labels]


@pytest.mark.parametrize("question, label", ROWS, ids=[f"{q.targets[0]}-{label}" for q, label in ROWS])
def test_a_thing_with_a_denial_in_its_name_stays_a_thing(question, label):
    assert outcome(question, labelled(label))[0] == "objects"


def test_a_label_that_may_deny_or_name_is_neither_nothing_nor_an_object():
    assert outcome(Detect(("thermometer",)), labelled("no touch thermometer")) == ("malformed", [])


def test_a_line_of_text_is_never_a_denial():
    lines = ["NO", "No smoking", "无", "None", "not found"]
    text = json.dumps([{"bbox_2d": [0, 0, 100, 100 + 10 * i], "text_content": t} for i, t in enumerate(lines)])
    assert outcome(TEXT, text) == ("objects", lines)


def test_an_absence_beside_an_object_leaves_the_object():
    text = f'[{{"bbox_2d": [0,0,1000,1000], "label": "no mug"}}, {B}]'
    assert outcome(BOTH, text) == ("objects", ["red cube"])


FIELDS = [
    *(
        ("absent", True),
        ("absent", "yes"),
        ("present", False),
        ("present", "no"),
        ("is_present", "No"),
        ("exists", "no"),
    ),
    *(("exist", "不存在"), ("found", False), ("not_found", True), ("visible", "false"), ("detected", 0), ("count", 0)),
    *(("num", 0), ("status", "not found"), ("presence", "absent"), ("match", False), ("存在", "否"), ("数量", 0)),
]


@pytest.mark.parametrize("key, value", FIELDS, ids=[f"{key}={value}" for key, value in FIELDS])
def test_a_field_that_denies_is_an_absence(key, value):
    assert outcome(MUG, labelled("mug", **{key: value})) == ("nothing", [])
    assert outcome(MUG, json.dumps([{key: value, "label": "mug"}])) == ("nothing", [])


NO_DENIAL = [
    *(("absent", False), ("present", True), ("exists", "yes"), ("count", 1), ("status", "ok"), ("status", 0)),
    *(("visible", "partially"), ("present", None), ("missing", "handle"), ("found", "on the table")),
]


@pytest.mark.parametrize("key, value", NO_DENIAL, ids=[f"{key}={value}" for key, value in NO_DENIAL])
def test_a_field_that_does_not_deny_leaves_the_object(key, value):
    assert outcome(MUG, labelled("mug", **{key: value})) == ("objects", ["mug"])


STRUCTURED = {
    "found: false around objects": '{"found": false, "objects": [{"bbox_2d": [0, 0, 9, 9], "label": "mug"}]}',
    "count 0 around none": '{"count": 0, "objects": []}',
    "found: false alone": '{"found": false}',
    "objects none": '{"objects": "none"}',
    "not found by key": '{"mug": "not found"}',
    "false by key": '{"mug": false}',
    "zero by key": '{"mug": 0}',
    "none by key, Chinese": '{"mug": "无"}',
    "absent by key": '{"mug": {"present": false, "bbox_2d": [0, 0, 9, 9]}}',
    "label alone": '[{"label": "no mug"}]',
    "box in words": '[{"bbox_2d": "not found", "label": "mug"}]',
    "a list of words": '["none"]',
    "a fenced list of words": '```json\n["no mug"]\n```',
    "as YAML": "- label: mug\n  bbox_2d: [1, 2, 30, 40]\n  present: false\n",
}


@pytest.mark.parametrize("text", STRUCTURED.values(), ids=STRUCTURED.keys())
def test_an_absence_is_read_wherever_it_stands(text):
    assert outcome(MUG, text) == ("nothing", [])


def test_one_of_two_is_denied_by_its_key_or_by_its_own_field():
    text = '{"mug": [100, 200, 300, 400], "red cube": "not found"}'
    assert boxes(BOTH.read(said(text), (View(SIZE),))) == [A_PX]
    text = (
        '[{"label": "mug", "bbox_2d": [100,200,300,400], "present": true, '
        '"label": "red cube", "bbox_2d": [0,0,9,9], "present": false}]'
    )
    assert boxes(BOTH.read(said(text), (View(SIZE),))) == [A_PX]


PROSE = {
    MUG: [
        *("The image does not contain a mug.", "The image doesn't contain a mug.", "The image does not show any mugs."),
        *(
            "None of the mugs are visible.",
            "None of the requested objects are present in the image.",
            "There isn't a mug here.",
        ),
        *(
            "I don't see a mug.",
            "I do not see the mug in the image.",
            "I was unable to find a mug.",
            "The mug cannot be seen.",
        ),
        *("A mug is not visible in the image.", "The mug is not present.", "The mug does not appear in the image."),
        *(
            "There don't appear to be any mugs in the image.",
            "This picture shows no mug.",
            "The requested object is not visible.",
        ),
        *(
            "Mug: not found",
            "mug not found",
            "No mug detected.",
            "Not found.",
            '"No mugs"',
            "**No mug found.**",
            "Answer: none",
        ),
        *(
            "I'm sorry, but there is no mug in the image.",
            "Unfortunately, there are no mugs.",
            "<answer>No mug.</answer>",
        ),
        *(
            "图片中不包含mug。",
            "mug不在图中。",
            "没看到mug。",
            "图中不存在mug。",
            "图像中没有找到mug",
            "抱歉，图中没有mug。",
            "未检测到目标。",
        ),
    ],
    BOTH: [
        *("Neither a mug nor a red cube is visible.", "The image contains neither a mug nor a red cube."),
        *("There is no mug and no red cube in the image.", "None of the listed items are present."),
        *("I can't find either the mug or the red cube.", "The mug and the red cube are not visible."),
    ],
    Detect(("no smoking sign",)): ["There is no no smoking sign in the image.", "The no smoking sign is not visible."],
    Detect(("无线鼠标",)): ["图中没有无线鼠标。", "图中无无线鼠标。", "未检测到无线鼠标", "无线鼠标不在图中"],
}
PROSE[MUG] += [
    *("The mug is absent from the image.", "It does not contain a mug.", "None of them.", "没有。", "无", "未找到"),
    *(
        'The image does not contain any instance of the category "mug".',
        'No instances of "mug" were found in the image.',
    ),
]
PROSE[BOTH] += [
    *("mug: none\nred cube: none", "- mug: not found\n- red cube: not found", "mug：无，red cube：无"),
    "There is no mug and there is no red cube.",
]
ROWS = [(question, text) for question, texts in PROSE.items() for text in texts]


@pytest.mark.parametrize("question, text", ROWS, ids=[text for _, text in ROWS])
def test_a_plain_sentence_that_denies_is_nothing(question, text):
    assert outcome(question, text) == ("nothing", [])


NO_DENIAL_OF_ALL = {
    MUG: [
        *(
            "None of the mugs have handles.",
            "The mug is not on the table.",
            "There is no red mug.",
            "The mug is not broken.",
        ),
        *(
            "The image does not show the whole mug.",
            "The image does not contain a mug with a handle.",
            "There is no cup.",
        ),
        *(
            "No, the mug is visible.",
            "The mug is not clearly visible.",
            "The mug is missing its handle.",
            "No mug is clean.",
        ),
        *(
            "I cannot see the mug because the image is dark.",
            "No mug is without a crack.",
            "图中没有红色的mug。",
            "不知道",
        ),
        *(
            '{"status": "not found"}',
            '{"detail": "Not Found"}',
            '{"error": "no model", "status": "not found"}',
            "404 Not Found",
        ),
    ],
    BOTH: [
        "The image does not contain a mug.",
        "Neither of the mugs is broken.",
        "mug: not found",
        "There is no red mug.",
    ],
    Detect(("mug", "red mug")): ["There is no red mug in the image."],
    Detect(("cup",)): ["There is no cupboard in the image."],
    Detect(("no smoking sign",)): ["No smoking sign is visible in the image.", "The no smoking sign is on the wall."],
    Detect(("无线鼠标",)): ["无线鼠标在桌上。", "图中有无线鼠标。"],
    Detect(("不锈钢杯",)): ["图中有不锈钢杯"],
}
NO_DENIAL_OF_ALL[BOTH] += [
    *("There is no mug and the red cube is on the table.", "There is no mug, the red cube stands on the shelf."),
    *("mug: none, red cube: on the table", "mug: not found, red cube is on the table", "图中没有mug，有red cube"),
    "没有mug，red cube在桌上",
]
ROWS = [(question, text) for question, texts in NO_DENIAL_OF_ALL.items() for text in texts]


@pytest.mark.parametrize("question, text", ROWS, ids=[text for _, text in ROWS])
def test_anything_less_clear_is_malformed(question, text):
    assert outcome(question, text) == ("malformed", [])


def test_a_bare_list_beside_a_name_with_a_denial_is_read():
    for text in ("不锈钢杯在 [100, 200, 300, 400]", "不锈钢杯: [100, 200, 300, 400]"):
        assert outcome(Detect(("不锈钢杯",)), text) == ("objects", ["不锈钢杯"])
