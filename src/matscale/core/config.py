"""Configuration: frozen pydantic models, TOML on disk, `a.b=c` on the command line.

A class is the default, the type, the documentation and the validation of its keys at once: a string under a field
is its help text. An unknown key is refused, and the nearest known one is named.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from matscale.core.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of every configuration section: immutable, strict about names, documented by its docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "configuration") -> Self:
        """Build from plain values. Raises ConfigError that names the key, what was given and what is possible."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"{where}: " + "; ".join(_explain(cls, e) for e in error.errors())) from None

    def plain(self) -> dict[str, Any]:
        """As JSON- and TOML-ready values; keys whose value is None are left out."""
        return self.model_dump(mode="json", exclude_none=True)


def _explain(cls: type[BaseModel], error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        owner = _section(cls, path[:-1])
        return f"unknown key {key!r}. {did_you_mean(path[-1], owner.model_fields if owner else ())}"
    reason = str(error["msg"]).removeprefix("Value error, ")  # pydantic's name for what our validators raise
    return f"{key} = {error['input']!r}: {reason}" if key else reason


def _section(cls: type[BaseModel] | None, path: Iterable[str]) -> type[BaseModel] | None:
    """The class that owns the keys at `path`, if it can be told from the annotations."""
    for part in path:
        if cls is None:
            return None
        field = cls.model_fields.get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        cls = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return cls


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`values` with each `a.b=c` applied; c is read as a TOML value, or as a string if it is none."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, for example --set optimizer.lr=1e-3.")
        *parents, last = path.strip().split(".")
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
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError with the file and line if it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML ({error}).") from None


def to_toml(values: Mapping[str, Any]) -> str:
    """TOML text of plain values."""
    return tomli_w.dumps(dict(values))
