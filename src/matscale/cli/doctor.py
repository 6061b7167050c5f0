"""`matscale doctor`: examine this machine and installation before a training."""

from __future__ import annotations

import json

import click

from matscale.cli.text import aligned
from matscale.core.estimate.doctor import Finding, examine

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all findings, with mark and advice.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Examine this machine: versions, devices, threads, plugins, environment variables, disks, and a training.

    Each line has a mark: `ok`, `warn` (training is slower or differs from what one expects), or `fail` (training would
    fail). The exit code is 1 if there is a `fail`, otherwise 0.
    """
    findings = examine()
    if as_json:
        rows = [vars(finding) for finding in findings]
        click.echo(json.dumps({"ok": not _fails(findings), "findings": rows}, indent=2))
    else:
        _print(findings)
    ctx.exit(1 if _fails(findings) else 0)


def _fails(findings: list[Finding]) -> int:
    return sum(finding.mark == "fail" for finding in findings)


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for section in dict.fromkeys(finding.section for finding in findings):
        click.echo(section)
        shown = [finding for finding in findings if finding.section == section]
        lines = aligned([[f"  {f.mark:4}", _ascii(f.name).ljust(width), _ascii(f.value)] for f in shown]).splitlines()
        for finding, line in zip(shown, lines):
            click.secho(line, fg=None if finding.mark == "ok" else COLOURS[finding.mark])
            if finding.advice:
                click.echo(f"        {_ascii(finding.advice)}")
    warnings = sum(finding.mark == "warn" for finding in findings)
    fails = _fails(findings)
    click.echo(f"{fails} {'problem' if fails == 1 else 'problems'} for training, {warnings} warnings")


def _ascii(text: str) -> str:
    """Convert text to one line of ASCII, which every terminal can show."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode()
