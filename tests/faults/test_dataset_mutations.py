"""Every file of a dataset, damaged in every way: the same numbers, a refusal by name, or edges that are found anew.

The default suite tries some of the ways on every file, `MATSCALE_FAULTS=long` all of them, with several seeds. The
dataset has been used before each damage, so that its stamps say that all is well; half of the damages set back the
time of change, as a program that hides its traces (or a copy with `--times`) would.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

from matscale.cli import main
from matscale.core.data.graph import Graph
from matscale.core.data.loader import BatchBudget, Loader
from matscale.core.data.store import edge_cache_build, verified
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.errors import MatscaleError
from matscale.core.hosting.host import host
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Potential
from matscale.core.train.evaluation import evaluate

LONG = os.environ.get("MATSCALE_FAULTS") == "long"
GRAPH = Graph.radius(4.0)
RESULTS = ("refused", "the same", "the same, with a warning")


def flip(data: bytearray, rng: random.Random) -> bytes:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def block(fill):
    def change(data: bytearray, rng: random.Random) -> bytes:
        start = rng.randrange(len(data))
        size = min(64, len(data) - start)
        data[start : start + size] = fill(size, rng)
        return data

    return change


def swapped(data: bytearray, rng: random.Random) -> bytes:
    half = len(data) // 2
    return data[half:] + data[:half]


def last_digit(data: bytearray, rng: random.Random) -> bytes:
    """Another digit in a text; another byte elsewhere."""
    digits = [k for k, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        place = rng.choice(digits)
        data[place] = 48 + (data[place] - 47) % 10
    return data


CHANGES = {
    "a bit": flip,
    "another bit": flip,
    "a third bit": flip,
    "the first bit": lambda data, rng: bytes([data[0] ^ 1]) + data[1:],
    "the last bit": lambda data, rng: data[:-1] + bytes([data[-1] ^ 1]),
    "a bit of the header": lambda data, rng: data[:20] + bytes([data[20] ^ 4]) + data[21:] if len(data) > 20 else b"x",
    "a digit": last_digit,
    "another digit": last_digit,
    "a block of zeros": block(lambda size, rng: bytes(size)),
    "a block of ones": block(lambda size, rng: b"\xff" * size),
    "a block of noise": block(lambda size, rng: rng.randbytes(size)),
    "only zeros": lambda data, rng: bytes(len(data)),
    "only noise": lambda data, rng: rng.randbytes(len(data)),
    "emptied": lambda data, rng: b"",
    "cut in half": lambda data, rng: data[: len(data) // 2],
    "a byte less": lambda data, rng: data[:-1],
    "eight bytes less": lambda data, rng: data[:-8],
    "a byte more": lambda data, rng: data + b"\0",
    "twice": lambda data, rng: data + data,
    "eight bytes in its midst": lambda data, rng: data[: len(data) // 2] + bytes(8) + data[len(data) // 2 :],
    "eight bytes of its midst gone": lambda data, rng: data[: len(data) // 2] + data[len(data) // 2 + 8 :],
    "halves exchanged": swapped,
    "backwards": lambda data, rng: data[::-1],
    "a bracket too deep": lambda data, rng: b"[" * 200_000,
    "a number too long": lambda data, rng: b'{"format_version": ' + b"9" * 6000 + b"}",
}
REPLACED = {
    "deleted": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture(scope="module")
def numbers_of():
    """Everything that training, evaluation and the printed statistics take from a dataset, as one digest."""
    architecture = host().architecture("schnet")
    config = architecture.config.parse({"hidden": 4, "filters": 4, "n_layers": 1, "n_radial": 4, "cutoff": 4.0})
    info = DatasetInfo(elements=tuple(range(1, 119)), mean_atoms=5.0, mean_degree=10.0)
    potential = Potential.of(architecture, config, info, 0, isolated=True)

    def numbers(path: Path, trains: bool = False, in_memory: bool = False) -> str:
        dataset, digest = PackedDataset.open(path, in_memory), hashlib.sha256()
        budget = BatchBudget(edges=500) if trains else BatchBudget(structures=16)
        batches = list(Loader(dataset, range(len(dataset)), GRAPH, budget, shuffle=False).epoch(0))
        for batch in batches:
            for name, value in sorted(vars(batch).items()):
                if isinstance(value, torch.Tensor) and not trains:  # batches of another size hold the same structures
                    digest.update(name.encode() + value.numpy().tobytes())
        if trains:
            edges = [batch.edge_index - batch.edge_index.min() for batch in batches]
            digest.update(b"".join(e.numpy().tobytes() for e in edges))
        metrics = evaluate(potential, iter(batches))
        manifest = dataset.manifest.model_dump_json()
        for part in (metrics, manifest, dataset.groups.tolist(), dataset.sources.tolist(), dataset.hash):
            digest.update(repr(part).encode())
        return digest.hexdigest()

    return numbers


@pytest.fixture
def dataset(structures, tmp_path, monkeypatch):
    """Three shards with their edges and with the other files that a dataset may have, checked and stamped."""
    monkeypatch.setattr(verified, "SETTLED_NS", 0)
    monkeypatch.setattr(edge_cache_build, "PIECE", 8)
    monkeypatch.setenv("MATSCALE_CACHE", str(tmp_path / "cache"))
    writer = ShardWriter(tmp_path / "data", piece_bytes=2500, shard_bytes=5000)
    writer.append(*structures(36))
    writer.finish(rejected=1)
    (tmp_path / "data" / "rejected.jsonl").write_text('{"structure": "x", "reason": "no atoms", "detail": "0 atoms"}\n')
    (tmp_path / "data" / "recipe.toml").write_text("n = 36\n")
    dataset = PackedDataset.open(tmp_path / "data")
    assert len(dataset.manifest.shards) >= 3
    build_cache(dataset, GRAPH)
    return dataset.path


def outcome(numbers_of, path: Path, expected: str, **options) -> str:
    """What came of it; AssertionError for other numbers, an error that names nothing, or one that is no sentence."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = numbers_of(path, **options)
        except MatscaleError as error:
            return "refused" if str(path) in str(error) else f"refused without a name: {error}"
    assert found == expected, "other numbers"
    assert all(str(path) in str(warning.message) for warning in caught)
    return "the same, with a warning" if caught else "the same"


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def restore(path: Path, held: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(held)


def test_no_damage_to_any_file_of_a_dataset_changes_a_number_in_silence(dataset, numbers_of, record_property):
    expected = {trains: numbers_of(dataset, trains) for trains in (False, True)}
    assert len(list(dataset.rglob(".verified/*.json"))) >= 6
    counts: Counter[str] = Counter()
    for seed in range(4 if LONG else 1):
        for number, path in enumerate(files_of(dataset)):
            rng = random.Random(1000 * seed + number)
            ways = [*CHANGES, *REPLACED, "another file", "unreadable"]
            for k, way in enumerate(ways if LONG else rng.sample(ways, 6)):
                held, stat = path.read_bytes(), path.stat()
                damage(path, way, held, dataset, rng)
                if k % 2 and path.is_file():
                    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
                trains, in_memory = bool((k + number) % 3 == 0), bool(k % 5 == 0)
                try:
                    result = outcome(numbers_of, dataset, expected[trains], trains=trains, in_memory=in_memory)
                except Exception as error:
                    raise AssertionError(f"{path.relative_to(dataset)}, {way}, seed {seed}: {error!r}") from error
                assert result in RESULTS, f"{path.relative_to(dataset)}, {way}, seed {seed}: {result}"
                counts[result] += 1
                path.exists() and path.chmod(0o644)
                restore(path, held)
                assert outcome(numbers_of, dataset, expected[False]) == "the same"  # stamped again
    print(f"{sum(counts.values())} damages: {dict(counts)}")
    record_property("damages", sum(counts.values()))
    assert all(counts[kind] > 5 for kind in RESULTS)


def damage(path: Path, way: str, held: bytes, dataset: Path, rng: random.Random) -> None:
    if way in CHANGES:
        with open(path, "r+b") as file:  # in place: the inode stays
            changed = CHANGES[way](bytearray(held), rng) if held else b"x"
            file.truncate(0)
            file.write(changed)
    elif way in REPLACED:
        path.unlink()
        REPLACED[way](path)
    elif way == "another file":
        others = [other for other in files_of(dataset) if other != path and other.suffix == path.suffix]
        path.write_bytes(rng.choice(others).read_bytes() if others else b"")
    else:
        path.chmod(0)


@pytest.mark.parametrize("way", ["deleted", "a file"])
@pytest.mark.parametrize("folder", ["graphs", "graphs/radius-4", ".verified", "graphs/radius-4/.verified"])
def test_folders_within_a_dataset_may_vanish(dataset, numbers_of, folder, way):
    expected = numbers_of(dataset)
    shutil.rmtree(dataset / folder)
    if way == "a file":
        (dataset / folder).write_text("in the way")
    assert outcome(numbers_of, dataset, expected).startswith("the same")


def test_two_shards_or_two_files_of_edges_may_not_be_exchanged(dataset, numbers_of):
    expected = numbers_of(dataset)
    for one, other, result in (
        ("graphs/radius-4/edges-00000.safetensors", "graphs/radius-4/edges-00001.safetensors", "with a warning"),
        ("shard-00000.safetensors", "shard-00001.safetensors", "refused"),
    ):
        os.rename(dataset / one, dataset / "aside")
        os.rename(dataset / other, dataset / one)
        os.rename(dataset / "aside", dataset / other)
        assert outcome(numbers_of, dataset, expected).endswith(result)


def test_what_was_checked_is_not_read_again_and_what_changed_is(dataset, monkeypatch):
    hashed, real = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: hashed.append(Path(file.name).name) or real(file, name)
    )
    everything = lambda: PackedDataset.open(dataset).batch(range(36), GRAPH)  # noqa: E731
    everything()
    hashed.clear()
    everything()
    assert hashed == []
    (dataset / "shard-00001.safetensors").touch()
    everything()
    assert hashed == ["shard-00001.safetensors"]
    PackedDataset.open(dataset).verify()
    assert len(hashed) == 1 + len(list(dataset.rglob("*.safetensors")))


