"""Config as ROS parameters: declared by walking the dataclasses, checked by them, and changed as a whole or
not at all.
"""

from __future__ import annotations

import difflib
import threading
from typing import Any, Callable, Iterable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.parameter import Parameter

from qwen3vl_ros import config as configuration
from qwen3vl_ros.config import Config, by_camera, from_flat
from qwen3vl_ros.types import InvalidInput

_READ_AT_START = ("autostart", "cameras")
_OF_A_CAMERA = "camera."
_NOT_OURS = ("use_sim_time", "start_type_description_service")


class Parameters:
    """The node's parameters. `config` is always valid, and `of(camera)` is what holds for one of config.cameras; they are
    replaced, never changed in place.

    may_reload(): whether parameters that are not live may change now. changed(): called after a live change. Raises
    InvalidInput when the values given at start are not allowed.
    """

    def __init__(self, node, may_reload: Callable[[], bool], changed: Callable[[], None]):
        self._node, self._may_reload, self._changed = node, may_reload, changed
        self._lock = threading.Lock()
        self._known = {p.name: p for p in configuration.parameters()}
        self.config = from_flat(self._declared(self._known.values()))
        of_cameras = {p.name: p for p in configuration.camera_parameters(self.config.cameras)}
        self._own = self._declared(of_cameras.values())
        self._known |= of_cameras
        self._by_camera = by_camera(self.config, self._own)
        self._warn_of_unknown()
        node.add_on_set_parameters_callback(self._on_set)

    def of(self, camera: str) -> Config:
        """The configuration of one camera; "" is the one without a name."""
        return self._by_camera[camera]

    def _declared(self, parameters: Iterable[configuration.Parameter]) -> dict[str, Any]:
        """The values that were given at start, and the defaults of the others."""
        values = {}
        for p in parameters:
            try:
                values[p.name] = _given(
                    p, self._node.declare_parameter(p.name, _plain(p.default), descriptor_of(p)).value
                )
            except ParameterException as error:
                raise InvalidInput(f"parameter {p.name}: {error}; see config/perception.yaml") from error
        return {name: value for name, value in values.items() if value is not None}

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        ours = {p.name: _given(self._known[p.name], p.value) for p in parameters if p.name in self._known}
        with self._lock:
            for name in ours:
                if name in _READ_AT_START:
                    return _refused(f"parameter {name} is read when the process starts; give it there")
                if not self._known[name].live and not self._may_reload():
                    return _refused(
                        f"parameter {name} is read on configure; deactivate and clean up the node, set it, "
                        "then configure and activate again"
                    )
            try:
                config = from_flat({n: v for n, v in ours.items() if not n.startswith(_OF_A_CAMERA)}, self.config)
                own = {**self._own, **{n: v for n, v in ours.items() if n.startswith(_OF_A_CAMERA)}}
                own = {name: value for name, value in own.items() if value is not None}
                configs = by_camera(config, own)
            except InvalidInput as error:
                return _refused(str(error))
            self.config, self._own, self._by_camera = config, own, configs
        if ours:
            self._changed()
        return SetParametersResult(successful=True)

    def _warn_of_unknown(self) -> None:
        # rclpy offers no public list of what was given; a misspelt parameter would be ignored in silence.
        for name in getattr(self._node, "_parameter_overrides", {}):
            if name in self._known or name in _NOT_OURS or name.startswith("qos_overrides."):
                continue
            camera = name.split(".")[1] if name.startswith(_OF_A_CAMERA) else None
            near = difflib.get_close_matches(name, self._known, 1)
            if camera is not None and camera not in self.config.cameras:
                why = f": parameter cameras names {', '.join(self.config.cameras) or 'none'}"
            else:
                why = f"; did you mean {near[0]!r}?" if near else ""
            self._node.get_logger().warning(f"parameter {name!r} is unknown and ignored{why}")


def descriptor_of(parameter: configuration.Parameter) -> ParameterDescriptor:
    """Doc and range as `ros2 param describe` shows them."""
    descriptor = ParameterDescriptor(
        name=parameter.name, description=parameter.doc, read_only=parameter.name in _READ_AT_START
    )
    if parameter.choices:
        descriptor.additional_constraints = "one of: " + ", ".join(parameter.choices)
    elif not parameter.live:
        descriptor.additional_constraints = "read on configure"
    # 1 is a fine value for a number of seconds: Config turns it into 1.0 and rejects what is no number.
    descriptor.dynamic_typing = isinstance(parameter.default, (float, tuple, type(None)))
    if parameter.range:
        low, high = parameter.range
        if isinstance(low, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            ]
    return descriptor


def _given(parameter: configuration.Parameter, value):
    """An empty list has no type in ROS: it comes as nothing at all, or as an empty list of anything."""
    no_items = value is None or (not isinstance(value, (str, bool, int, float)) and len(value) == 0)
    return () if isinstance(parameter.default, tuple) and no_items else value


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _refused(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)
