"""Package that `matscale plugins new` writes: copies of the files in `template/`, with names filled in."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from string import Template

from matscale.core.errors import ConfigError
from matscale.core.files import make_folder, replacing_folder, write_text
from matscale.version import API_VERSION, __version__

FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "$module.py": "module.py.txt",
    "tests/test_$module.py": "tests/test_module.py.txt",
}
"""Template of each file, by the path of the file in the package."""


def names(name: str, taken: Collection[str] = ()) -> dict[str, str]:
    """Values of the placeholders in the templates, for a plugin `name`.

    Raises ConfigError for a name that is invalid or taken.
    """
    if not re.fullmatch(r"[a-z](?:[a-z0-9]|[_-](?=[a-z0-9]))*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a plugin: use small letters, digits and single _ or - between them, "
            "starting with a letter, and no keyword of Python. For example: mymodel."
        )
    if name in taken:
        raise ConfigError(f"There is a plugin {name!r} already (`matscale plugins list`). Choose another name.")
    return {
        "name": name,
        "distribution": f"matscale-{name.replace('_', '-')}",
        "module": f"matscale_{name.replace('-', '_')}",
        "title": "".join(part.capitalize() for part in re.split("[_-]", name)),
        "matscale": __version__,
        "api": repr(API_VERSION),
    }


def write(folder: Path, values: dict[str, str]) -> list[Path]:
    """Write the package into a new folder. Raises ConfigError if the folder exists, DiskError if it cannot be made."""
    if os.path.lexists(folder):
        raise ConfigError(f"{folder} exists already: nothing was written. Remove it, or name another folder with -o.")
    make_folder(folder.parent)
    written = []
    with replacing_folder(folder) as building:
        for target, source in FILES.items():
            path = Path(Template(target).substitute(values))
            make_folder((building / path).parent)
            write_text(building / path, _filled(source, values))
            written.append(folder / path)
    return written


def _filled(source: str, values: dict[str, str]) -> str:
    template = files("matscale.cli").joinpath("template").joinpath(source).read_text(encoding="utf-8")
    return Template(template).substitute(values)
