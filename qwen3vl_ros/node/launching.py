"""What a launch file makes of its arguments before it starts anything, and checks: the parameter file, the names of the
arguments, the topics of cameras.

Plain Python without launch, so that it is tested where there is none. Source: rcl_yaml_param_parser's rules for the names
of nodes in a parameter file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from qwen3vl_ros.types import InvalidInput


def check_parameter_file(path: str, node: str) -> str:
    """A warning if the file sets nothing of the node (its full name, /qwen3vl/perception); empty if it does.

    Raises InvalidInput for a file that is not there or is no parameter file.
    """
    if not Path(path).is_file():
        raise InvalidInput(f"params_file {path} does not exist or is no file; give the path of a parameter file")
    try:
        names = [name for document in yaml.safe_load_all(Path(path).read_text()) for name in _names_in(document)]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidInput(f"params_file {path} cannot be read: {error}") from error
    if not names:
        raise InvalidInput(f"params_file {path} sets no parameters; it must hold NODE: ros__parameters: NAME: VALUE")
    if any(_pattern_of(name).fullmatch(node) for name in names):
        return ""
    return (
        f"params_file {path} is for {', '.join(names)} and the node is {node}: nothing of it applies; begin it with "
        f"{node}: or /**:"
    )


def _names_in(document: object, above: str = "") -> Iterator[str]:
    """Full names of nodes; namespaces may be nested, and a name without a slash is of the root."""
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        if key == "ros__parameters":
            yield above or "/"
        else:
            yield from _names_in(value, f"{above}/{str(key).strip('/')}")


def _pattern_of(name: str) -> re.Pattern[str]:
    """`/*` is one part of a name, `/**` any number of them."""
    parts = {"**": r"(/\w+)*", "*": r"/\w+"}
    return re.compile("".join(parts.get(part, "/" + re.escape(part)) for part in name.strip("/").split("/")))


def misspelt(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """A warning for each argument that is none, but nearly one. Others may belong to a launch file that includes ours."""
    known = list(known)
    near = {name: difflib.get_close_matches(name, known, 1) for name in given if name not in known}
    return [
        f"launch argument {name!r} is unknown and ignored; did you mean {found[0]!r}?"
        for name, found in near.items()
        if found
    ]


def separated(text: str) -> list[str]:
    """The parts of an argument between its commas."""
    return [part.strip() for part in text.split(",")] if text.strip() else []


def remappings(topics: Mapping[str, tuple[str, str]], cameras: Sequence[str]) -> list[tuple[str, str]]:
    """The rules that give the node's cameras their topics.

    topics: of each topic of the node, as image_raw, the launch argument and what it was given: a topic or, with cameras,
    one of each, separated by commas in their order; nothing keeps the node's own name. Raises InvalidInput where the numbers
    differ.
    """
    rules = []
    for own, (argument, text) in topics.items():
        given = separated(text)
        if given and len(given) != len(cameras or [""]):
            raise InvalidInput(
                f"{argument} names {len(given)} topics for {len(cameras or [''])} cameras; give one of each camera, "
                "separated by commas (nothing between two commas keeps a camera's own)"
            )
        for camera, topic in zip(cameras or [""], given):
            name = f"{camera}/{own}" if camera else own
            suffixes = ("", "/compressed") if own == "image_raw" else ("",)
            rules += [(name + suffix, topic + suffix) for suffix in suffixes if topic]
    return rules
