"""What a model wants a tool to do is no answer: no form of a call becomes an object, and what stands beside it is read."""

import json
import sys

import pytest
from answers import A_PX, ASK, BOTH, MUG, POINT, SIZE, A, boxes, outcome, said

from qwen3vl_ros.questions import Detect, Gauge, ReadText
from qwen3vl_ros.types import MalformedAnswer, View

ARGUMENTS = '{"bbox_2d": [50, 100, 600, 700], "label": "mug"}'
CALL = f'{{"name": "image_zoom_in_tool", "arguments": {ARGUMENTS}}}'

CALLS = {
    "tagged": f"<tool_call>\n{CALL}\n</tool_call>",
    "tagged, with the published arguments": '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": '
    '[50,100,600,700], "img_idx": 0}}</tool_call>',
    "tagged, never closed": f"<tool_call>\n{CALL}",
    "tagged, cut short": f"<tool_call>\n{CALL[:60]}",
    "tagged, in capitals": f"<TOOL_CALL>{CALL}</TOOL_CALL>",
    "tagged, two": f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>",
    "with parameters as elements": "<tool_call>\n<function=zoom>\n<parameter=bbox_2d>\n[50, 100, 600, 700]\n</parameter>\n"
    "</function>\n</tool_call>",
    "function element alone": "<function=zoom>\n<parameter=bbox_2d>\n[50, 100, 600, 700]\n</parameter>\n</function>",
    "invoke element": '<invoke name="zoom"><parameter name="bbox_2d">[50,100,600,700]</parameter></invoke>',
    "function_call element": f"<function_call>{CALL}</function_call>",
    "with an imagined response": f"<tool_call>{CALL}</tool_call><tool_response>[{A}]</tool_response>",
    "JSON alone": CALL,
    "JSON, fenced": f"```json\n[{CALL}]\n```",
    "JSON, opening brace lost": CALL[1:],
    "parameters for arguments": CALL.replace("arguments", "parameters"),
    "arguments as a string": json.dumps({"name": "zoom", "arguments": ARGUMENTS}),
    "function in an object": f'{{"type": "function", "function": {CALL}}}',
    "as servers send it": f'{{"role": "assistant", "content": null, "tool_calls": [{{"id": "1", "function": {CALL}}}]}}',
    "tool and input": f'{{"tool": "crop", "input": {ARGUMENTS}}}',
    "tool beside its arguments": '{"tool": "zoom", "bbox_2d": [50, 100, 600, 700], "label": "mug"}',
    "name of a tool beside its arguments": '{"name": "image_zoom_in_tool", "bbox_2d": [50, 100, 600, 700]}',
    "tool as key": f'{{"image_zoom_in_tool": {ARGUMENTS}}}',
    "tool as key in prose": f"image_zoom_in_tool: {ARGUMENTS}",
    "action and its input": f'{{"thought": "closer", "action": "zoom", "action_input": {ARGUMENTS}}}',
    "recipient": f'{{"recipient_name": "functions.zoom", "parameters": {ARGUMENTS}}}',
    "JSON in typographic quotes": CALL.replace('"', "”"),
    "JSON with quotes as entities": CALL.replace('"', "&quot;"),
    "JSON encoded twice": json.dumps(CALL),
    "ReAct": f"Thought: I should look closer.\nAction: image_zoom_in_tool\nAction Input: {ARGUMENTS}",
    "ReAct, imagined to its end": f"Action: zoom\nAction Input: {ARGUMENTS}\nObservation: [{A}]",
    "ReAct in bold and code": f"**Action:** `zoom`\n**Action Input:** {ARGUMENTS}",
    "ReAct in Chinese": f"行动：image_zoom_in_tool\n行动输入：{ARGUMENTS}",
    "ReAct with brackets": "Action: Crop[50, 100, 600, 700]",
    "ReAct as code": "Action: zoom(bbox_2d=[50, 100, 600, 700])",
    "ReAct in words": "Action: Zoom in on the mug at [50, 100, 600, 700]",
    "tool and parameters in lines": "Tool: zoom\nParameters: [50, 100, 600, 700]",
    "code": 'image_zoom_in_tool(bbox_2d=[50, 100, 600, 700], label="mug")',
    "code in a fence": "```tool_code\nzoom([50, 100, 600, 700])\n```",
    "code in a Python fence": "```python\nprint(tools.zoom(image, [50, 100, 600, 700]))\n```",
    "code without keywords": "crop([50, 100, 600, 700])",
    "in words": f"I will call image_zoom_in_tool with {ARGUMENTS}",
    "in words, numbers alone": "Let me zoom in on [50, 100, 600, 700] to take a closer look.",
    "Mistral's marker": f"[TOOL_CALLS] [{CALL}]",
    "Llama's marker": f"<|python_tag|>{CALL}",
    "DeepSeek's markers": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>zoom\n```json\n{ARGUMENTS}\n```"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "Kimi's markers": f"<|tool_calls_section_begin|><|tool_call_begin|>zoom:0<|tool_call_argument_begin|>{ARGUMENTS}"
    "<|tool_call_end|><|tool_calls_section_end|>",
    "gpt-oss's channel": f"<|channel|>commentary to=functions.zoom <|message|>{ARGUMENTS}<|call|>",
    "Qwen-Agent's older form": f"✿FUNCTION✿: zoom\n✿ARGS✿: {ARGUMENTS}",
}


@pytest.mark.parametrize("question", [MUG, BOTH, POINT], ids=["one", "two", "point"])
@pytest.mark.parametrize("text", CALLS.values(), ids=CALLS.keys())
def test_a_call_is_never_an_object_and_never_nothing(text, question):
    assert outcome(question, text) == ("malformed", [])


