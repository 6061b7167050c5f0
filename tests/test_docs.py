"""The README and the docs name only commands, options, files and imports that exist."""

from __future__ import annotations

import ast
import importlib
import itertools
import os
import re
import shlex
import subprocess
import textwrap
import unicodedata
from pathlib import Path

import click
import pytest

from matscale.cli import main
from matscale.core.config import Config, _section
from matscale.core.data.sources.filters import QUANTITIES
from matscale.core.data.sources.labels import TRAJECTORIES
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.hosting.host import host
from matscale.core.model.architecture import Architecture
from matscale.core.runs.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fenced(page: Path, language: str) -> list[str]:
    """The code blocks of `page` in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def shell_commands(page: Path) -> list[list[str]]:
    """Every `matscale ...` of the bash blocks, as arguments after the program's name."""
    commands = []
    for line in "".join(fenced(page, "bash")).replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            commands += [words[k + 1 :] for k, w in enumerate(words) if w == "matscale" or w.endswith("/matscale")]
    return commands


def mentions(page: Path) -> list[list[str]]:
    """Every `matscale ...` in running text, as arguments after the program's name."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [shlex.split(m.replace("\n", " "))[1:] for m in re.findall(r"`(matscale [^`]+)`", text)]


def resolve(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `arguments` name, and what is left of them."""
    command: click.Command = main
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        sub = command.get_command(click.Context(command), rest[0])
        assert sub is not None, f"no command {rest[0]!r} in: matscale {' '.join(arguments)}"
        command, rest = sub, rest[1:]
    return command, rest


def options(command: click.Command) -> set[str]:
    names = command.get_help_option_names(click.Context(command, help_option_names=["-h", "--help"]))
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | set(names)


def cases(collect: object) -> list[object]:
    return [
        pytest.param(arguments, id=f"{page.name}: {' '.join(arguments)}")
        for page in PAGES
        for arguments in collect(page)  # type: ignore[operator]
    ]


@pytest.mark.parametrize("arguments", [*cases(shell_commands), *cases(mentions)])
def test_a_command_in_the_docs_exists_with_its_options(arguments: list[str]) -> None:
    command, rest = resolve(arguments)
    unknown = {word.split("=")[0] for word in rest if word.startswith("-")} - options(command)
    assert not unknown


@pytest.mark.parametrize("arguments", cases(shell_commands))
def test_a_command_in_a_code_block_parses_with_its_arguments(arguments: list[str]) -> None:
    command, rest = resolve(arguments)
    assert not isinstance(command, click.Group), "a group does nothing by itself"
    values, _, _ = command.make_parser(click.Context(command)).parse_args(rest)
    missing = [p.name for p in command.params if p.required and values.get(p.name) in (None, ())]
    assert not missing


def keys_after_set() -> set[str]:
    """Every `KEY` of a `--set KEY=` in the docs, the help texts and the error messages."""
    files = [*PAGES, *(ROOT / "src").rglob("*.py")]
    found = {key for f in files for key in re.findall(r"--set ([a-z_.]+)=", f.read_text(encoding="utf-8"))}
    return {key for key in found if not key.startswith(("a.b", "architecture.config."))}


@pytest.mark.parametrize("key", sorted(keys_after_set()))
def test_a_key_that_somebody_is_told_to_set_exists(key: str) -> None:
    def has(config: type[Config], key: str = key) -> bool:
        *sections, last = key.split(".")
        owner = _section(config, sections)
        return owner is not None and last in owner.model_fields

    table, _, rest = key.partition(".")  # of a launcher, in a study file
    tables = [launcher.options for launcher in host().launchers() if launcher.name == table]
    assert has(TrainConfig) or has(Recipe) or any(has(options, rest) for options in tables)


def test_a_file_of_tests_that_is_named_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_an_entry_of_the_log_is_one_line_with_a_number() -> None:
    lines = (ROOT / "docs" / "log.md").read_text(encoding="utf-8").split("\n")
    entries = [line for line in lines[lines.index("## 2026-11-21") :] if line and not line.startswith("## 20")]
    assert [entry for entry in entries if not re.fullmatch(r"- .{20,198}(\d|no figure was kept).*\.", entry)] == []
    assert [entry for entry in entries if len(entry) > 200] == []


def test_the_docs_show_the_main_commands() -> None:
    shown = {arguments[0] for page in PAGES for arguments in shell_commands(page)}
    assert {"train", "evaluate", "predict", "data", "baselines", "plugins"} <= shown


