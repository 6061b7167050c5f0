"""Published datasets by name: downloaded, checked, unpacked and packed. `SETS` has a row for each.

Sources of the rows:

- OMat24 and sAlex (arXiv:2410.12771): addresses and sizes are those of the dataset cards of fairchem
  (docs/core/datasets/omat24.md) and huggingface.co/datasets/facebook/OMAT24. The validation sets are the corrected ones
  of December 2024.
- MatterSim's benchmark sets (arXiv:2405.04967): github.com/microsoft/mattersim, data/benchmarks. One of the files has a
  structure twice; it is packed once.
- NbMoTaW (npj Comput. Mater. 6, 70): github.com/materialsvirtuallab/snap, NbMoTaW/training, without Multinary_SQS.json.

The SHA-256 of MatterSim's files is fixed here. For the others, no checksum is known: addresses on GitHub contain the
commit, and the SHA-256 of each downloaded file is written into the dataset (`fetched.json`), so that users can compare.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from matscale.core.data.named import cache, download
from matscale.core.data.sources.pack import pack
from matscale.core.data.store.manifest import FILE
from matscale.core.errors import DataError, did_you_mean
from matscale.core.files import make_folder, remove, replacing_folder, sha256_of, write_json, write_text
from matscale.core.progress import SILENT, Reporter

VARIABLE = "MATSCALE_DATA_URL"
"""Environment variable: address of a mirror to download from, which has the files under the paths of `SETS`."""
OMAT24_VARIABLE = "MATSCALE_OMAT24_URL"
"""The same for OMat24 and sAlex alone."""
OMAT24_BASE = "https://dl.fbaipublicfiles.com/opencatalystproject/data/omat"
GITHUB_BASE = "https://raw.githubusercontent.com"

RECORD = "fetched.json"


@dataclass(frozen=True)
class Published:
    """Published dataset: its files on a server, and how they are packed."""

    base: str
    """Address that the paths of `files` are relative to."""
    files: Mapping[str, str | None]
    """Paths of the files, each with its SHA-256 if it is known: an archive, or files to pack in this order."""
    megabytes: float
    """Approximate size of all files [MB]."""
    licence: str
    citation: str
    filters: tuple[str, ...] = ()
    """Conditions for the structures that are packed, as of `matscale data pack --filter`."""

    @property
    def is_archive(self) -> bool:
        """Whether the dataset is one archive, which has to be unpacked."""
        return len(self.files) == 1 and next(iter(self.files)).endswith(".tar.gz")

    def url(self, path: str) -> str:
        """Address of one of the files: on the server, or on the mirror that an environment variable names."""
        mirror = os.environ.get(VARIABLE) or (os.environ.get(OMAT24_VARIABLE) if self.base == OMAT24_BASE else None)
        return f"{(mirror or self.base).rstrip('/')}/{path}"


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
_MATTERSIM = {
    "alexandria-random-1k": "067b94bde28b2c88b57c3e38cab72bee7e551820b7eb3489eaf49d1595f538d2",
    "mpf-TP": "5d07c81a4061ee314c84d6e5fb5913dc527e8536bc359fa00090bd206965d516",
    "mptrj-highest-stress-1k": "20ce1cd8da3ccdc45c1904a8b3bf9583f03c595b914682661de221a633170249",
    "mptrj-random-1k": "8e48469016e5baf69d765580416238c81ea84887db61dc424c43936ebf50f7e5",
}
_ELEMENTS, _BINARIES = ("Mo", "Nb", "Ta", "W"), ("MoTa", "MoW", "NbMo", "NbTa", "NbW", "TaW")


def _omat24(path: str, megabytes: float) -> Published:
    citation = "L. Barroso-Luque et al., Open Materials 2024 (OMat24), arXiv:2410.12771"
    return Published(OMAT24_BASE, {path: None}, megabytes, "CC BY 4.0", citation)


def _nbmotaw(groups: Sequence[str], megabytes: float) -> Published:
    at = "materialsvirtuallab/snap/5fc2251b45c72dea0c9799d7aad3e3261a077a5b/NbMoTaW/training"
    files = dict.fromkeys(f"{at}/{group}.json" for group in sorted(groups))
    citation = "X.-G. Li et al., npj Computational Materials 6, 70 (2020)"
    return Published(GITHUB_BASE, files, megabytes, "BSD-3-Clause", citation)


SETS = {
    "mattersim": Published(
        GITHUB_BASE,
        {
            f"microsoft/mattersim/296630372948fd35613939d14d3f97daa27cefda/data/benchmarks/{name}.xyz": sha256
            for name, sha256 in _MATTERSIM.items()
        },
        8.8,
        "MIT",
        "H. Yang et al., MatterSim, arXiv:2405.04967",
        ("forces_max<50", "stress_max<1"),
    ),
    "nbmotaw": _nbmotaw(
        [
            *(f"{e}_{part}" for e in _ELEMENTS for part in ("AIMD", "Elastic", "Surface")),
            *(f"{b}_SS" for b in _BINARIES),
        ],
        23,
    ),
    "nbmotaw/test": _nbmotaw([f"{name}_Test" for name in (*_ELEMENTS, *_BINARIES, "Multinary")], 2.3),
    **{f"omat24/{name}": _omat24(f"241018/omat/train/{name}.tar.gz", size) for name, (size, _) in _OMAT24.items()},
    **{f"omat24/val/{name}": _omat24(f"241220/omat/val/{name}.tar.gz", size) for name, (_, size) in _OMAT24.items()},
    "salex": _omat24("241018/sAlex/train.tar.gz", 7_600),
    "salex/val": _omat24("241018/sAlex/val.tar.gz", 408),
}
"""Datasets that `matscale data fetch` knows, by name: training parts such as `omat24/rattled-300` and `nbmotaw`,
validation and test parts such as `omat24/val/rattled-300` and `nbmotaw/test`.
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
    return name.split("/")[0] in {one.split("/")[0] for one in SETS}


