"""Published datasets by name: OMat24 and sAlex (arXiv:2410.12771, CC BY 4.0), downloaded, unpacked and packed.

Addresses and sizes are those of the dataset cards of fairchem (docs/core/datasets/omat24.md) and
huggingface.co/datasets/facebook/OMAT24. The validation sets are the corrected ones of December 2024. No checksums are
published: the SHA-256 of the download is written into the dataset (`fetched.json`), so that users can compare it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from matscale.core.data.named import cache, download
from matscale.core.data.sources.pack import pack
from matscale.core.data.store.manifest import FILE
from matscale.core.errors import DataError, did_you_mean
from matscale.core.files import make_folder, remove, sha256_of, write_json
from matscale.core.progress import SILENT, Reporter

VARIABLE = "MATSCALE_OMAT24_URL"
"""Environment variable: address of a mirror to download from, in place of `BASE`."""
BASE = "https://dl.fbaipublicfiles.com/opencatalystproject/data/omat"

RECORD = "fetched.json"


@dataclass(frozen=True)
class Archive:
    """Archive file on the server, from which one published dataset is made."""

    path: str
    """Path below the base address."""
    megabytes: int
    """Approximate size of the compressed archive [MB]."""
    sha256: str | None = None
    """SHA-256 of the archive, if it is published."""

    @property
    def url(self) -> str:
        return f"{os.environ.get(VARIABLE, BASE).rstrip('/')}/{self.path}"


# Subset -> compressed size in MB of training and validation part.
_OMAT24 = {
    "rattled-1000": (21_000, 218),
    "rattled-1000-subsampled": (7_100, 77),
    "rattled-500": (13_000, 135),
    "rattled-500-subsampled": (7_300, 79),
    "rattled-300": (12_000, 122),
    "rattled-300-subsampled": (6_400, 69),
    "aimd-from-PBE-1000-npt": (26_000, 261),
    "aimd-from-PBE-1000-nvt": (24_000, 251),
    "aimd-from-PBE-3000-npt": (25_000, 282),
    "aimd-from-PBE-3000-nvt": (32_000, 364),
    "rattled-relax": (12_000, 118),
}
ARCHIVES = {
    **{f"omat24/{name}": Archive(f"241018/omat/train/{name}.tar.gz", size) for name, (size, _) in _OMAT24.items()},
    **{f"omat24/val/{name}": Archive(f"241220/omat/val/{name}.tar.gz", size) for name, (_, size) in _OMAT24.items()},
    "salex": Archive("241018/sAlex/train.tar.gz", 7_600),
    "salex/val": Archive("241018/sAlex/val.tar.gz", 408),
}
"""Archives that `matscale data fetch` knows, by name: training parts such as `omat24/rattled-300` and `salex`,
validation parts such as `omat24/val/rattled-300` and `salex/val`.
"""


def canonical(name: str) -> str:
    """Short form of the name of a published dataset, without `train`, which is the default part.

    >>> canonical("omat24/train/rattled-300"), canonical("salex/train")
    ('omat24/rattled-300', 'salex')
    """
    parts = name.rstrip("/").split("/")
    return "/".join(part for k, part in enumerate(parts) if not (k == 1 and part == "train"))


def known(name: str) -> bool:
    """Whether `name` belongs to a published dataset; only the part before the first slash is compared.

    >>> known("omat24/rattled-300"), known("emt")
    (True, False)
    """
    return name.split("/")[0] in ("omat24", "salex")


def refuse_to_fetch(name: str) -> None:
    """Raises DataError, with the download command, if `name` is a published dataset that is not on this machine."""
    if not known(name) or Path(name).exists() or (_folder(canonical(name)) / FILE).is_file():
        return
    archive = _archive_of(canonical(name))
    raise DataError(
        f"{name}: an estimate needs this dataset, which is not on this machine. Download it first "
        f"({archive.megabytes:,} MB): matscale data fetch {name}"
    )


def _folder(name: str) -> Path:
    return cache.folder() / name.replace("/", "-")


def _archive_of(name: str) -> Archive:
    if name not in ARCHIVES:
        raise DataError(f"There is no published dataset {name!r}. {did_you_mean(name, ARCHIVES)}")
    return ARCHIVES[name]


def fetch(
    name: str, out: Path | None = None, progress: Reporter = SILENT, workers: int = 1, keep_archive: bool = False
) -> Path:
    """Return the folder of the published dataset `name`, which is downloaded and packed if needed.

    `out` is this folder; default: a folder in the user's cache.

    An interrupted download continues where it stopped. Raises DataError for an unknown name, a server that cannot be
    reached, or a damaged archive.
    """
    name = canonical(name)
    archive = _archive_of(name)
    path = out or _folder(name)
    source = path.with_name(f"{path.name}.source")
    if (path / FILE).is_file() and not source.exists():
        return path
    if path.exists() and not (path / RECORD).is_file():
        raise DataError(f"{path}: exists already and is not a dataset. Choose another folder (-o).")
    with cache.lock(path, lambda: progress.stage(f"Waiting for another process that fetches {name}")):
        if not (path / FILE).is_file():
            _bring(name, archive, path, progress, workers)
        if not keep_archive and source.exists():
            remove(_archive(path))
        remove(source)
    return path


def _archive(path: Path) -> Path:
    return path.with_name(f"{path.name}.tar.gz")


def _bring(name: str, archive: Archive, path: Path, progress: Reporter, workers: int) -> None:
    file = _archive(path)
    download.retrieve(archive.url, file, archive.sha256, progress, f"Downloading {name}")
    progress.stage(f"Unpacking {file.name}")
    record = {
        "name": name, "url": archive.url, "bytes": file.stat().st_size, "sha256": sha256_of(file)
    }  # fmt: skip
    source = path.with_name(f"{path.name}.source")  # kept if packing is interrupted, so that it can go on
    if not source.exists():
        download.extract(file, source)
    make_folder(path)
    write_json(path / RECORD, record)
    pack([source], path, workers=workers, progress=progress, what=f"Packing {name}")
