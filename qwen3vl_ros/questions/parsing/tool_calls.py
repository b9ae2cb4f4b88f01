"""Calls of tools in an answer: found and blanked out, because what a model wants to be done is not what it sees.

Reads the forms that models and agents write: tagged (`<tool_call>`), the markers of other families, fenced (```tool_code),
ReAct ("Action: … Action Input: …"), code (`zoom(bbox=[…])`) and JSON ({"name": …, "arguments": …}). What a tool is imagined to
reply is no answer either. Knows nothing of coordinates. Linear in the length of the text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import Iterator, NamedTuple

from qwen3vl_ros.questions.parsing import keys
from qwen3vl_ros.questions.parsing.fields import EMPTY_WORDS, Field
from qwen3vl_ros.questions.parsing.shapes import is_geometry
from qwen3vl_ros.questions.parsing.tokens import Quoted, Token, blanked, tokens_of
from qwen3vl_ros.questions.parsing.tolerant_json import Object, Parsed, read
from qwen3vl_ros.questions.parsing.wanted import Wanted


class ToolCall(NamedTuple):
    """A call in text[start:end], by the name of its tool where that is said."""

    start: int
    end: int
    name: str = ""


_TAGGED = re.compile(
    r"<(?P<tag>tool_?calls?|function_?calls?|tool_?use|tool_?code|tool_?(?:response|result)s?|function_?results?|invoke"
    r"|function(?==))\b[^<>]*>",
    re.IGNORECASE,
)
# What begins at a marker ends at the closing one, else with the answer.
_MARKED = tuple(
    (re.compile(beginning), ending)
    for beginning, ending in (
        (r"<[|｜](?P<what>tool[▁_]?calls?(?:[▁_]section)?)[▁_]begin[|｜]>", r"<[|｜]{what}[▁_]end[|｜]>"),
        (r"<\|tool_call(?:_start)?\|?>", r"<\|?/?tool_call(?:_end)?\|>|</tool_call>"),
        (r"<start_function_call>", r"<end_function_call>"),
        (r"<\|channel\|>commentary to=", r"<\|call\|>"),
        (r"<\|python_tag\|>|\[TOOL_CALLS\]|✿FUNCTION✿", r"<\|eom_id\|>|✿RETURN✿"),
    )
)
_FENCED = re.compile(r"```[ \t]*(?:tool_?\w*|function_?calls?|action)[ \t]*\r?\n", re.IGNORECASE)
_NAME = r"[\"'`]?(?P<name>[A-Za-z_][\w.\-]{0,80})[\"'`]?"
_ARGUMENTS_AHEAD = (
    r"\s*(?:[(\[{]|[\W_]{0,4}(?:(?:action|tool|function|行动|动作|工具)[ _]?)?"
    r"(?:input|arguments?|args|parameters?|params|输入|参数)[\W_]{0,4}[:：])"
)
_REACT = re.compile(
    r"^[^\w\n]{0,4}(?:action|tool|function|(?:tool|function)[ _]?call|行动|动作|工具|函数|调用)(?:[ _]?name|名称?)?"
    rf"[^\w\n]{{0,3}}[:：][^\w\n]{{0,3}}{_NAME}{_ARGUMENTS_AHEAD}",
    re.IGNORECASE | re.MULTILINE,
)
_INTENDED = re.compile(
    r"^[^\w\n]{0,4}(?:action|行动|动作)[^\w\n]{0,3}[:：][^\w\n]{0,3}"
    r"(?P<name>zoom|crop|click|tap|search|scroll|swipe|drag|放大|裁剪|点击|搜索)",
    re.IGNORECASE | re.MULTILINE,
)
_FINAL_ANSWER = re.compile(
    r"^[^\w\n]{0,4}(?:final[ _]?answer|answer|最终答案|答案|回答)[^\w\n]{0,3}[:：]", re.IGNORECASE | re.MULTILINE
)
_IN_WORDS = re.compile(
    r"(?:\b(?:call|calling|use|using|invoke|invoking|run|running)|调用|使用)\s*(?:the )?(?:tool|function|工具|函数)?\s*"
    rf"{_NAME}[^\[{{\n]{{0,60}}(?=[\[{{])",
    re.IGNORECASE,
)
_KEYWORD = re.compile(r"\s*(?:\w+\s*=|\{)")
_DOTTED = re.compile(r"[A-Za-z_][\w.]*$|\w+$")
_MAX_NAME = 80
_CALLED = re.compile(r"\w\(")
_TWO_NUMBERS = re.compile(r"\d\s*,\s*[-+]?\d")
# Code that makes a thing rather than calling a tool: Box(…), Detection(…), dict(…).
_CONSTRUCTED = set(
    "dict box bbox rect object detection item instance result annotation label prediction region entity point".split()
)
# No tool, but what it all comes to.
_ANSWERS = re.compile(r"(?:final|the)?[ _]?answer|finish|respond|最终答案", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_ARGUMENTS = set("arguments args kwargs toolinput actioninput functionarguments toolarguments 工具参数".split())
_PERHAPS_ARGUMENTS = {"parameters", "params", "input", "inputs", "参数"}
_CALLS = {"toolcall", "toolcalls", "functioncall", "functioncalls", "tooluse", "tooluses"}
_NAMES = ("name", "action", "actiontype", "type")
_TOOL = {"tool", "toolname", "function", "functionname", "api", "recipientname", "command", "工具", "函数"}
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.\-/:]*")
_VERBS = set(
    "zoom crop search click doubleclick tap longpress press scroll swipe type drag hover screenshot call invoke run execute fetch "
    "browse get query locate detect segment ocr rotate resize select".split()
)
_FAMILIES = set("image video code web computer mobile browser".split())
_FAMILY_VERBS = _VERBS | {"use", "interpreter"}


def without_calls(text: str, start: int, wanted: Wanted) -> tuple[str, list[ToolCall], Parsed]:
    """The text with spaces for every call in text[start:], each character in its place; the calls; and the rest, read."""
    calls: list[ToolCall] = []
    for find in (_marked, _react, _code, _in_words):
        found = list(find(text, start, wanted))
        text = blanked(text, [(call.start, call.end) for call in found])
        calls += found
    reading = read(text, start)
    found = list(_json(reading, wanted))
    if found:
        text = blanked(text, [(call.start, call.end) for call in found])
        reading = read(text, start)
    return text, calls + found, reading


# -- in text ------------------------------------------------------------------------------------------------------------


def _marked(text: str, start: int, wanted: Wanted) -> Iterator[ToolCall]:
    """Between tags, markers and fences; a call that is never closed goes on to the end."""
    quoted = Quoted(text, start)
    for beginning, ending in ((_TAGGED, r"</{tag}\s*>"), (_FENCED, "```"), *_MARKED):
        at = start
        while (match := beginning.search(text, at)) is not None:
            at = match.end()
            if match.start() in quoted:
                continue
            groups = {name: re.escape(group) for name, group in match.groupdict().items()}
            end = re.compile(ending.format(**groups), re.IGNORECASE).search(text, at)
            at = end.end() if end else len(text)
            yield ToolCall(match.start(), at, _name_within(text[match.start() : min(at, match.start() + 300)]))


def _name_within(call: str) -> str:
    """The name of the tool, in whichever form it is called."""
    named = re.search(
        r"\"(?:name|tool|function)\"\s*:\s*\"([\w.\-]+)|(?:function=|name=\"|call:)([\w.\-]+)|([A-Za-z_][\w.]*)\(", call
    )
    return next((group for group in named.groups() if group), "") if named else ""


def _react(text: str, start: int, wanted: Wanted) -> Iterator[ToolCall]:
    """From "Action: name" with its input to the final answer, which may never come."""
    at = start
    actions = [match for action in (_REACT, _INTENDED) for match in action.finditer(text, start)]
    for match in sorted(actions, key=lambda match: match.start()):
        if match.start() >= at and not _ANSWERS.fullmatch(match["name"]):
            answer = _FINAL_ANSWER.search(text, match.end())
            at = answer.start() if answer else len(text)
            yield ToolCall(match.start(), at, match["name"])


def _code(text: str, start: int, wanted: Wanted) -> Iterator[ToolCall]:
    """name(…) with numbers in it, outside of strings."""
    if not _CALLED.search(text, start):
        return
    numbers = [m.start() for m in _TWO_NUMBERS.finditer(text, start)]
    tokens = tokens_of(text, start) if numbers else []
    closing = _closing_parentheses(tokens, len(text))
    at = start
    for word, following in zip(tokens, tokens[1:]):
        if word.kind != "word" or following.kind != "(" or following.start != word.end or word.start < at:
            continue
        end = closing[following.start]
        first = bisect_left(numbers, following.end)
        holds_numbers = first < len(numbers) and numbers[first] < end
        name = _DOTTED.search(text, max(start, word.start - _MAX_NAME), word.end)[0]
        if holds_numbers and _calls_by(name, bool(_KEYWORD.match(text, following.end)), wanted):
            at = end
            yield ToolCall(word.end - len(name), end, name)


def _calls_by(name: str, keyword: bool, wanted: Wanted) -> bool:
    """Whether `name(` calls a tool; prose is seldom followed by a keyword, and never by an underscore."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _CONSTRUCTED or keys.form_of(name) or wanted.target(name) or _ANSWERS.fullmatch(name):
        return False
    return keyword or "_" in name.strip("_") or "." in name or words[0] in _VERBS


