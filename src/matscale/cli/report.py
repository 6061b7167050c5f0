"""`matscale report`: show results of runs as one page, as figures in files, or as a page that follows a sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from matscale.cli.laws.options import BASELINES, SAMPLES
from matscale.core.errors import ConfigError
from matscale.core.files import write_text

FORMATS = ("svg", "png", "pdf")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="RUNS...")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="report.html",
              show_default=True, help="The page.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path, file_okay=False), help="Write every figure to this folder.")
@click.option("--format", "formats", type=click.Choice(FORMATS), multiple=True,
              help="Format of the figures; may be repeated.  [default: svg]")  # fmt: skip
@BASELINES[0]
@BASELINES[1]
@SAMPLES
@click.option("--serve", is_flag=True, help="Serve the page and refresh it while runs go on, instead of writing it.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where --serve listens.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Port; 0 chooses a free one."
)
@click.pass_context
def report(
    ctx: click.Context,
    sources: tuple[str, ...],
    output: Path,
    figures: Path | None,
    formats: tuple[str, ...],
    baselines: Path | None,
    no_baselines: bool,
    samples: int,
    serve: bool,
    host: str,
    port: int,
) -> None:
    """Show RUNS (folders, globs, a study) in one HTML file that needs no network.

    The page has laws with verdicts, training curves, errors by term, exponents, residuals, cost, and all runs with
    their origin. Runs that are not complete are shown, but not used in laws.
    """
    _refuse_contradictions(ctx, serve, figures)
    options = _options(baselines, no_baselines, samples)
    if serve:
        _serve(sources, options, host, port)
        return
    from matscale.core.report.build import build  # start-up: torch
    from matscale.core.report.page import page

    if output.parent != Path() and not output.parent.is_dir():
        raise ConfigError(f"{output}: there is no folder {output.parent}. Make it, or choose another file with -o.")
    result = build(sources, **options)
    write_text(output, page(result))
    click.echo(f"{output}  {output.stat().st_size / 1e6:.1f} MB, {len(result.records.runs):,} runs")
    if figures is not None:
        from matscale.core.report.build import write_figures  # start-up: torch

        written = write_figures(result.panels, figures, formats or FORMATS[:1])
        click.echo(f"{figures}  {len(written)} figures")


def _refuse_contradictions(ctx: click.Context, serve: bool, figures: Path | None) -> None:
    given = {name for name in ("output", "figures", "formats", "host", "port")
             if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}  # fmt: skip
    if serve and given & {"output", "figures", "formats"}:
        raise ConfigError("--serve writes no file. Leave out -o, --figures and --format, or leave out --serve.")
    if not serve and given & {"host", "port"}:
        raise ConfigError("--host and --port work only with --serve: add --serve, or leave them out.")
    if figures is None and "formats" in given:
        raise ConfigError("--format works only with --figures DIR, which writes the figures to a folder.")


def _options(baselines: Path | None, no_baselines: bool, samples: int) -> dict[str, Any]:
    from matscale.core.scaling.tables.baselines import read_baselines  # start-up: pydantic

    known = read_baselines(baselines) if baselines is not None else None
    return {"baselines": known, "measure_baselines": not no_baselines, "samples": samples}


def _serve(sources: tuple[str, ...], options: dict[str, Any], host: str, port: int) -> None:
    from matscale.core.report.serve import LOOPBACK, Pages, server, url  # start-up: torch

    def make(version: str) -> str:
        from matscale.core.report.build import build  # start-up: torch
        from matscale.core.report.page import page

        return page(build(sources, **options), version)

    try:
        running = server(Pages(sources, make), host, port)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: cannot listen there ({error}). Choose another --port; 0 takes a free one."
        ) from None
    if host not in LOOPBACK:
        click.echo(f"Everyone who can reach {host} can read this report.", err=True)
    click.echo(f"{url(running)}  Ctrl-C ends it.")
    _until_interrupted(running.serve_forever)
    running.server_close()


def _until_interrupted(work: Callable[[], None]) -> None:
    try:
        work()
    except KeyboardInterrupt:
        click.echo("", err=True)
