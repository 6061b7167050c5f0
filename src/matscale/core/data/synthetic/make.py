"""Make synthetic datasets. The result depends on recipe, labeler and seed, but not on the number of workers.

The structures of a parent depend only on the recipe, the labeler and the number of the parent (`families.family`).
Structures are written in the order of these numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from matscale.core.config import to_toml
from matscale.core.data.sources.find import read
from matscale.core.data.store.manifest import FILE, Manifest, SourceRecord
from matscale.core.data.store.writer import ShardWriter
from matscale.core.data.structure import Structure
from matscale.core.data.synthetic.families import family
from matscale.core.data.synthetic.labelers import Labeler
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import DataError
from matscale.core.files import make_folder, replacing_folder, write_text
from matscale.core.parallel import in_processes
from matscale.core.progress import SILENT, Reporter

EDITION = 2
"""Version of the code that makes structures. Raise it when a recipe no longer gives the same structures."""


def make(
    recipe: Recipe,
    labeler: Labeler,
    path: Path | str,
    workers: int = 1,
    progress: Reporter = SILENT,
    what: str = "",
) -> Manifest:
    """Make a packed dataset at `path`, which appears only when it is complete.

    `workers` is the number of processes. With more than one, the labeler must be registered by an installed plugin. The
    file `recipe.toml` is written beside the manifest. Raises ConfigError for an invalid recipe. Raises DataError if
    `path` exists and is not an empty folder, or if no usable structure can be drawn.
    """
    path, recipe = Path(path), recipe.of(labeler)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        holds = "holds a packed dataset already" if (path / FILE).exists() else "exists already"
        raise DataError(f"{path}: {holds}. Choose another folder (-o), or remove this one.")
    make_folder(path.parent)
    with replacing_folder(path) as building:
        return _write(recipe, labeler, building, workers, partial(progress.stage, what or f"Making {path}"))


def _write(
    recipe: Recipe, labeler: Labeler, folder: Path, workers: int, report: Callable[[int, int], None]
) -> Manifest:
    given = [_named(s, file) for file in recipe.files for s in read(file)]
    labeler.choose(sorted({chemical_symbols[z] for parent in given for z in parent.atomic_numbers}))
    names = recipe.files or recipe.prototypes
    sources = [SourceRecord(path=name, format="file" if recipe.files else "prototype") for name in names]
    writer = ShardWriter(folder, labels_by=labeler.labels_by(), sources=sources)
    done = 0
    for structures in _families(recipe, labeler, given, workers):
        for structure in structures:
            writer.append(structure, source=names.index(structure.source.partition(": parent ")[0]))
        done += len(structures)
        report(done, recipe.n)
    write_text(folder / "recipe.toml", to_toml(recipe.plain() | {"labeler": labeler.name}))
    return writer.finish()


def _named(structure: Structure, file: str) -> Structure:
    structure.source = file
    return structure


def _families(recipe: Recipe, labeler: Labeler, given: list[Structure], workers: int) -> Iterator[list[Structure]]:
    order = np.random.default_rng(recipe.seed).permutation(len(given))
    parents = ((k, given[order[k % len(given)]] if given else None) for k in range(recipe.n_parents))
    workers = min(workers, recipe.n_parents)
    tasks = ((recipe, labeler if workers <= 1 else labeler.name, k, parent) for k, parent in parents)
    early, due = dict[int, list[Structure]](), 0
    for number, structures in in_processes(_family, tasks, workers):
        early[number] = structures
        while due in early:
            yield early.pop(due)
            due += 1


def _family(recipe: Recipe, labeler: Labeler | str, number: int, given: Structure | None) -> list[Structure]:
    if isinstance(labeler, str):  # another process gets only its name
        from matscale.core.hosting.host import host  # start-up: plugins

        labeler = host().labeler(labeler)
    return family(recipe, labeler, number, given)
