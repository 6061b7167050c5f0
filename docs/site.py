"""Pages of the documentation site that are made from the code: `mkdocs build` runs these functions.

The start page is README.md, the reference of keys comes from the classes of the configuration, and files outside
`docs` to which a page links are copied into the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import matscale
import matscale.plugin
from matscale.core.hosting.host import host
from matscale.core.runs.config import TrainConfig
from matscale.core.study.config import Study

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!\w+:|#)([\w./-]+)")
"""Relative link of a page, without its anchor."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page, the reference, llms.txt, and the files outside `docs` to which pages link."""
    made = {
        "reference/configuration.md": _keys(),
        "reference/python.md": _api("From Python", "matscale", matscale.__all__),
        "reference/plugin.md": _api("For plugins", "matscale.plugin", dir(matscale.plugin)),
        "llms.txt": _list_for_language_models(config),
    }
    sources = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for source in sources:  # grows while it is read
        text = source.read_text(encoding="utf-8")
        if source.suffix == ".md":
            linked = [(source.parent / target).resolve() for target in LINK.findall(text)]
            sources += [path for path in linked if path.is_file() and path not in sources and path.suffix != ".png"]
        if source.parent != ROOT / "docs":
            made[_place(source)] = _relinked(text, source) if source.suffix == ".md" else text
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links of a page in `docs` to the places of their targets in the site."""
    source = ROOT / "docs" / page.file.src_uri
    return _relinked(markdown, source) if source.exists() else markdown


def _place(source: Path) -> str:
    """Path in the site of a file of the repository."""
    if source == ROOT / "README.md":
        return "index.md"
    within = source.relative_to(ROOT)
    return within.relative_to("docs").as_posix() if within.parts[0] == "docs" else f"files/{within.as_posix()}"


def _relinked(text: str, source: Path) -> str:
    """Text of the page `source`, with links that fit its place in the site."""
    folder = posixpath.dirname(_place(source))

    def moved(link: re.Match[str]) -> str:
        target = (source.parent / link[1]).resolve()
        return f"]({posixpath.relpath(_place(target), folder or '.')}" if target.is_file() else link[0]

    return LINK.sub(moved, text)


class Examples(griffe.Extension):
    """Fences the examples of docstrings, so that they are shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            blocks = re.split(r"\n{2,}", obj.docstring.value)
            fenced = [f"```pycon\n{block}\n```" if block.startswith(">>> ") else block for block in blocks]
            obj.docstring.value = "\n\n".join(fenced)


def _api(title: str, module: str, names: list[str]) -> str:
    """Page with the docstrings of the classes and functions `names`, which users import from `module`."""
    parts = [f"# {title}", f"`from {module} import ...`"]
    for name in names:
        value = getattr(import_module(module), name)
        where = getattr(value, "__module__", None)
        if not name.startswith("_") and callable(value) and where and where.startswith("matscale."):
            parts.append(f"::: {where}.{value.__qualname__}")
    return "\n\n".join(dict.fromkeys(parts)) + "\n"


def _keys() -> str:
    """Markdown of all keys: of a run, of a study, and of each architecture."""
    parts = [
        "# Keys of the configuration\n\nEvery key of a run can be set in a file (`matscale train config.toml`) or by "
        "`--set KEY=VALUE`. A study file has the keys of a study, with keys of runs under `[set]`.",
        "## Runs",
        *_section(TrainConfig, ""),
        "## Studies",
        *_section(Study, ""),
        "## Architectures\n\nKeys below `architecture.config`, for each architecture.",
    ]
    for architecture in host().architectures():
        parts += [f"### {architecture.name}\n\n{architecture.summary}", _table(architecture.config)]
    return "\n\n".join(parts) + "\n"


def _section(cls: type[BaseModel], path: str) -> Iterator[str]:
    """Table of the keys of `cls`, then those of its sections."""
    yield _table(cls)
    for name, field in cls.model_fields.items():
        inner = next(_models(field.annotation), None)
        if inner is not None and inner.model_fields:
            where = f"{path}{field.alias or name}"
            yield f"### [{where}]" + (f"\n\n{field.description}" if field.description else "")
            yield from _section(inner, f"{where}.")


def _table(cls: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in cls.model_fields.items():
        inner = next(_models(field.annotation), None)
        if inner is not None and inner.model_fields and not field.description:
            continue
        meaning = (field.description or "").replace("|", "\\|")
        cells = [f"`{field.alias or name}`", f"`{_kind(field.annotation)}`", _default(field), meaning]
        rows.append("| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |")
    return "\n".join(rows)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _kind(annotation: Any) -> str:
    """Type as a reader writes it, such as `int | None`, without the checks that are attached to it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_kind, parts))
    if annotation is NoneType or annotation is Ellipsis:
        return "None" if annotation is NoneType else "..."
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(_kind, parts))}]" if parts else name


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or isinstance(field.default, BaseModel):
        return "none"
    return "none" if field.default is None else f"`{field.default!r}`"


def _list_for_language_models(config: MkDocsConfig) -> str:
    """Text of llms.txt: the pages by their titles."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    titles = [(page.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# "), page.name) for page in pages]
    head = [f"# {config.site_name}", "", f"> {config.site_description}", "", "## Pages", ""]
    return "\n".join([*head, *(f"- [{title}]({name})" for title, name in titles)]) + "\n"
