"""`matscale properties`: properties of crystals by trained models, against a reference."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import aligned
from matscale.cli.use.options import checkpoint_option, device_option, net_force_option, runs_argument
from matscale.core.errors import ConfigError
from matscale.core.files import finite, write_text


@click.command()
@runs_argument
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="properties.html",
              show_default=True, help="The page.")  # fmt: skip
@click.option("--json", "json_file", is_flag=False, flag_value="-", metavar="[FILE]",
              help="Also write JSON, one row per run, to FILE (as lines if it ends in .jsonl); without FILE, at the "
              "end of the line, print JSON in place of the table.")  # fmt: skip
@click.option("--reference", default="emt", show_default=True, metavar="emt|RUN|none",
              help="Model to compare with: ASE's EMT, or a run.")  # fmt: skip
@click.option("--only", metavar="NAME,...", help="Properties to measure: eos, elastic, phonons, nve, path, diatomic.  "
              "[default: all]")  # fmt: skip
@click.option("--crystals", metavar="NAME,...", help="Crystals: Cu,Al,NaCl, ...  [default: all that runs and reference "
              "allow]")  # fmt: skip
@click.option("--time-step", type=click.FloatRange(0.01, 20), default=2.0, show_default=True,
              help="Time step of the dynamics [fs].")  # fmt: skip
@click.option("--duration", type=click.FloatRange(0.01), default=1.0, show_default=True,
              help="Duration of the dynamics [ps].")  # fmt: skip
@checkpoint_option
@device_option
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float64", show_default=True,
              help="Arithmetic of the model; finite differences need float64.")  # fmt: skip
@net_force_option
def properties(
    runs: tuple[Path, ...],
    output: Path,
    json_file: str | None,
    reference: str,
    only: str | None,
    crystals: str | None,
    time_step: float,
    duration: float,
    checkpoint: str,
    **options: Any,
) -> None:
    """Measure properties of crystals with the trained models in folders RUN, and compare them with a reference.

    Equation of state and bulk modulus, elastic constants, phonons, energy drift at constant energy, smoothness of
    forces along a path, and curves of two atoms. The rows of --json are a table that `matscale fit --target
    bulk_modulus_error` reads, with the sizes of each run.
    """
    from matscale.core.inference.side_by_side import names_of  # start-up: torch
    from matscale.core.properties import measure as measured
    from matscale.core.properties.crystals import elements_of
    from matscale.core.runs.record import Run
    from matscale.core.runs.trained_potential import resolve_step
    from matscale.core.scaling.tables.of_properties import row_of
    from matscale.core.view.properties import failures, page, table

    _check_files(output, json_file)
    names = measured.chosen(_listed(only)) if only is not None else list(measured.NAMES)
    records = names_of([Run.open(run) for run in runs])
    models = [measured.Model.of_run(name, run, checkpoint=checkpoint, **options) for name, run in records.items()]
    other = measured.reference_of(reference, **options)
    wanted = measured.crystals_for(models, other, _listed(crystals) if crystals is not None else ())
    farthest = measured.farthest_of([*models, *([other] if other else [])])
    with reporter() as progress:
        settings: dict[str, Any] = {"farthest": farthest, "progress": progress}
        results = {
            model.name: measured.measure(model, wanted, names, time_step=time_step, duration=duration, **settings)
            for model in models
        }
        theirs = None
        if other is not None:
            known = [name for name in wanted if elements_of(name) <= other.elements]
            # The drift of the reference is no measure for that of a model.
            theirs = measured.measure(other, known, [name for name in names if name != "nve"], **settings)
    rows = []
    for name, run in records.items():
        row, reason = row_of(run, resolve_step(run, checkpoint), results[name], theirs)
        plain = {subject: each.plain() for subject, each in results[name].items()}
        rows.append(finite({**row, "reference": reference, "crystals": plain}))
        if reason and json_file:
            click.echo(f"note: {reason}", err=True)
    label = f"reference: {reference}"
    shown = {**results, **({label: theirs} if theirs else {})}
    notes = failures(shown)
    command = shlex.join(["matscale", "properties", *map(str, runs), "-o", str(output)])
    write_text(output, page(shown, label if theirs else None, notes, command))
    if json_file == "-":
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        headings, cells = table(shown)
        click.echo(aligned([headings, *cells], right=range(2, len(headings))))
        click.echo("\n" + _errors(rows))
        click.echo(f"\n{output}")
    if json_file not in (None, "-"):
        as_lines = str(json_file).endswith((".jsonl", ".ndjson"))
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
        write_text(Path(str(json_file)), "\n".join(lines) + "\n" if as_lines else "[" + ",\n".join(lines) + "]\n")
    for note in notes:
        click.echo(f"Not measured: {note}", err=True)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_files(output: Path, json_file: str | None) -> None:
    for path in {output, Path(json_file or "-")}:
        if path.is_dir():
            raise ConfigError(f"--json {path}: is a folder. Give a file, or write --json at the end of the line.")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}. Make it, or choose another file.")


def _errors(rows: list[dict[str, Any]]) -> str:
    """Table of the means over crystals: a row for each column, a column for each run."""
    keys = dict.fromkeys(key for row in rows for key in row if key in UNITS)
    told = [
        [f"{key} [{UNITS[key]}]", *("-" if row.get(key) is None else f"{row[key]:.3g}" for row in rows)] for key in keys
    ]
    return aligned([["mean over crystals", *(row["run"] for row in rows)], *told], right=range(1, len(rows) + 1))


UNITS = {
    "lattice_constant_error": "%",
    "bulk_modulus_error": "%",
    "elastic_error": "%",
    "phonon_error": "THz",
    "nve_drift": "meV/atom/ps",
    "nve_fluctuation": "meV/atom",
    "path_discontinuity": "eV/Å",
    "path_work_error": "eV",
    "path_force_error": "eV/Å",
    "bond_length_error": "Å",
    "bond_depth_error": "eV",
}
"""Units of the columns for laws."""
