"""Configuration as classes: each section is a frozen pydantic model, read from TOML or from `a.b=c` options.

The fields of a class are the keys of the section, with their types and defaults. The docstring of a field is the help
text of the key. An unknown key raises an error that names the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from matscale.core import parsing
from matscale.core.errors import ConfigError, did_you_mean
from matscale.core.parsing import MAX_DEPTH, Malformed, parse_toml


class Config(BaseModel):
    """Base class of all configuration sections. Objects cannot be changed, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "configuration") -> Self:
        """Make a section from a dictionary. `where` names the origin of the values in messages.

        Raises ConfigError that names the wrong key, the given value and what is expected.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} = {repr(values)[:_SHOWN]}: expected a table of keys.")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"{where}: " + "; ".join(_explain(cls, values, e) for e in error.errors())) from None

    def plain(self) -> dict[str, Any]:
        """Convert to values for JSON and TOML. Keys whose value is None are left out."""
        return self.model_dump(mode="json", exclude_none=True)


_SHOWN = 200
"""Largest number of characters of a wrong value in a message."""
_KINDS = dict.fromkeys(("model_type", "dict_type", "mapping_type"), "expected a table of keys")
_KINDS |= dict.fromkeys(("tuple_type", "list_type"), "expected a list")
"""Messages for wrong types, by the name of pydantic's error. They use words of TOML, such as table, not dictionary."""


def _explain(cls: type[BaseModel], values: Mapping[str, Any], error: Any) -> str:
    path = _path(values, error["loc"])
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        owner = _section(cls, path[:-1])
        known = [field.alias or name for name, field in owner.model_fields.items()] if owner else ()
        return f"unknown key {key!r}. {did_you_mean(path[-1], known)}"
    if error["type"] == "missing":
        return f"{'.'.join([*path, str(error['loc'][-1])])} is missing"
    said = str(error["msg"]).removeprefix("Value error, ")  # pydantic's name for errors of the validators here
    reason = _KINDS.get(error["type"], said)
    given = repr(error["input"])
    given = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
    return f"{key} = {given}: {reason}" if key else reason


def _path(values: Any, loc: Iterable[str | int]) -> list[str]:
    """Keys that lead to the wrong value, from the location `loc` of pydantic's error.

    pydantic adds the names of members of a union to a location; they are left out here.
    """
    path = []
    for part in loc:
        is_place = isinstance(values, list | tuple) and isinstance(part, int)
        if is_place or (isinstance(values, Mapping) and part in values):
            values = values[part]
            path.append(str(part))
    return path


def _section(cls: type[BaseModel] | None, path: Iterable[str]) -> type[BaseModel] | None:
    """Class of the section at `path`; None if the annotations do not define it."""
    for part in path:
        if cls is None:
            return None
        if not part.isdecimal():  # otherwise an index in a list of such sections
            field = next((f for name, f in cls.model_fields.items() if part in (name, f.alias)), None)
            cls = next(_models(field.annotation), None) if field else None
    return cls


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Copy `values`, with each assignment `a.b=c` applied. The text c is a TOML value, or else a string.

    >>> override({"seed": 0}, ["optimizer.lr=1e-3", "data.path=emt"])
    {'seed': 0, 'optimizer': {'lr': 0.001}, 'data': {'path': 'emt'}}
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, for example --set optimizer.lr=1e-3.")
        *parents, last = path.strip().split(".")
        if len(parents) >= MAX_DEPTH:
            raise ConfigError(f"--set {assignment[:60]}...: {len(parents) + 1} levels; no key is that deep.")
        section = result
        for parent in parents:
            child = section.get(parent, {})
            if not isinstance(child, Mapping):
                raise ConfigError(f"--set {assignment}: {parent!r} is a value, not a section.")
            section[parent] = section = dict(child)
        section[last] = _value(text.strip())
    return result


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except Malformed:
        return text


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises ConfigError with the file, and the line of a fault, if the file is missing or not TOML.
    """
    return parsing.read_toml(path)


def to_toml(values: Mapping[str, Any]) -> str:
    """Format plain values as TOML text.

    >>> print(to_toml({"seed": 0, "trackers": []}), end="")
    seed = 0
    trackers = []
    """
    return tomli_w.dumps(dict(values))