def _closing_parentheses(tokens: list[Token], at_the_end: int) -> dict[int, int]:
    """For the start of each opening parenthesis the end of its pair."""
    pairs, stack = {}, []
    for token in tokens:
        if token.kind == "(":
            stack.append(token.start)
            pairs[token.start] = at_the_end
        elif token.kind == ")" and stack:
            pairs[stack.pop()] = token.end
    return pairs


def _in_words(text: str, start: int, wanted: Wanted) -> Iterator[ToolCall]:
    """I will call image_zoom_in_tool with [100, 200, 300, 400]."""
    for match in _IN_WORDS.finditer(text, start):
        if _is_tool(match["name"]) and not wanted.target(match["name"]):
            line = text.find("\n", match.end())
            yield ToolCall(match.start(), len(text) if line < 0 else line, match["name"])


# -- in JSON ------------------------------------------------------------------------------------------------------------


def _json(reading: Parsed, wanted: Wanted) -> Iterator[ToolCall]:
    inside: set[int] = set()
    for obj in sorted(reading.objects, key=lambda o: o.start):
        if id(obj.parent) in inside:
            inside.add(id(obj))
        elif (name := _called_by(obj, wanted)) is not None:
            inside.add(id(obj))
            yield ToolCall(obj.start if obj.braced else obj.fields[0].key_start - 1, obj.end, name)


