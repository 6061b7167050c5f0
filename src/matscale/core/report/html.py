"""Pages of one HTML file, which contains its data, styles and scripts: what all of them share."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from matscale.core.files import finite


def rendered(room: str, template: str, **values: Any) -> str:
    """Render a template of the assets of `room`, such as `report`; strings are escaped, `Markup` is not."""
    from jinja2 import Environment, StrictUndefined  # start-up: jinja2

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(asset(template, room)).render(**values)


def asset(name: str, room: str) -> str:
    """Text of a file in the folder `assets` of a room of `matscale.core`."""
    return files(f"matscale.core.{room}").joinpath("assets", name).read_text(encoding="utf-8")


def script_data(values: Any, *, sort_keys: bool = False) -> Markup:
    """Format values as JSON for a script element, which it cannot end: contents of one are not HTML, so not escaped."""
    told = json.dumps(finite(values), sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False)
    return Markup(told.replace("<", "\\u003c"))
