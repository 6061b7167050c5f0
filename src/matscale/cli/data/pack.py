"""`matscale data pack`, `join` and `info`: pack files into a dataset, and print what a packed dataset contains."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import aligned
from matscale.cli.types import PartOf, limit_option
from matscale.core.threads import usable_cores

if TYPE_CHECKING:
    from matscale.core.data.store.manifest import Manifest

FOLDER = click.Path(path_type=Path)
N_WORKERS = usable_cores()


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SRC...", type=FOLDER)
@click.option("-o", "--out", type=FOLDER, required=True, help="Folder of the packed dataset.")
@click.option(
    "--filter",
    "conditions",
    multiple=True,
    metavar="COND",
    help='Keep structures that meet a condition: "forces_max<50", ...',
)
@click.option(
    "--key", "keys", multiple=True, metavar="LABEL=KEY", help="Name of a label in the file: energy=my_energy, ..."
)
@click.option("--unit", "units", multiple=True, metavar="LABEL=UNIT",
              help="Unit of a label, or of length: energy=kcal/mol, ...  [default: as the files state it]")  # fmt: skip
@click.option(
    "--group-key", metavar="KEY", help="Name of the value that groups structures: a split keeps each group together."
)
@click.option("--workers", type=click.IntRange(1, 1024), default=N_WORKERS, show_default=True, help="Processes.")
@click.option(
    "--strict",
    is_flag=True,
    help="Stop with an error (exit code 3) at anything that cannot be used: a structure, a NaN label, a file in a "
    "folder.",
)
@click.option("--precision", type=click.Choice(["float64", "float32"]), default="float64", show_default=True,
              help="Precision of positions and forces; float64 is exact.")  # fmt: skip
@click.option(
    "--part",
    type=PartOf(),
    metavar="I/N",
    help="Pack only this part; run a job for each part, then `matscale data join`.",
)
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def pack(
    sources: tuple[Path, ...],
    out: Path,
    conditions: tuple[str, ...],
    keys: tuple[str, ...],
    units: tuple[str, ...],
    group_key: str | None,
    workers: int,
    strict: bool,
    precision: str,
    part: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """Pack files and folders SRC... into a dataset that training can use.

    Reads extended XYZ (.gz, .bz2, .xz, .zst), ASE databases, .aselmdb and the other formats that ASE reads. Structures
    that cannot be used are left out and listed, with the reason, in OUT/rejected.jsonl. After an interruption, the same
    command continues the packing. It does nothing if the dataset is complete.

    \b
    Filters: NAME OP NUMBER with OP one of < <= > >= == != and NAME one of
      n_atoms, n_elements, volume_per_atom [Å³], energy_per_atom [eV],
      forces_max [eV/Å], stress_max [eV/Å³], config_weight, weight;
    or: elements in Al,O    elements not in Pu,U
    """
    from matscale.core.data.sources import pack as packing  # start-up: numpy
    from matscale.core.data.sources.labels import Keys  # start-up: pydantic

    given = Keys.parse(keys, group_key, units)
    with reporter() as progress:
        function = packing.pack if part is None else partial(packing.pack_part, part=part[0], of=part[1])
        packed = function(
            sources,
            out,
            filter=conditions,
            keys=given,
            workers=workers,
            strict=strict,
            precision=precision,
            progress=progress,
            what=f"Packing {out}",
        )
    if packed is None:
        click.echo(f"{out}: this part is packed. When all parts are packed, run: matscale data join {out}", err=True)
        return
    if packed.manifest.passed_over:
        click.echo(f"{packing.describe_passed(packed.manifest.passed_over)} (the manifest lists all).", err=True)
    if packed.was_there:
        click.echo(f"{out}: already packed from these files with these options; nothing to do.", err=True)
    _show(out, packed.manifest, as_json)


@click.command()
@click.argument("out", metavar="DIR", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def join(out: Path, as_json: bool) -> None:
    """Join the parts that `matscale data pack --part` has packed in DIR into one dataset.

    The result has the same bytes as the dataset that one job makes without --part.
    """
    from matscale.core.data.sources.pack import join_parts  # start-up: pydantic

    packed = join_parts(out)
    if packed.was_there:
        click.echo(f"{out}: already joined; nothing to do.", err=True)
    _show(out, packed.manifest, as_json)


@click.command()
@click.argument("dataset", metavar="DIR")
@click.option("--verify", is_flag=True, help="Read all files and compare their SHA-256 with the manifest's.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(dataset: str, verify: bool, as_json: bool) -> None:
    """Print what the packed dataset DIR contains and where its structures come from."""
    from matscale.core.data.store.manifest import Manifest  # start-up: pydantic

    folder = resolve(dataset)
    manifest = Manifest.read(folder)
    if verify:
        from matscale.core.data.store.packed import PackedDataset  # start-up: torch

        PackedDataset(folder, manifest).verify()
        click.echo(f"{folder}: every file is as it was packed.", err=True)
    _show(folder, manifest, as_json)


def _show(folder: Path, manifest: Manifest, as_json: bool) -> None:

    if as_json:
        values = manifest.model_dump(mode="json", exclude={"statistics", "fingerprint"})
        click.echo(json.dumps({"path": str(folder), **values}))
        return
    click.echo(f"{folder}: {manifest.n_structures:,} structures, {manifest.n_atoms:,} atoms")
    click.echo(f"elements ({len(manifest.elements)}): {' '.join(manifest.elements)}")
    click.echo(f"labels: {_labels(manifest)}")
    if manifest.filters:
        click.echo(f"filters: {', '.join(manifest.filters)}")
    rows = [("source", "format", "structures", "rejected", "filtered", "keys")]
    for s in manifest.sources[:20]:
        keys = ", ".join(f"{label}: {key}" for label, key in s.keys.items())
        rows.append((s.path, s.format, f"{s.structures:,}", f"{s.rejected:,}", f"{s.filtered:,}", keys))
    click.echo(aligned(rows, right=(2, 3, 4)))
    if len(manifest.sources) > 20:
        click.echo(f"... and {len(manifest.sources) - 20:,} more sources (--json lists all)")
    for note, n in _notes(manifest).most_common(30):
        click.echo(f"note: {note} ({n:,} structures)")
    if manifest.isolated_atoms:
        click.echo(isolated(manifest))
    if manifest.rejected or manifest.filtered:
        click.echo(
            f"{manifest.rejected:,} structures could not be used and {manifest.filtered:,} were filtered out: "
            f"{folder / 'rejected.jsonl'}"
        )
    click.echo(f"hash: {manifest.hash}")


def isolated(manifest: Manifest) -> str:
    """Sentence with the energies of the isolated atoms that a dataset has beside its structures."""
    energies = ", ".join(f"{symbol} {energy:.6g}" for symbol, energy in manifest.isolated_atoms.items())
    return f"isolated atoms [eV], stored apart: {energies} (references are fitted without them)"


def _notes(manifest: Manifest) -> Counter[str]:
    total = Counter[str]()
    for source in manifest.sources:
        total.update(source.notes)
    return total


def _labels(manifest: Manifest) -> str:
    n = max(manifest.n_structures, 1)
    shares = (f"{label} {count:,} ({100 * count / n:.4g} %)" for label, count in manifest.labels.items())
    return ", ".join(shares) + (f"; by {manifest.labels_by}" if manifest.labels_by else "")


def resolve(name: str) -> Path:
    """Folder of a dataset, given by its path, or by its name if matscale makes or downloads the dataset."""
    from matscale.core.data.named.catalog import resolve as resolve_name  # start-up: torch

    with reporter() as progress:
        return resolve_name(name, progress)