def test_a_dataset_that_cannot_be_written_to_is_stamped_in_the_users_cache(dataset, tmp_path, monkeypatch):
    for folder in list(dataset.rglob(".verified")):
        shutil.rmtree(folder)
        folder.write_text("stands for a folder without permission to write")
    PackedDataset.open(dataset).batch(range(36), GRAPH)
    assert list((tmp_path / "cache" / "verified").glob("*.json"))
    monkeypatch.setattr(hashlib, "file_digest", None)
    PackedDataset.open(dataset).batch(range(36), GRAPH)


def test_a_file_that_changed_a_moment_ago_gets_no_stamp_yet(dataset, monkeypatch):
    shutil.rmtree(dataset / ".verified")
    monkeypatch.setattr(verified, "SETTLED_NS", 3600 * 10**9)
    PackedDataset.open(dataset).batch([0])
    assert not (dataset / ".verified").exists()


def test_rot_that_no_clock_shows_is_found_by_verify_and_by_everything_after_it(dataset, monkeypatch):
    path = dataset / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(
        verified, "_is_stamped", lambda path, stamp: (path.parent / ".verified" / f"{path.name}.json").exists()
    )
    PackedDataset.open(dataset).batch([0])  # not promised: the stamp stands
    with pytest.raises(MatscaleError, match="shard-00000"):
        PackedDataset.open(dataset).verify()
    with pytest.raises(MatscaleError, match="shard-00000"):
        PackedDataset.open(dataset).batch([0])


