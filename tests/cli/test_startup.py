"""The first second: no command waits for torch before it has work to do, and wrong words get the nearest right one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from little import Site, architecture
from matscale.cli import COMMANDS
from matscale.version import __version__

HEAVY = ("torch", "e3nn", "ase", "scipy", "plotly", "pydantic", "pandas", "torch_geometric")

PROBE = f"""
import sys
from matscale.cli import main
try:
    main(sys.argv[1:], prog_name="matscale")
finally:
    print("imported:", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""


def probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`matscale ARGUMENTS`, and the heavy modules that it imported as the last line of stderr."""
    command = [sys.executable, "-c", PROBE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def imported(result: subprocess.CompletedProcess[str]) -> list[str]:
    return result.stderr.splitlines()[-1].removeprefix("imported:").split()


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--version",), (), ("plugins", "list")], ids=" ".join)
def test_help_version_and_the_list_of_plugins_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    result = probe(*arguments)
    assert imported(result) == []
    assert result.returncode == (0 if arguments else 2)
    assert result.stdout or not arguments


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_does_not_wait_for_torch(command: str) -> None:
    result = probe(command, "-h")
    assert result.returncode == 0, result.stderr
    assert f"matscale {command}" in result.stdout
    assert "torch" not in imported(result)


@pytest.mark.parametrize(
    "arguments",
    [("models", "list"), ("models", "show"), ("plugins", "list"), ("plugins", "check"), ("plugins", "new")],
    ids=" ".join,
)
def test_the_help_of_a_subcommand_does_not_wait_for_torch(arguments: tuple[str, ...]) -> None:
    result = probe(*arguments, "-h")
    assert result.returncode == 0
    assert "-h, --help" in result.stdout
    assert "torch" not in imported(result)


def test_a_list_of_models_that_is_known_imports_and_builds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATSCALE_CACHE", str(tmp_path))
    monkeypatch.setenv("MATSCALE_NO_PLUGINS", "1")
    monkeypatch.setenv("MATSCALE_BLOCK_PLUGINS", "eqv2,eqv3,esen,escaip,gemnet,transformer")  # they are slow to import
    first, second = probe("models", "list", "--json"), probe("models", "list", "--json")
    assert "torch" in imported(first)
    assert imported(second) == []
    assert second.stdout == first.stdout
    assert {row["name"] for row in json.loads(second.stdout)} == {"fcn", "schnet", "transformer-periodic"}


def test_the_version_is_the_packages() -> None:
    assert probe("--version").stdout.strip() == f"matscale, version {__version__}"


def test_a_wrong_command_is_answered_with_the_nearest_right_one_and_code_2() -> None:
    result = probe("trian")
    assert result.returncode == 2
    assert "Did you mean 'train'?" in result.stderr
    assert "torch" not in imported(result)


def completions(site: Site, *words: str) -> list[str]:
    """What bash would offer for the last of `words`. The probe fails if torch was imported for it."""
    source = "import sys; from matscale.cli import main\ntry: main(prog_name='matscale')\n"
    source += "finally: assert 'torch' not in sys.modules"
    variables = {"_MATSCALE_COMPLETE": "bash_complete", "COMP_CWORD": str(len(words))}
    result = site.python("-c", source, **variables, COMP_WORDS=" ".join(["matscale", *words]))
    assert not result.stderr, result.stderr
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


def test_completion_knows_the_architectures_without_importing_them(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-broken", "1 / 0")
    offered = completions(site, "models", "show", "")
    assert {"linear", "schnet", "transformer", "fcn"} <= set(offered)
    assert not {"broken", "losses", "readers"} & set(offered)
    assert completions(site, "models", "show", "li") == ["linear"]


def test_completion_knows_commands_and_plugins(site: Site) -> None:
    site.install("my-broken", "1 / 0")
    assert completions(site, "pl") == ["plan", "plugins"]
    assert completions(site, "plugins", "check", "bro") == ["broken"]


def test_a_plugins_command_runs_under_its_own_name(site: Site) -> None:
    site.install(
        "my-greet",
        """
        import click
        from matscale import hookimpl

        @click.command()
        def greet():
            click.echo("hello")

        @hookimpl
        def register_commands():
            return [greet]
        """,
    )
    result = site.run("greet")
    assert (result.exit_code, result.stdout) == (0, "hello\n"), result.stderr


def test_a_broken_plugin_is_not_noticed_by_other_commands(site: Site) -> None:
    site.install("my-broken", "1 / 0")
    result = site.run("models", "show", "schnet", "--params", "10k")
    assert result.exit_code == 0
    assert result.stderr == ""


def test_a_warning_is_a_sentence_without_our_file_and_line(site: Site) -> None:
    site.install(
        "my-warner",
        """
        import warnings
        import click
        from matscale import hookimpl

        @hookimpl
        def register_commands():
            return [click.Command("warner", callback=lambda: warnings.warn("mind the gap", stacklevel=1))]
        """,
    )
    result = site.python("-m", "matscale", "warner")
    assert (result.returncode, result.stderr) == (0, "Warning: mind the gap\n")
