"""Answers as models really give them -> boxes, points and 3D boxes."""

import json
import math

import numpy as np
import pytest
from answers import A_PX, ASK, B_PX, BOTH, BOX_3D, MUG, POINT, SIZE, TEXT, A, B, boxes, said
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.questions import Detect
from qwen3vl_ros.questions.parsing.places import rotation_of_angles
from qwen3vl_ros.types import MalformedAnswer, View

SALVAGED = {
    "fenced": (f"```json\n[\n\t{A},\n\t{B}\n]\n```", BOTH, "stop", [A_PX, B_PX], 0),
    "no fence": (f"[{A}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "fence never closed": (f"```json\n[{A}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "prose around the fence": (
        f"Sure! Here are [2] objects (see below):\n```json\n[{A}, {B}]\n```\nHope: it helps {{smile}}",
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "single object, no array": (A, BOTH, "stop", [A_PX], 0),
    "one object a line, no commas": (f"{A}\n{B}", BOTH, "stop", [A_PX, B_PX], 0),
    "two fences": (f"```json\n[{A}]\n```\nand\n```json\n[{B}]\n```", BOTH, "stop", [A_PX, B_PX], 0),
    "wrapped in an object": (f'{{"objects": [{A}, {B}]}}', BOTH, "stop", [A_PX, B_PX], 0),
    "wrapped, with a count": (f'{{"count": 2, "objects": [{A}, {B}], "note": "ok"}}', BOTH, "stop", [A_PX, B_PX], 0),
    "truncated in the coordinates": (f'[{A}, {{"bbox_2d": [500, 600, 70', BOTH, "length", [A_PX], 1),
    "truncated in the last number": (f'[{A}, {{"bbox_2d": [500, 600, 700, 80', BOTH, "length", [A_PX], 1),
    "truncated in the key": (f'[{A}, {{"bbox_', BOTH, "length", [A_PX], 1),
    "truncated after the brace": (f"[{A}, {{", BOTH, "length", [A_PX], 1),
    "truncated before the label": (f'[{A}, {{"bbox_2d": [500, 600, 700, 800], ', BOTH, "length", [A_PX], 1),
    "truncated in the label, one target fits": (
        f'[{A}, {{"bbox_2d": [500, 600, 700, 800], "label": "red c',
        BOTH,
        "length",
        [A_PX, B_PX],
        0,
    ),
    "truncated in the label, none fits": (
        f'[{A}, {{"bbox_2d": [500, 600, 700, 800], "label": "blue',
        BOTH,
        "length",
        [A_PX],
        1,
    ),
    "truncated in the label, only target": (
        f'[{A}, {{"bbox_2d": [500, 600, 700, 800], "label": "the',
        MUG,
        "deadline",
        [A_PX, ("mug", B_PX[1])],
        0,
    ),
    "stray brace in the array": (f"[{{ {A}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "stray brace between objects": (f"[{A}, {{ {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "stray closing brace": (f"[{A}}}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "opening brace lost": (f"[{A}, {B[1:]}]", BOTH, "stop", [A_PX, B_PX], 0),
    "closing brace lost": (f"[{A[:-1]}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "both braces lost": (f"[{A[:-1]}, {B[1:]}]", BOTH, "stop", [A_PX, B_PX], 0),
    "keys of two objects in one": (
        '[{"bbox_2d": [100,200,300,400], "label": "mug", "bbox_2d": [500,600,700,800], "label": "red cube"}]',
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "keys of two in one, label first": (
        '[{"label": "mug", "bbox_2d": [100,200,300,400], "label": "red cube", "bbox_2d": [500,600,700,800]}]',
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "keys of two in one, boxes first": (
        '[{"bbox_2d": [100,200,300,400], "bbox_2d": [500,600,700,800], "label": "mug", "label": "red cube"}]',
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "keys of two in one, first unlabelled": (
        '[{"bbox_2d": [100,200,300,400], "bbox_2d": [500,600,700,800], "label": "red cube"}]',
        BOTH,
        "stop",
        [("", A_PX[1]), B_PX],
        0,
    ),
    "numbered keys": (
        '{"bbox_2d_1": [100,200,300,400], "label_1": "mug", "bbox_2d_2": [500,600,700,800], "label_2": "red cube"}',
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "label missing, one target": ('[{"bbox_2d": [100,200,300,400]}]', MUG, "stop", [A_PX], 0),
    "label missing, two targets": ('[{"bbox_2d": [100,200,300,400]}]', BOTH, "stop", [("", A_PX[1])], 0),
    "label null": ('[{"bbox_2d": [100,200,300,400], "label": null}]', MUG, "stop", [A_PX], 0),
    "label empty": ('[{"bbox_2d": [100,200,300,400], "label": ""}]', MUG, "stop", [A_PX], 0),
    "label a list": ('[{"bbox_2d": [100,200,300,400], "label": ["mug"]}]', BOTH, "stop", [A_PX], 0),
    "label a number": ('[{"bbox_2d": [100,200,300,400], "label": 7}]', BOTH, "stop", [("7", A_PX[1])], 0),
    "label paraphrased": (
        '[{"bbox_2d": [100,200,300,400], "label": "white coffee mug"}]',
        BOTH,
        "stop",
        [("white coffee mug", A_PX[1])],
        0,
    ),
    "label in another case": (
        '[{"bbox_2d": [100,200,300,400], "label": "Red  Cube"}]',
        BOTH,
        "stop",
        [("red cube", A_PX[1])],
        0,
    ),
    "label in Chinese": (
        '[{"bbox_2d": [100,200,300,400], "label": "红色的杯子，左边"}]',
        BOTH,
        "stop",
        [("红色的杯子，左边", A_PX[1])],
        0,
    ),
    "label escaped": (
        r'[{"bbox_2d": [100,200,300,400], "label": "\u676f\u5b50 \"x\""}]',
        BOTH,
        "stop",
        [('杯子 "x"', A_PX[1])],
        0,
    ),
    "label with half a surrogate": (
        r'[{"bbox_2d": [100,200,300,400], "label": "mug\ud83d"}]',
        BOTH,
        "stop",
        [("mug", A_PX[1])],
        0,
    ),
    "label of control characters": (
        '[{"bbox_2d": [100,200,300,400], "label": "a\\u0000b\nc"}]',
        BOTH,
        "stop",
        [("a b c", A_PX[1])],
        0,
    ),
    "label with brackets and a key": (
        '[{"bbox_2d": [100,200,300,400], "label": "a {b} [1,2,3,4] bbox_2d: x"}]',
        BOTH,
        "stop",
        [("a {b} [1,2,3,4] bbox_2d: x", A_PX[1])],
        0,
    ),
    "label with unescaped quotes": (
        '[{"bbox_2d": [100,200,300,400], "label": "the "big" mug"}, ' + B + "]",
        BOTH,
        "stop",
        [('the "big" mug', A_PX[1]), B_PX],
        0,
    ),
    "label with its end lost": (f"[{A[:-2]}}}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "label with its beginning lost": (f"[{A.replace(chr(34) + 'mug', 'mug')}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "key with its beginning lost": (f"[{A.replace(chr(34) + 'bbox', 'bbox')}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "key with its end lost": (f"[{A}, {B.replace('2d' + chr(34), '2d')}]", BOTH, "stop", [A_PX, B_PX], 0),
    "colon lost": (f"[{A.replace(chr(34) + ':', chr(34))}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "commas lost": (f"[{A.replace('],', ']')} {B.replace(',', '')}]", BOTH, "stop", [A_PX, B_PX], 0),
    "trailing commas": ('[{"bbox_2d": [100,200,300,400,], "label": "mug",},]', BOTH, "stop", [A_PX], 0),
    "closing bracket lost": (f"[{A.replace('400]', '400')}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "opening bracket lost": (f"[{A.replace('[', '')}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "corners in reverse": ('[{"bbox_2d": [300,400,100,200], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "nine numbers in one": (f'[{A}, {{"bbox_3d": [0,0,1,1,1,1,0,0,0], "label": "red cube"}}]', BOTH, "stop", [A_PX], 1),
    "two numbers in one": (f'[{A}, {{"point_2d": [10,20], "label": "red cube"}}]', BOTH, "stop", [A_PX], 1),
    "five numbers in one": (f'[{A}, {{"bbox_2d": [1,2,3,4,5], "label": "red cube"}}]', BOTH, "stop", [A_PX], 1),
    "box and point of one object": (
        '[{"bbox_2d": [100,200,300,400], "point_2d": [200,300], "label": "mug"}]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "the same until the limit": ("[" + f"{A}, " * 40 + A[:20], BOTH, "length", [A_PX], 1),
    "just above 1000": (
        '[{"bbox_2d": [500, 600, 1012, 1001], "label": "mug"}]',
        BOTH,
        "stop",
        [("mug", (320.0, 288.0, 640.0, 480.0))],
        0,
    ),
    "just below 0": (
        '[{"bbox_2d": [-8, -1, 300, 400], "label": "mug"}]',
        BOTH,
        "stop",
        [("mug", (0.0, 0.0, 192.0, 192.0))],
        0,
    ),
    "one slip far outside": (
        f'[{A}, {B}, {{"bbox_2d": [100, 200, 3000, 400], "label": "mug"}}]',
        BOTH,
        "stop",
        [A_PX, B_PX],
        1,
    ),
    "no area": (f'[{A}, {{"bbox_2d": [100, 200, 100, 400], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "no area after the clamp": (
        f'[{A}, {{"bbox_2d": [1010, 200, 1040, 400], "label": "mug"}}]',
        BOTH,
        "stop",
        [A_PX],
        1,
    ),
    "key bbox": ('[{"bbox": [100,200,300,400], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "key box_2d": ('[{"box_2d": [100,200,300,400], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "key BBox2D, Name": ('[{"BBox2D": [100,200,300,400], "Name": "mug"}]', BOTH, "stop", [A_PX], 0),
    "numbers in strings": ('[{"bbox_2d": ["100","200","300","400"], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "list in a string": ('[{"bbox_2d": "[100, 200, 300, 400]", "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "floats": ('[{"bbox_2d": [100.0, 2e2, 300.00, 400.], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "NaN and Infinity": (f'[{A}, {{"bbox_2d": [NaN, 2, Infinity, 4], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "overflow": (f'[{A}, {{"bbox_2d": [1, 2, 1e999, 4], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "null for a number": (f'[{A}, {{"bbox_2d": [1, 2, null, 4], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "names for numbers": (f'[{A}, {{"bbox_2d": [x1, y1, x2, y2], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "units behind numbers": (f'[{A}, {{"bbox_2d": [1px, 2px, 3px, 4px], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "single quotes": ("[{'bbox_2d': [100, 200, 300, 400], 'label': 'mug'}]", BOTH, "stop", [A_PX], 0),
    "single quotes, an apostrophe": (
        "[{'bbox_2d': [100, 200, 300, 400], 'label': 'child's mug'}, " + B.replace('"', "'") + "]",
        BOTH,
        "stop",
        [("child's mug", A_PX[1]), B_PX],
        0,
    ),
    "apostrophe in the prose": (f"Here's what I've found, 'tis the list: [{A}, {B}]", BOTH, "stop", [A_PX, B_PX], 0),
    "keys without quotes": ("[{bbox_2d: [100, 200, 300, 400], label: mug}]", BOTH, "stop", [A_PX], 0),
    "as YAML": (
        "- bbox_2d: [100, 200, 300, 400]\n  label: mug\n- bbox_2d: [500, 600, 700, 800]\n  label: red cube\n",
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "tuples": ('[{"bbox_2d": (100, 200, 300, 400), "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "pairs of corners": ('[{"bbox_2d": [[100, 200], [300, 400]], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "a list too deep": ('[{"bbox_2d": [[100, 200, 300, 400]], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "several boxes under one label": (
        '[{"bbox_2d": [[100,200,300,400],[500,600,700,800]], "label": "mug"}]',
        BOTH,
        "stop",
        [A_PX, ("mug", B_PX[1])],
        0,
    ),
    "corners by name": (
        '[{"bbox_2d": {"x1": 100, "y1": 200, "x2": 300, "y2": 400}, "label": "mug"}]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "corners as keys": (
        '[{"label": "mug", "xmin": 100, "ymin": 200, "xmax": 300, "ymax": 400}]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "label as key": ('{"mug": [100,200,300,400], "red cube": [[500,600,700,800]]}', BOTH, "stop", [A_PX, B_PX], 0),
    "label as key of the list": (
        '{"mug": [{"bbox_2d": [100,200,300,400]}], "red cube": [{"bbox_2d": [500,600,700,800]}]}',
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "bare list": ("[100, 200, 300, 400]", MUG, "stop", [A_PX], 0),
    "bare lists": ("[[100, 200, 300, 400], [500, 600, 700, 800]]", BOTH, "stop", [("", A_PX[1]), ("", B_PX[1])], 0),
    "bare list in prose": ("The mug is at (100, 200, 300, 400).", MUG, "stop", [A_PX], 0),
    "label and list in prose": (
        "mug: [100, 200, 300, 400]\nred cube: [500, 600, 700, 800]",
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "typographic quotes": (A.replace('"', "”"), BOTH, "stop", [A_PX], 0),
    "full-width punctuation": (A.replace(":", "：").replace(",", "，"), BOTH, "stop", [A_PX], 0),
    "encoded twice": (json.dumps(f"[{A},\n{B}]"), BOTH, "stop", [A_PX, B_PX], 0),
    "quotes as entities": (f"[{A}]".replace('"', "&quot;"), BOTH, "stop", [A_PX], 0),
    "extra keys": (
        '[{"id": 3, "bbox_2d": [100,200,300,400], "score": 0.9, "color_rgba": [1,2,3,4], "sub": {"a": [1]}, '
        '"label": "mug"}]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "comments": (
        '[\n// the mug, on the left\n{"bbox_2d": [100,200,300,400], # left\n"label": "mug"} /* done */]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "ellipsis": (f"[{A}, {B}, ...]", BOTH, "stop", [A_PX, B_PX], 0),
    "remains of thinking": (f"I see {B} maybe?</think>\n[{A}]", BOTH, "stop", [A_PX], 0),
    "thinking in full": (f"<think>[{B}]</think>[{A}]", BOTH, "stop", [A_PX], 0),
    "box said to be empty": (f'[{A}, {{"bbox_2d": [], "label": "red cube"}}]', BOTH, "stop", [A_PX], 0),
    "byte order mark and CRLF": ("\ufeff```json\r\n[\r\n" + A + "\r\n]\r\n```", BOTH, "stop", [A_PX], 0),
    "no-break spaces": (A.replace(" ", "\u00a0"), BOTH, "stop", [A_PX], 0),
    "markup around": (f"<answer>[{A}]</answer><|im_end|>", BOTH, "stop", [A_PX], 0),
    "label in the enclosing object": (
        '{"label": "mug", "instances": [{"bbox_2d": [100,200,300,400]}, {"bbox_2d": [500,600,700,800]}]}',
        BOTH,
        "stop",
        [A_PX, ("mug", B_PX[1])],
        0,
    ),
    "label as key of an object": (
        '{"mug": {"bbox_2d": [100,200,300,400]}, "red cube": {"bbox_2d": [500,600,700,800]}}',
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "box in an object of its own": (
        '[{"label": "mug", "location": {"bbox_2d": [100,200,300,400]}}]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "absent one as null": ('{"mug": [100,200,300,400], "red cube": null}', BOTH, "stop", [A_PX], 0),
    "one of two by key too short": ('{"mug": [100,200,300,400], "red cube": [5, 6]}', BOTH, "stop", [A_PX], 1),
    "minus sign of typography": (
        '[{"bbox_2d": [−8, 200, 300, 400], "label": "mug"}]',
        BOTH,
        "stop",
        [("mug", (0.0, 96.0, 192.0, 192.0))],
        0,
    ),
    "percent": (f'[{A}, {{"bbox_2d": [10%, 20%, 50%, 60%], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "semicolons": (f'[{A}, {{"bbox_2d": [10; 20; 50; 60], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "spaces for commas": ('[{"bbox_2d": [100 200 300 400], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "a confidence as fifth number": (
        f'[{A}, {{"bbox_2d": [10, 20, 50, 60, 0.9], "label": "mug"}}]',
        BOTH,
        "stop",
        [A_PX],
        1,
    ),
    "thousands separator": (f'[{A}, {{"bbox_2d": [10, 20, 50, 1,000], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "leading zeros and signs": ('[{"bbox_2d": [0100, +200, 300, 0400.0], "label": "mug"}]', BOTH, "stop", [A_PX], 0),
    "ellipsis in a list": (f'[{A}, {{"bbox_2d": [10, 20, 30, 40, ...], "label": "mug"}}]', BOTH, "stop", [A_PX], 1),
    "the template first": ('[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]\n' + A, BOTH, "stop", [A_PX], 1),
    "a next turn imagined": (f"[{A}]<|im_end|>\n<|im_start|>user\nAgain.<|im_end|>\n[{B}]", BOTH, "stop", [A_PX], 0),
    "JSON in apostrophes": (f"answer = '[{A}]'", BOTH, "stop", [A_PX], 0),
    "list of JSON strings": (json.dumps([A, B]), BOTH, "stop", [A_PX, B_PX], 0),
    "single quotes around a list of objects": (f"['{A}', '{B}']", BOTH, "stop", [A_PX, B_PX], 0),
    "label quoted twice": (
        '[{"bbox_2d": [100,200,300,400], "label": ""mug""}, ' + B + "]",
        BOTH,
        "stop",
        [A_PX, B_PX],
        0,
    ),
    "invisible character in the key": (
        '[{"bbox_2d\u200b": [100,200,300,400], "label": "mug\u200b"}]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "colon twice": ('[{"bbox_2d":: [100,200,300,400], "label":: "mug"}]', BOTH, "stop", [A_PX], 0),
    "equals signs": ("bbox_2d=[100, 200, 300, 400], label='mug'", BOTH, "stop", [A_PX], 0),
    "constructor calls": ("[Box(bbox_2d=[100, 200, 300, 400], label='mug')]", BOTH, "stop", [A_PX], 0),
    "same box under two keys": (
        '[{"bbox": [100,200,300,400], "bbox_2d": [100,200,300,400], "label": "mug"}]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "empty list, then objects": (f"[]\n[{A}]", BOTH, "stop", [A_PX], 0),
    "prose denies one, JSON has the other": (f"There is no red cube.\n```json\n[{A}]\n```", BOTH, "stop", [A_PX], 0),
    "stray quotes around objects": (f'["{A}", "{B}"]', BOTH, "stop", [A_PX, B_PX], 0),
    "tabs and newlines inside numbers' list": (
        '[{"bbox_2d":\n[\n100,\n\t200,\n300,\n400\n]\n,\n"label"\n:\n"mug"\n}\n]',
        BOTH,
        "stop",
        [A_PX],
        0,
    ),
    "label before a truncated box": (f'[{A}, {{"label": "red cube", "bbox_2d": [500, 600', BOTH, "length", [A_PX], 1),
    "text lines": (
        '[{"bbox_2d": [100,200,300,400], "text_content": "NO "}, {"bbox_2d": [500,600,700,800], '
        '"text_content": "12.5"}]',
        TEXT,
        "stop",
        [("NO", A_PX[1]), ("12.5", B_PX[1])],
        0,
    ),
    "text that is JSON": (
        r'[{"bbox_2d": [100,200,300,400], "text_content": "{\"bbox_2d\": [1,2,3,4], \"label\": \"x\"}"}]',
        TEXT,
        "stop",
        [('{"bbox_2d": [1,2,3,4], "label": "x"}', A_PX[1])],
        0,
    ),
    "text with quotes and commas": (
        '[{"bbox_2d": [100,200,300,400], "text_content": "SAY "NO", PLEASE"}]',
        TEXT,
        "stop",
        [('SAY "NO", PLEASE', A_PX[1])],
        0,
    ),
    "text that reads None": (
        '[{"bbox_2d": [100,200,300,400], "text_content": "None"}]',
        TEXT,
        "stop",
        [("None", A_PX[1])],
        0,
    ),
    "text line without text": (
        '[{"bbox_2d": [100,200,300,400]}, {"bbox_2d": [500,600,700,800], "text_content": "A"}]',
        TEXT,
        "stop",
        [("A", B_PX[1])],
        1,
    ),
    "text cut short": (
        '[{"bbox_2d": [100,200,300,400], "text_content": "A"}, {"bbox_2d": [500,600,700,800], '
        '"text_content": "EMERGENC',
        TEXT,
        "length",
        [("A", A_PX[1])],
        1,
    ),
    "boxes in a free answer": (f"The left one is cleaner: {A}", ASK, "stop", [A_PX], 0),
    "free answer on another scale": ('It is {"bbox_2d": [100, 200, 3000, 4000], "label": "mug"}', ASK, "stop", [], 1),
    "free answer as JSON": ('{"answer": "the left one"}', ASK, "stop", [], 0),
    "free answer in prose": ("The left one (I think): it is 3 [1] years old.", ASK, "stop", [], 0),
}


@pytest.mark.parametrize("text, request_, finish, wanted, dropped", SALVAGED.values(), ids=SALVAGED.keys())
def test_salvages_every_complete_object(text, request_, finish, wanted, dropped):
    answer = request_.read(said(text, finish), (View(SIZE),))
    assert boxes(answer) == wanted
    assert answer.dropped == dropped


SAW_NOTHING = {
    "empty list": ("[]", BOTH),
    "fenced empty list": ("```json\n[]\n```", BOTH),
    "empty list with space": ("[ \n ]", BOTH),
    "fenced on one line": ("```json []```", BOTH),
    "prose and empty list": ("There is nothing here.\n[]", BOTH),
    "empty wrapper": ('{"objects": []}', BOTH),
    "empty box": ('[{"bbox_2d": [], "label": "mug"}]', BOTH),
    "box called none": ('[{"bbox_2d": "none", "label": "mug"}]', BOTH),
    "null box": ('[{"bbox_2d": null, "label": "mug"}]', BOTH),
    "None": ("None", BOTH),
    "none.": ("none.", MUG),
    "null": ("null", MUG),
    "no such thing": ("There are no mugs in the image.", MUG),
    "none of both": ("There is no mug or red cube in the image.", BOTH),
    "no objects": ("No objects matching the description were found in the image.", BOTH),
    "cannot see any": ("I cannot see any mugs here.", MUG),
    "does not show": ("The image does not contain any mug.", MUG),
    "and what there is": ("There are no mugs in the image. It shows a wooden table.", MUG),
    "in Chinese": ("图中没有mug。", MUG),
    "objects, in Chinese": ("图像中未检测到符合条件的物体。", BOTH),
    "no such thing, short": ("No mug.", MUG),
    "no matching objects": ("No matching objects.", BOTH),
    "none on the left, as asked": ("There is no mug on the left.", Detect(("the mug on the left",))),
    "no text": ("There is no text in the image.", TEXT),
}


@pytest.mark.parametrize("text, request_", SAW_NOTHING.values(), ids=SAW_NOTHING.keys())
def test_saw_nothing_is_an_empty_answer(text, request_):
    answer = request_.read(said(text), (View(SIZE),))
    assert (answer.detections, answer.points, answer.boxes_3d, answer.dropped) == ((), (), (), 0)


MALFORMED = {
    "empty": ("", BOTH, "stop", "empty"),
    "white space": (" \n ", BOTH, "stop", "empty"),
    "exclamation marks": ("!" * 200, BOTH, "length", "repeated"),
    "exclamation marks, asked freely": ("!!!! !!!! !!!!", ASK, "stop", "repeated"),
    "prose": ("The mug is on the table.", MUG, "stop", "no object"),
    "only half a denial": ("There are no mugs in the image.", BOTH, "stop", "no object"),
    "denial taken back": ("There are no mugs, but a cup is on the left.", MUG, "stop", "no object"),
    "denial contradicted": ("There are no mugs on the table. The mug is on the floor.", MUG, "stop", "no object"),
    "only none on the left": ("There is no mug on the left.", MUG, "stop", "no object"),
    "no more": ("There are no more mugs.", MUG, "stop", "no object"),
    "no, and then": ("No, the mug is there.", MUG, "stop", "no object"),
    "no problem": ("No problem, I will find the mug.", MUG, "stop", "no object"),
    "no help": ("I'm sorry, I can't help with that.", MUG, "stop", "no object"),
    "no doubt": ("There is no doubt that the mug is on the table.", MUG, "stop", "no object"),
    "no image": ("I cannot see any image. Please provide the image of the mug.", MUG, "stop", "no object"),
    "no image received": ("There is no image to find a mug in.", MUG, "stop", "no object"),
    "denial cut short": ("There are no mugs", MUG, "length", "cut short"),
    "only thinking": ("<think>there is a mug at [1,2,3,4]", MUG, "length", "empty"),
    "bracket and no more": ("[", BOTH, "length", "cut short"),
    "first object cut short": ('[{"bbox_2d": [1, 2,', BOTH, "length", "max_new_tokens"),
    "list of nothing": ("[{}]", BOTH, "stop", "no object"),
    "only nine numbers": ('[{"bbox_3d": [0,0,1,1,1,1,0,0,0], "label": "mug"}]', BOTH, "stop", "9 numbers where 4"),
    "only a label": ('[{"label": "mug"}]', MUG, "stop", "without coordinates"),
    "only zeros": ('[{"bbox_2d": [0,0,0,0], "label": "mug"}]', MUG, "stop", "without area"),
    "pixels": ('[{"bbox_2d": [900, 500, 1400, 1000], "label": "mug"}]', MUG, "stop", "another scale"),
    "pixels in most": (
        f'[{A}, {{"bbox_2d": [900,500,1400,900], "label": "mug"}}, {{"bbox_2d": [90,50,1200,900], "label": "mug"}}]',
        MUG,
        "stop",
        "another scale",
    ),
    "one of two far outside": (
        f'[{A}, {{"bbox_2d": [900,500,1400,900], "label": "mug"}}]',
        MUG,
        "stop",
        "another scale",
    ),
    "unit square": ('[{"bbox_2d": [0.1, 0.25, 0.5, 0.75], "label": "mug"}]', MUG, "stop", "0..1"),
    "all numbers negative": ('[{"bbox_2d": [-400, -300, -200, -100], "label": "mug"}]', MUG, "stop", "another scale"),
    "a point where a box was asked": ('[{"point_2d": [100, 200], "label": "mug"}]', MUG, "stop", "2 numbers where 4"),
    "a point denied": ("There is no mug at (100, 200, 300, 400).", MUG, "stop", "no object"),
    "cut before the numbers": ('[{"bbox_2d": "', MUG, "length", "cut short"),
    "cut in null": ('[{"bbox_2d": nul', MUG, "length", "cut short"),
    "not available": ('[{"bbox_2d": "N/A", "label": "mug"}]', MUG, "stop", "without coordinates"),
    "by key, too short": ('{"mug": [1, 2]}', BOTH, "stop", "2 numbers where 4"),
    "polygon": ('[{"bbox_2d": [[1,2],[3,2],[3,4],[1,4]], "label": "mug"}]', MUG, "stop", "8 numbers where 4"),
    "older markup": ("<ref>mug</ref><box>(100,200),(300,400)</box>", MUG, "stop", "2 numbers where 4"),
    "table": (
        "| label | x1 | y1 | x2 | y2 |\n|---|---|---|---|---|\n| mug | 100 | 200 | 300 | 400 |",
        MUG,
        "stop",
        "no object",
    ),
    "error of a server": ('{"error": {"code": 500, "message": "out of memory"}}', MUG, "stop", "no object"),
    "message in JSON": ('{"message": "There are no mugs in the image."}', MUG, "stop", "without coordinates"),
    "empty list for ever": ("[]" * 300, MUG, "length", "no object"),
    "question back": ("Which mug do you mean?", MUG, "stop", "no object"),
    "HTML": ("<html><body>502 Bad Gateway</body></html>", MUG, "stop", "no object"),
    "the prompt again": (
        'Locate every instance that belongs to the following categories: "mug".',
        MUG,
        "stop",
        "no object",
    ),
}


@pytest.mark.parametrize("text, request_, finish, message", MALFORMED.values(), ids=MALFORMED.keys())
def test_unreadable_is_an_error_that_says_why(text, request_, finish, message):
    with pytest.raises(MalformedAnswer, match=message.replace(".", r"\.")) as caught:
        request_.read(said(text, finish), (View(SIZE),))
    assert caught.value.text == text


def test_a_slip_that_could_be_pixels_is_not_forgiven():
    text = f'[{A}, {B}, {{"bbox_2d": [100, 200, 1500, 400], "label": "mug"}}]'
    assert BOTH.read(said(text), (View((640, 480)),)).dropped == 1
    with pytest.raises(MalformedAnswer, match="another scale"):
        BOTH.read(said(text), (View((1920, 1080)),))


@pytest.mark.parametrize("size", [(640, 480), (3000, 1000), (100, 900), (1, 1), (1920, 1080)], ids=str)
def test_pixels_are_of_the_original_image(size):
    box = MUG.read(said('[{"bbox_2d": [0, 250, 500, 1000], "label": "mug"}]'), (View(size),)).detections[0].box_xyxy_px
    assert box == pytest.approx((0.0, 0.25 * size[1], 0.5 * size[0], size[1]))


def test_repeats_are_counted_and_said_once():
    answer = BOTH.read(said("[" + ", ".join([A] * 30 + [B]) + "]"), (View(SIZE),))
    assert (boxes(answer), answer.repeats, answer.dropped) == ([A_PX, B_PX], 29, 0)


def test_what_was_mended_is_noted():
    answer = MUG.read(said('[{"bbox_2d": [300, 400, 100, 200]}]'), (View(SIZE),))
    assert any("swapped" in note for note in answer.notes) and any("label" in note for note in answer.notes)


POINTS = {
    "official": ('```json\n[{"point_2d": [100, 200], "label": "mug"}]\n```', [("mug", (64.0, 96.0))]),
    "label point_1": ('[{"point_2d": [100, 200], "label": "point_1"}]', [("mug", (64.0, 96.0))]),
    "several": (
        '[{"point_2d": [[100, 200], [500, 1000]], "label": "mug"}]',
        [("mug", (64.0, 96.0)), ("mug", (320.0, 480.0))],
    ),
    "x and y": ('[{"x": 100, "y": 200}]', [("mug", (64.0, 96.0))]),
    "x and y inside": ('[{"point_2d": {"x": 100, "y": 200}, "label": "mug"}]', [("mug", (64.0, 96.0))]),
    "pair in prose": ("(100, 200)", [("mug", (64.0, 96.0))]),
    "list of x and y": (
        '{"points": [{"x": 100, "y": 200}, {"x": 500, "y": 1000}], "label": "mug"}',
        [("mug", (64.0, 96.0)), ("mug", (320.0, 480.0))],
    ),
    "key bbox, two numbers": ('[{"bbox_2d": [100, 200], "label": "mug"}]', [("mug", (64.0, 96.0))]),
    "box and point": ('[{"bbox_2d": [0, 0, 9, 9], "point_2d": [100, 200], "label": "mug"}]', [("mug", (64.0, 96.0))]),
    "corner of the image": ('[{"point_2d": [0, 0], "label": "mug"}]', [("mug", (0.0, 0.0))]),
}


@pytest.mark.parametrize("text, wanted", POINTS.values(), ids=POINTS.keys())
def test_points(text, wanted):
    answer = POINT.read(said(text), (View(SIZE),))
    assert [(p.label, p.xy_px) for p in answer.points] == wanted and answer.dropped == 0


def test_3d_box_angles_are_in_units_of_pi():
    text = '```json\n[{"bbox_3d": [0.1, -0.2, 1.5, 0.4, 0.2, 0.1, 0.0, 0.5, 0.25], "label": "car"}]\n```'
    (box,) = BOX_3D.read(said(text), (View(SIZE),)).boxes_3d
    np.testing.assert_allclose(box.center_m, [0.1, -0.2, 1.5])
    np.testing.assert_allclose(box.size_m, [0.4, 0.2, 0.1])
    # a quarter turn about y takes x to -z, an eighth about z leaves that where it is
    np.testing.assert_allclose(box.rotation @ [1, 0, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(box.rotation @ [0, 1, 0], [-math.sqrt(0.5), math.sqrt(0.5), 0], atol=1e-12)
    assert 0.0 < box.score <= 1.0


def test_a_typographic_minus_does_not_mirror_a_3d_box():
    (box,) = BOX_3D.read(said('[{"bbox_3d": [−0.5, 0, 1, 1, 1, 1, 0, 0, 0], "label": "car"}]'), (View(SIZE),)).boxes_3d
    assert box.center_m[0] == -0.5


BAD_3D = {
    "four numbers": ("[1, 2, 3, 4]", "4 numbers where 9"),
    "behind the camera": ("[0,0,-1,1,1,1,0,0,0]", "front"),
    "no volume": ("[0,0,1,1,0,1,0,0,0]", "volume"),
    "negative size": ("[0,0,1,1,-1,1,0,0,0]", "volume"),
    "degrees": ("[0,0,1,1,1,1,0,90,0]", "units of pi"),
    "degree signs": ("[0,0,1,1,1,1,0°,1°,0°]", "not numbers"),
    "formulas": ("[0,0,1,1,1,1,0,pi/2,0]", "not numbers"),
    "metres": ("[0 m,0 m,1 m,1,1,1,0,0,0]", "not numbers"),
    "text": ('"here"', "without coordinates"),
}


@pytest.mark.parametrize("numbers, message", BAD_3D.values(), ids=BAD_3D.keys())
def test_impossible_3d_boxes_are_dropped_one_by_one(numbers, message):
    bad = f'{{"bbox_3d": {numbers}, "label": "car"}}'
    with pytest.raises(MalformedAnswer, match=message):
        BOX_3D.read(said(f"[{bad}]"), (View(SIZE),))
    good = '{"bbox_3d": [0,0,1,1,1,1,0,0,0], "label": "car"}'
    answer = BOX_3D.read(said(f"[{bad}, {good}]"), (View(SIZE),))
    assert (len(answer.boxes_3d), answer.dropped) == (1, 1)


@given(st.tuples(*[st.floats(-2, 2)] * 3))
def test_rotation_is_z_after_y_after_x(angles):
    rotation = rotation_of_angles(np.array(angles))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    one_by_one = (
        rotation_of_angles(np.array([0, 0, angles[2]]))
        @ rotation_of_angles(np.array([0, angles[1], 0]))
        @ rotation_of_angles(np.array([angles[0], 0, 0]))
    )
    np.testing.assert_allclose(rotation, one_by_one, atol=1e-12)
