"""Catalog of datasets: finds the folder of the dataset that a user gives by `--data`, as a path or a name.

`emt` means the dataset even if there is a folder of that name (`./emt` is the folder). For a published name, such as
`mattersim` or `omat24/rattled-300`, an existing folder has precedence over a download.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from matscale.core.data.named import cache, published
from matscale.core.data.store.manifest import FILE, FORMAT_VERSION
from matscale.core.data.synthetic.labelers import Labeler
from matscale.core.data.synthetic.make import EDITION, make
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import DataError, did_you_mean
from matscale.core.files import sweep_up
from matscale.core.progress import SILENT, Reporter
from matscale.core.threads import usable_cores

EMBEDDED = {"emt": Recipe()}
"""Datasets that are not downloaded: the labeler of the same name makes them on first use."""


def resolve(name_or_path: str, progress: Reporter = SILENT) -> Path:
    """Return the folder of the packed dataset that `name_or_path` is or names.

    A named dataset is made or downloaded (`omat24/rattled-300`) if it is not there yet; `progress` reports this. Raises
    DataError for a file that is not packed yet. Also raises DataError for an unknown name, and suggests the nearest
    one.
    """
    if name_or_path in EMBEDDED:
        return embedded(name_or_path, progress)
    if published.known(name_or_path) and not Path(name_or_path).exists():
        return published.fetch(name_or_path, progress=progress)
    path = Path(name_or_path)
    if (path / FILE).is_file():
        return path
    if path.exists():
        packed = path.name.partition(".")[0] + "-packed"
        raise DataError(f"{path}: is not a packed dataset. Pack it first: matscale data pack {path} -o {packed}")
    nearest = did_you_mean(name_or_path, [*EMBEDDED, *published.SETS])
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise DataError(f"There is no dataset {name_or_path!r}: neither a folder{where} nor a known name. {nearest}")


def embedded(name: str, progress: Reporter = SILENT) -> Path:
    """Return the folder of a dataset in `EMBEDDED`, which lies in the user's cache.

    The dataset is made if it is not there.
    """
    from matscale.core.hosting.host import host  # start-up: plugins

    labeler = host().labeler(name)
    recipe = EMBEDDED[name].of(labeler)
    path = cache.folder() / f"{name}-{_key(recipe, labeler)}"
    if (path / FILE).is_file():
        return path
    with cache.lock(path, lambda: progress.stage(f"Waiting for another process that makes the dataset {name!r}")):
        if not (path / FILE).is_file():
            sweep_up(path.parent)
            make(recipe, labeler, path, min(8, usable_cores()), progress, f"Making the dataset {name!r}")
    return path


def _key(recipe: Recipe, labeler: Labeler) -> str:
    """Hash of everything that determines the contents of a cached dataset, so that an outdated one is not used."""
    text = json.dumps([EDITION, FORMAT_VERSION, labeler.labels_by(), recipe.plain()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