POINTING_CALLS = {
    "a click": '{"action": "click", "coordinate": [100, 200]}',
    "a click by type": '{"type": "click", "coordinate": [100, 200]}',
    "a phone's tool": '{"name": "mobile_use", "arguments": {"action": "click", "coordinate": [100, 200]}}',
    "a click as code": 'Action: click(start_box="(100,200)")',
    "a click at box tokens": "Action: click(start_box='<|box_start|>(100,200)<|box_end|>')",
}


@pytest.mark.parametrize("text", POINTING_CALLS.values(), ids=POINTING_CALLS.keys())
def test_an_action_on_a_screen_is_no_point(text):
    assert outcome(POINT, text) == ("malformed", [])


@pytest.mark.parametrize("text", [CALLS["tagged"], CALLS["ReAct"], CALLS["code"]])
def test_the_error_names_the_tool_that_was_called(text):
    with pytest.raises(MalformedAnswer, match="calls a tool .*image_zoom_in_tool"):
        MUG.read(said(text), (View(SIZE),))


BESIDE_A_CALL = {
    "before": f"[{A}]\n<tool_call>{CALL}</tool_call>",
    "behind": f"<tool_call>{CALL}</tool_call>\n[{A}]",
    "final answer": f"Action: zoom\nAction Input: {ARGUMENTS}\nObservation: done\nFinal Answer: [{A}]",
    "final answer in Chinese": f"动作：zoom\n动作输入：{ARGUMENTS}\n最终答案：[{A}]",
    "in one list": f"[{CALL}, {A}]",
    "below a fence": f"```tool_code\nzoom([5, 10, 60, 70])\n```\n```json\n[{A}]\n```",
    "code, then the answer": f"zoom(bbox_2d=[5, 10, 60, 70])\n[{A}]",
}


@pytest.mark.parametrize("text", BESIDE_A_CALL.values(), ids=BESIDE_A_CALL.keys())
def test_an_answer_beside_a_call_is_read_and_the_call_is_noted(text):
    answer = BOTH.read(said(text), (View(SIZE),))
    assert boxes(answer) == [A_PX] and any("tool" in note for note in answer.notes)


NO_CALLS = {
    "constructor": "[Box(bbox_2d=[100, 200, 300, 400], label='mug')]",
    "constructor of a detection": 'Detection(label="mug", bbox_2d=[100, 200, 300, 400])',
    "dict of Python": "[dict(bbox_2d=[100, 200, 300, 400], label='mug')]",
    "name that is a target": '[{"name": "mug", "bbox_2d": [100, 200, 300, 400]}]',
    "what is done with it": '[{"label": "mug", "action": "pouring", "bbox_2d": [100, 200, 300, 400]}]',
    "what it is for": '[{"label": "mug", "function": "drinking", "bbox_2d": [100, 200, 300, 400]}]',
    "an agent's last word": f'{{"action": "Final Answer", "action_input": [{A}]}}',
    "an agent's last word as code": f"final_answer([{A}])",
    "pictures by number": f'{{"image_1": [{A}]}}',
    "a wrapper of images": f'{{"image_objects": [{A}]}}',
    "a wrapper of results": f'{{"detect_results": [{A}]}}',
    "plural in brackets": f"The mug(s), as asked(1, 2): [{A}]",
}


@pytest.mark.parametrize("text", NO_CALLS.values(), ids=NO_CALLS.keys())
def test_what_only_looks_like_a_call_stays_an_object(text):
    assert boxes(BOTH.read(said(text), (View(SIZE),))) == [A_PX]


def test_a_tool_that_was_asked_for_is_a_thing():
    assert outcome(Detect(("hammer",)), '[{"tool": "hammer", "bbox_2d": [1, 2, 30, 40]}]') == ("objects", ["hammer"])
    assert outcome(Detect(("tool", "saw")), '{"tool": [1, 2, 30, 40]}') == ("objects", ["tool"])
    assert outcome(Detect(("function key",)), '{"label": "function key", "bbox_2d": [1, 2, 30, 40]}')[0] == "objects"


def test_a_free_answer_is_no_call_and_a_call_beside_words_gives_no_object():
    assert outcome(ASK, CALLS["tagged"]) == ("malformed", [])
    answer = ASK.read(said(f"Let me look closer. {CALLS['tagged']}"), (View(SIZE),))
    assert answer.detections == () and answer.value.startswith("Let me look closer.")


def test_code_in_a_line_of_text_is_text():
    lines = ["zoom(bbox=[1, 2, 3, 4])", "<tool_call>", "<box>[1, 2, 3, 4]</box>"]
    text = json.dumps([{"bbox_2d": [100, 200, 300, 400 + i], "text_content": line} for i, line in enumerate(lines)])
    assert outcome(ReadText(), text) == ("objects", lines)


def test_a_gauge_is_not_read_from_the_arguments_of_a_call():
    call = '{"name": "set_valve", "arguments": {"value": 1.8, "unit": "MPa"}}'
    for text in (call, f"<tool_call>{call}</tool_call>"):
        with pytest.raises(MalformedAnswer):
            Gauge().read(said(text), (View(SIZE),))
    assert Gauge().read(said(f'{call}\n{{"value": 1.2, "unit": "MPa"}}'), (View(SIZE),)).value.value == 1.2


@pytest.mark.parametrize("text", ["[%s]", "```json\n[%s]\n```", "The mug (red) is here: [%s]"])
def test_what_calls_no_tool_is_read_once(text):
    readings = []

    def heard(frame, event, _):
        if event == "call" and frame.f_code.co_name == "tokens_of":
            readings.append(frame)

    generation = said(text % A)
    sys.setprofile(heard)
    try:
        answer = Detect(("mug",)).read(generation, (View(SIZE),))
    finally:
        sys.setprofile(None)
    assert len(answer.detections) == 1 and len(readings) == 1
