"""Units: UCUM codes, how faces write them, and what a value in one is in another of the same kind.

Source: the Unified Code for Units of Measure (ucum.org). Knows nothing of dials and points.
"""

from __future__ import annotations

from qwen3vl_ros.types import InvalidInput, quoted

# UCUM code -> (kind, factor, offset to the kind's base unit, how it is written on faces and in files)
_UNITS: dict[str, tuple[str, float, float, tuple[str, ...]]] = {
    "Pa": ("pressure", 1.0, 0.0, ("pa",)),
    "kPa": ("pressure", 1e3, 0.0, ("kpa",)),
    "MPa": ("pressure", 1e6, 0.0, ("mpa",)),
    "mbar": ("pressure", 1e2, 0.0, ()),
    "bar": ("pressure", 1e5, 0.0, ()),
    "[psi]": ("pressure", 6894.757, 0.0, ("psi", "lbf/in2", "lb/in2")),
    "kgf/cm2": ("pressure", 98066.5, 0.0, ("kgf/cm²", "kg/cm2", "kg/cm²")),
    "Cel": ("temperature", 1.0, 0.0, ("°c", "℃", "c", "degc")),
    "[degF]": ("temperature", 5 / 9, -160 / 9, ("°f", "℉", "f", "degf")),
    "K": ("temperature", 1.0, -273.15, ()),
    "V": ("voltage", 1.0, 0.0, ()),
    "mV": ("voltage", 1e-3, 0.0, ()),
    "kV": ("voltage", 1e3, 0.0, ()),
    "A": ("current", 1.0, 0.0, ()),
    "mA": ("current", 1e-3, 0.0, ()),
    "kW": ("power", 1e3, 0.0, ()),
    "W": ("power", 1.0, 0.0, ()),
    "Hz": ("frequency", 1.0, 0.0, ()),
    "L/min": ("flow", 1.0, 0.0, ("l/min", "lpm")),
    "L/h": ("flow", 1 / 60, 0.0, ("l/h",)),
    "m3/h": ("flow", 1000 / 60, 0.0, ("m³/h",)),
    "{rpm}": ("speed", 1.0, 0.0, ("rpm", "/min", "r/min")),
    "%": ("share", 1.0, 0.0, ("percent",)),
    "%{RH}": ("humidity", 1.0, 0.0, ("%rh", "% rh")),
    "m": ("length", 1.0, 0.0, ()),
    "cm": ("length", 1e-2, 0.0, ()),
    "mm": ("length", 1e-3, 0.0, ()),
    "L": ("volume", 1.0, 0.0, ("l", "litre", "liter")),
    "m3": ("volume", 1e3, 0.0, ("m³",)),
    "kg": ("mass", 1.0, 0.0, ()),
    "1": ("number", 1.0, 0.0, ("",)),
}
_WRITTEN = {name.lower(): code for code, (*_, names) in _UNITS.items() for name in (code, *names)}


def code_of(written: str) -> str:
    """The UCUM code of a unit as a file or a face has it, "" for one that is unknown."""
    text = written.strip()
    return text if text in _UNITS else _WRITTEN.get(text.lower(), "")


def checked(written: str) -> str:
    """The UCUM code. Raises InvalidInput."""
    code = code_of(written)
    if not code:
        raise InvalidInput(f"unit {quoted(written)} is unknown; use one of {', '.join(_UNITS)}")
    return code


def converted(value: float, unit: str, to: str) -> float | None:
    """value in another unit, both UCUM codes; None where they measure different things."""
    if unit not in _UNITS or to not in _UNITS or _UNITS[unit][0] != _UNITS[to][0]:
        return None
    (_, factor, offset, _), (_, to_factor, to_offset, _) = _UNITS[unit], _UNITS[to]
    return (value * factor + offset - to_offset) / to_factor