def _called_by(obj: Object, wanted: Wanted) -> str | None:
    """The name of the tool that the object calls ("" where it is not said), None where it is no call."""
    fields = {keys.plain(f.key): f for f in obj.fields if not wanted.target(f.key)}
    names = {key: fields[key].text for key in (*_NAMES, *_TOOL) if key in fields and fields[key].kind == "text"}
    if any(wanted.target(name) or _ANSWERS.fullmatch(name) for name in names.values()):
        return None  # what was asked for goes by that name, whatever stands beside it
    tools = {k: n for k, n in names.items() if _IDENTIFIER.fullmatch(n) and n.lower() not in EMPTY_WORDS}
    name = next((n for key, n in tools.items() if key != "type"), "")
    if obj.within is not None and keys.plain(obj.within.key) in _CALLS:
        return name
    if obj.within is not None and _is_key_of_a_tool(obj.within.key) and not wanted.target(obj.within.key):
        return obj.within.key
    if any(_holds_arguments(fields[key]) for key in _ARGUMENTS if key in fields):
        return name
    if name and any(_holds_arguments(fields[key]) for key in _PERHAPS_ARGUMENTS if key in fields):
        return name
    return _called_outright(obj, tools, wanted)


def _called_outright(obj: Object, tools: dict[str, str], wanted: Wanted) -> str | None:
    """The tool of {"tool": "zoom", "bbox_2d": …}, whose arguments stand beside its name."""
    if not obj.children and not any(map(is_geometry, obj.fields)):
        return None
    others = [f for f in obj.fields if f.kind == "text" and keys.plain(f.key) not in (*_NAMES, *_TOOL)]
    labelled = "name" in tools or any(keys.named_by(f.key, wanted.label_keys) for f in others)
    for key, name in tools.items():
        if _is_tool(name) and (key != "name" or len(_WORDS.findall(name)) > 1):
            return name
        if key not in ("name", "type") and not labelled:
            return name
    return None


def _holds_arguments(f: Field) -> bool:
    return f.kind in ("open", "numbers") or (f.kind == "text" and f.text.lstrip()[:1] in ("{", "["))


def _is_tool(name: str) -> bool:
    """Whether the name is one that tools have and things have not: "image_zoom_in_tool", "crop"."""
    first, *rest = [word.lower() for word in _WORDS.findall(name)] or [""]
    return first in _VERBS or rest[-1:] == ["tool"] or (first in _FAMILIES and not _FAMILY_VERBS.isdisjoint(rest))


def _is_key_of_a_tool(key: str) -> bool:
    """Whether the key alone says that its value are a tool's arguments: {"image_zoom_in_tool": {"bbox_2d": …}}."""
    words = [word.lower() for word in _WORDS.findall(key)]
    return _is_tool(key) and (
        words[-1] == "tool" or not {"zoom", "crop", "click", "tap", "scroll", "swipe"}.isdisjoint(words[:2])
    )