@pytest.mark.parametrize(
    "code", [pytest.param(c, id=f"{p.name}-{k}") for p in PAGES for k, c in enumerate(fenced(p, "python"))]
)
def test_python_in_the_docs_compiles_and_imports_what_exists(code: str) -> None:
    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "matscale":
            assert hasattr(importlib.import_module("matscale"), node.attr)


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_imports_what_matscale_has(script: Path) -> None:
    """The rest of what it imports is of scratch environments."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "matscale":
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_tutorial_shows_every_line_of_its_model_in_order() -> None:
    model = ROOT / "plugins_contrib" / "matscale-painn" / "matscale_painn.py"
    shown = "".join(fenced(ROOT / "docs" / "tutorial-painn.md", "python"))
    assert [line for line in shown.splitlines() if line] == [
        line for line in model.read_text(encoding="utf-8").splitlines() if line
    ]


def test_the_data_page_names_every_filter_and_trajectory_key() -> None:
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "data.md").read_text(encoding="utf-8")))
    assert {*QUANTITIES, *TRAJECTORIES} <= named


@pytest.mark.parametrize("architecture", host().architectures(), ids=lambda a: a.name)
def test_the_readme_lists_an_architecture_with_its_claims(architecture: Architecture) -> None:
    if host().origin(architecture.name)[0] != "matscale":
        pytest.skip("comes from another package")
    [row] = [
        line
        for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{architecture.name}` |")
    ]
    _, _, _, forces, claims, _ = (cell.strip() for cell in row.split("|"))
    assert architecture.reference in row
    assert forces == architecture.forces
    assert claims == (", ".join(sorted(architecture.claims_of(architecture.config()))) or "none")


def without_code(text: str) -> str:
    """A `#` in a shell block is no heading, and brackets in code are no link."""
    return re.sub(r"^( *)(```+).*?^\1\2 *$", "", text, flags=re.M | re.S)


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading: its text in lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    kept = [
        c for c in text if c in "- " or unicodedata.category(c) in ("Nd", "Pc") or unicodedata.category(c)[0] in "LM"
    ]
    return "".join(kept).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Of all headings; a heading that comes again gets a number."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)? *$", without_code(text), flags=re.M):
        first = slug(heading)
        numbered = (f"{first}-{k}" if k else first for k in itertools.count())
        found.add(next(name for name in numbered if name not in found))
    return found


def dead_links(page: Path) -> list[str]:
    """Links of `page` to files that are not there, or to headings that the file does not have."""
    text = without_code(page.read_text(encoding="utf-8"))
    dead = []
    for target in re.findall(r"\]\(<?([^)>\s]+)>?(?: +\"[^\"]*\")?\)", text):
        if re.match(r"[a-z]+:", target):  # of the network
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_docs_lead_to_a_file_and_a_heading_in_it(page: Path) -> None:
    assert not dead_links(page)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("EquiformerV2 against fairchem", "equiformerv2-against-fairchem"),
        ("Loss, in eV/Å³: what `fit` takes", "loss-in-evå-what-fit-takes"),
        ("A — B & c_d", "a--b--c_d"),
        ("See [the page](x.md#y) 10⁻²", "see-the-page-10"),
    ],
)
def test_a_heading_has_the_anchor_that_github_gives_it(heading: str, expected: str) -> None:
    assert slug(heading) == expected


def test_a_link_to_no_file_or_to_no_heading_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Top\n## Twice\n```bash\n# not one\n```\n## Twice\n", encoding="utf-8")
    links = [
        "b.md",
        "b.md#top",
        "b.md#twice-1",
        "#here",
        "https://x.org/#y",
        "c.md",
        "b.md#not-one",
        "b.md#twice-2",
        "#b",
    ]
    page = tmp_path / "a.md"
    page.write_text(
        "# Here\n" + "\n".join(f"[x]({link})" for link in links) + "\n```\n[x](d.md)\n```\n", encoding="utf-8"
    )
    assert dead_links(page) == ["c.md", "b.md#not-one", "b.md#twice-2", "#b"]


def test_the_ci_script_finds_one_test_command_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- test-command -->\n```bash\n(.*?)```\n<!-- /test-command -->", text, flags=re.S)
    assert block is not None
    assert block[1].count("\n") == 1
    assert "-c constraints.txt" in block[1]
    assert "pytest" in block[1]


def test_the_ci_script_is_a_program_without_syntax_errors() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True).stderr == ""