@pytest.fixture
def command(dataset, make_run, alloys, tmp_path):
    """`matscale evaluate RUN` on a copy of the run's dataset with edges."""
    from click.testing import CliRunner

    path = tmp_path / "copy"
    shutil.copytree(alloys.path, path)
    build_cache(PackedDataset.open(path), Graph.radius(5.0))
    run = make_run("schnet", hidden=8, filters=8, n_layers=1, cutoff=5.0)
    arguments = ["evaluate", str(run.path), "--data", str(path), "--no-baselines", "--json"]
    return path, lambda: CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("file", "code"), [("shard-00000.safetensors", 3), ("graphs/radius-5/edges-00000.safetensors", 0)]
)
def test_evaluate_says_that_a_bit_was_flipped(command, file, code):
    path, evaluate_it = command
    before = evaluate_it()
    assert before.exit_code == 0
    evaluate_it()
    data, stat = bytearray((path / file).read_bytes()), (path / file).stat()
    data[-30] ^= 1
    (path / file).write_bytes(data)
    os.utime(path / file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        after = evaluate_it()
    assert after.exit_code == code
    said = after.stderr + "".join(str(warning.message) for warning in caught)
    assert f"{path / file}: has changed since it was written" in said
    if code == 0:
        assert json.loads(after.stdout) == json.loads(before.stdout)