def published(name: str) -> Published:
    """Row of `SETS` for a name. Raises DataError for an unknown name, and suggests the nearest one.

    >>> published("mattersim").licence
    'MIT'
    """
    if canonical(name) not in SETS:
        raise DataError(f"There is no published dataset {name!r}. {did_you_mean(canonical(name), SETS)}")
    return SETS[canonical(name)]


def refuse_to_fetch(name: str) -> None:
    """Raises DataError, with the download command, if `name` is a published dataset that is not on this machine."""
    if not known(name) or Path(name).exists() or (_folder(canonical(name)) / FILE).is_file():
        return
    raise DataError(
        f"{name}: an estimate needs this dataset, which is not on this machine. Download it first "
        f"({published(name).megabytes:,} MB): matscale data fetch {name}"
    )


def _folder(name: str) -> Path:
    return cache.folder() / name.replace("/", "-")


def fetch(
    name: str, out: Path | None = None, progress: Reporter = SILENT, workers: int = 1, keep_archive: bool = False
) -> Path:
    """Return the folder of the published dataset `name`, which is downloaded and packed if needed.

    `out` is this folder; default: a folder in the user's cache. With `keep_archive`, the downloaded files stay beside
    it.

    An interrupted download continues where it stopped. Raises DataError for an unknown name, a server that cannot be
    reached, a file with another SHA-256 than the published one, or a damaged archive.
    """
    name, wanted = canonical(name), published(name)
    path = out or _folder(name)
    source = path.with_name(f"{path.name}.source")
    if (path / FILE).is_file() and not source.exists():
        return path
    if path.exists() and not (path / RECORD).is_file():
        raise DataError(f"{path}: exists already and is not a dataset. Choose another folder (-o).")
    with cache.lock(path, lambda: progress.stage(f"Waiting for another process that fetches {name}")):
        if not (path / FILE).is_file():
            _bring(name, wanted, path, source, progress, workers)
        if not keep_archive and source.exists():
            for file in wanted.files:
                remove(_place(path, file))
        remove(source)
    return path


def _place(path: Path, file: str) -> Path:
    """Place of a downloaded file, beside the folder `path` of the dataset."""
    return path.with_name(f"{path.name}.{PurePosixPath(file).name}")


def _bring(name: str, wanted: Published, path: Path, source: Path, progress: Reporter, workers: int) -> None:
    record = []
    for number, (file, sha256) in enumerate(wanted.files.items(), 1):
        place, url = _place(path, file), wanted.url(file)
        count = f" ({number} of {len(wanted.files)})" if len(wanted.files) > 1 else ""
        try:
            download.retrieve(url, place, sha256, progress, f"Downloading {name}{count}")
        except download.Stopped as stopped:
            raise DataError(
                f"{stopped} With a network, run: matscale data fetch {name}. Without one, copy the dataset's folder "
                f"from another machine and give it as --data; {VARIABLE} names a mirror."
            ) from None
        size, found = place.stat().st_size, sha256_of(place)
        record.append({"url": url, "bytes": size, "sha256": found, "is_checked": sha256 is not None})
    if not source.exists():  # kept if packing is interrupted, so that it can go on
        progress.stage(f"Unpacking {name}")
        _unpack(wanted, path, source)
    make_folder(path)
    facts = {"name": name, "licence": wanted.licence, "citation": wanted.citation, "files": record}
    write_json(path / RECORD, facts)
    sources = [source] if wanted.is_archive else [source / PurePosixPath(file).name for file in wanted.files]
    pack(sources, path, filter=wanted.filters, workers=workers, progress=progress, what=f"Packing {name}")


def _unpack(wanted: Published, path: Path, source: Path) -> None:
    """Make the folder `source` of what is to be packed: the contents of an archive, or the files under their names."""
    if wanted.is_archive:
        download.extract(_place(path, *wanted.files), source)
        return
    with replacing_folder(source) as building:
        for file in wanted.files:
            place, name = _place(path, file), PurePosixPath(file).name
            text = "".join(_without_repeats(place)) if name.endswith(".xyz") else place.read_text(encoding="utf-8")
            write_text(building / name, text)


def _without_repeats(file: Path) -> Iterator[str]:
    """Structures of an extended XYZ file as text, without those that repeat an earlier one.

    Repeats have the same cell and the same lines of atoms; their identifiers may differ.
    """
    seen = set()
    with open(file, encoding="utf-8") as lines:
        for head in filter(str.strip, lines):
            comment, *atoms = islice(lines, int(head) + 1)
            key = (*re.findall(r'Lattice="[^"]*"', comment), *atoms)
            if key not in seen:
                yield "".join((head, comment, *atoms))
            seen.add(key)
