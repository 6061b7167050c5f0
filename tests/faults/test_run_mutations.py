"""Every file of a run, damaged and altered: the same numbers, or a sentence and the fallback it states, or a refusal
with a documented exit code. Never a traceback, and never another number in silence.

A few seeded mutations by default; all of them with MATSCALE_FAULTS=long.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import MatscaleError, StoppedEarly
from matscale.core.hosting.host import get
from matscale.core.progress import Reporter, StepStatus
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.scaling.tables.from_runs import read_runs
from matscale.core.train.session import train
from synthetic_runs import make_run

LONG = os.environ.get("MATSCALE_FAULTS") == "long"
CHOSEN = {"evaluate": 30, "laws": 40, "resume": 8}
"""How many of the mutations the default suite tries, by what is done with the run."""
TOP = ("config.toml", "run.json", "metrics.jsonl", "samples.json", "samples.jsonl", "references.json")
POINTERS = ("checkpoints/best", "checkpoints/last")
PARTS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
N_VALIDATIONS = 4
STEPS = (6, 8)
"""Those that both runs have are of step 6; only the finished one has step 8."""
FILES = (*TOP, *POINTERS, *(f"checkpoints/step_{step}/{part}" for step in STEPS for part in PARTS))


# The runs ------------------------------------------------------------------------------------------------------------


class _Stop(Reporter):
    def stepped(self, status: StepStatus) -> None:
        if status.step == 6:
            os.kill(os.getpid(), 15)


def _config(data: PackedDataset) -> TrainConfig:
    small = {"hidden": 4, "filters": 4, "n_radial": 4, "n_layers": 1, "cutoff": 4.0}
    return TrainConfig.parse(
        {
            "architecture": {"name": "schnet", "config": small},
            "data": {"path": str(data.path), "validation": 0.25, "cache_graphs": False},
            "batch": {"structures": 6},
            "budget": {"steps": 8},
            "evaluation": {"every": 2},
            "checkpoint": {"every": 2, "keep": 3},
            "compute": {"device": "cpu", "threads": 1},
            "log_every": 1,
        }
    )


@pytest.fixture(scope="module")
def finished(alloys: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = train(_config(alloys), tmp_path_factory.mktemp("finished") / "run", architecture=get("schnet"))
    return run.path


@pytest.fixture(scope="module")
def stopped(alloys: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(StoppedEarly):
        train(_config(alloys), path, architecture=get("schnet"), progress=_Stop())
    return path


# What is done to a file ----------------------------------------------------------------------------------------------

Mutation = Callable[[Path, random.Random], None]


def _bytes(change: Callable[[bytearray, random.Random], bytes | bytearray]) -> Mutation:
    return lambda path, rng: (path.write_bytes(change(bytearray(path.read_bytes()), rng)), None)[1]


def _flip(content: bytearray, rng: random.Random) -> bytearray:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def _digit(content: bytearray, rng: random.Random) -> bytearray:
    places = [k for k, byte in enumerate(content) if chr(byte).isdigit()]
    place = rng.choice(places) if places else 0
    content[place] = ord(str((content[place] + 1) % 10))
    return content


def _lines(change: Callable[[list[bytes], random.Random], list[bytes]]) -> Mutation:
    return _bytes(lambda content, rng: b"".join(change(bytes(content).splitlines(keepends=True), rng)))


def _swapped(lines: list[bytes], rng: random.Random) -> list[bytes]:
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return lines


def _without(lines: list[bytes], rng: random.Random) -> list[bytes]:
    del lines[rng.randrange(len(lines))]
    return lines


def _directory(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _neighbour(path: Path, rng: random.Random) -> None:
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    shutil.copyfile(rng.choice(others), path)


def _value(replacement: Any) -> Mutation:
    """Another value somewhere in JSON, with all digests that lie around it made anew where a checkpoint has them."""

    def change(path: Path, rng: random.Random) -> None:
        try:
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
            values = rng.choice(rows) if rows else json.loads(path.read_text())
        except ValueError:
            return _bytes(_digit)(path, rng)
        places = list(_places(values))
        if not places:  # a pointer: one number
            return _bytes(_digit)(path, rng)
        owner, key = rng.choice(places)
        owner[key] = replacement(owner[key]) if callable(replacement) else replacement
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) if rows else json.dumps(values))
        _redigest(path)
        return None

    return change


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(items):
        yield values, key
        yield from _places(value)


def _redigest(path: Path) -> None:
    manifest = path.parent / "manifest.json"
    if path.name in PARTS[:-1]:
        values = json.loads(manifest.read_text())
        content = path.read_bytes()
        values["files"][path.name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest.write_text(json.dumps(values))


def _tensors(change: Callable[[dict[str, torch.Tensor], str], None]) -> Mutation:
    """Other tensors under a correct digest."""

    def mutate(path: Path, rng: random.Random) -> None:
        if path.suffix != ".safetensors":
            return _bytes(_digit)(path, rng)
        tensors = load_file(path)
        change(tensors, rng.choice(sorted(name for name, value in tensors.items() if value.is_floating_point())))
        save_file(tensors, path)
        _redigest(path)
        return None

    return mutate


def _set(value: Callable[[torch.Tensor], torch.Tensor]) -> Mutation:
    return _tensors(lambda tensors, name: tensors.update({name: value(tensors[name])}))


def _rename(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name + "_"] = tensors.pop(name)


MUTATIONS: dict[str, Mutation] = {
    **{f"flip {k}": _bytes(_flip) for k in range(6)},
    **{f"digit {k}": _bytes(_digit) for k in range(3)},
    "cut in half": _bytes(lambda content, rng: content[: len(content) // 2]),
    "cut off the last byte": _bytes(lambda content, rng: content[:-1]),
    "cut somewhere": _bytes(lambda content, rng: content[: rng.randrange(len(content))]),
    "empty": _bytes(lambda content, rng: b""),
    "zeros": _bytes(lambda content, rng: bytes(len(content))),
    "noise": _bytes(lambda content, rng: rng.randbytes(len(content))),
    "not UTF-8": _bytes(lambda content, rng: b"\xff\xfe" + content),
    "twice": _bytes(lambda content, rng: content + content),
    "garbage after it": _bytes(lambda content, rng: content + b"\x00{garbage"),
    "a line gone": _lines(_without),
    "lines swapped": _lines(_swapped),
    "gone": lambda path, rng: path.unlink(),
    "a folder in its place": _directory,
    "another file's content": _neighbour,
    "a list": lambda path, rng: (path.write_text("[1, 2]"), None)[1],
    "deep": lambda path, rng: (path.write_text("[" * 100_000), None)[1],
    "huge number": _value(10**400),
    "negative": _value(-5),
    "null": _value(None),
    "a word": _value("many"),
    "a little more": _value(lambda v: v * 1.5 if isinstance(v, float) else v + 1 if type(v) is int else v),
    "a table": _value({"a": 1}),
    "another shape": _set(lambda x: torch.cat([x.reshape(-1), x.reshape(-1)])),
    "another type": _set(lambda x: x.to(torch.float16)),
    "another name": _tensors(_rename),
    "a tensor gone": _tensors(lambda tensors, name: (tensors.pop(name), None)[1]),
    "NaN": _set(lambda x: torch.full_like(x, torch.nan)),
    "infinity": _set(lambda x: torch.full_like(x, torch.inf)),
}


@dataclass(frozen=True)
class Case:
    file: str
    mutation: str

    def apply(self, run: Path) -> None:
        MUTATIONS[self.mutation](run / self.file, random.Random(f"{self.file} {self.mutation}"))


def cases(what: str, files: tuple[str, ...] = FILES) -> list[Case]:
    every = [Case(file, mutation) for file in files for mutation in MUTATIONS]
    return every if LONG else random.Random(what).sample(every, CHOSEN[what])


def copied(source: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder / "run")
    return folder / "run"


@dataclass(frozen=True)
class Outcome:
    code: int
    numbers: Any
    words: str

    def kind(self, reference: Any) -> str:
        """`same` numbers, a fallback that is `said`, or `refused`; else what is wrong."""
        told = f"exit {self.code}, {self.words!r}, {self.numbers} instead of {reference}"
        if self.code not in (0, 1, 2, 3, 4):
            return f"a traceback or an undocumented code: {told}"
        if self.code == 0 and self.numbers == reference:
            return "same"
        if not self.words.strip():
            return f"in silence: {told}"
        return "said" if self.code == 0 else "refused"


def command(*arguments: str | Path) -> Outcome:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return Outcome(-1, "", "".join(traceback.format_exception(result.exception)[-4:]))
    spoken = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    usual = re.compile("measured on|^Structures predicted")
    said = [line for line in result.stderr.splitlines() if not usual.search(line)]
    return Outcome(result.exit_code, result.stdout, "\n".join([*spoken, *said]))


def judge(what: str, ends: dict[Case, list[str]]) -> None:
    """Prints how many were tried, and fails with all that went wrong."""
    counts = Counter(end for found in ends.values() for end in found)
    wrong = {case: found for case, found in ends.items() if {*found} - {"same", "said", "refused"}}
    print(f"{len(ends)} mutations of the files of a run, {what}: {dict(counts)}")
    assert not wrong, "\n".join(f"{case}: {found}" for case, found in wrong.items())


# What is tried -------------------------------------------------------------------------------------------------------


def test_evaluate_tells_of_every_file_that_was_altered(finished: Path, tmp_path: Path) -> None:
    def evaluated(run: Path) -> Outcome:
        return command("evaluate", run, "--json", "--no-baselines", "--device", "cpu")

    reference = evaluated(copied(finished, tmp_path / "whole"))
    assert (reference.code, reference.words) == (0, "")
    ends = {}
    for case in cases("evaluate"):
        run = copied(finished, tmp_path / "mutated")
        case.apply(run)
        ends[case] = [evaluated(run).kind(reference.numbers)]
    judge("evaluated", ends)


def test_laws_and_lists_tell_of_every_record_that_was_altered(finished: Path, tmp_path: Path) -> None:
    """And the run beside it is read as ever."""
    good = copied(finished, tmp_path / "good")
    # Another set of weights: rows that repeat those of another run are left out of a table.
    record = Run.open(good)
    for row in (rows := list(record.metrics())):
        if "loss" in row:
            row["loss"] *= 1.01
    record.rows.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record.update({"rows": record.rows_written()})

    def read(run: Path) -> Outcome:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            table = read_runs([good, run], {}, curves=True)
        mine = table.words["run"] == str(run)
        numbers = {k: v[mine].tolist() for k, v in table.numbers.items()}
        assert (table.words["run"] == str(good)).sum() == N_VALIDATIONS
        return Outcome(0, json.dumps(numbers), "; ".join(e.reason for e in table.excluded if str(run) in e.row))

    def listed(run: Path) -> Outcome:
        found = command("runs", "list", run.parent, "--json")
        rows = json.loads(found.numbers) if found.code == 0 else [{}]
        ours = next((row for row in rows if row.get("path") == str(run)), {})
        return Outcome(found.code, json.dumps(ours), found.words + str(ours.get("reason", "not listed")))

    place = tmp_path / "mutated"
    run = copied(finished, place)
    references = read(run), listed(run)
    ends = {}
    for case in cases("laws", TOP):
        run = copied(finished, place)
        case.apply(run)
        ends[case] = [read(run).kind(references[0].numbers), listed(run).kind(references[1].numbers)]
    judge("in laws and lists", ends)


def test_a_resumed_run_tells_of_every_file_that_was_altered(stopped: Path, tmp_path: Path) -> None:
    def resumed(run: Path) -> Outcome:
        found = command("train", "--resume", "-o", run, "--no-baselines", "--quiet")
        if found.code != 0:
            return found
        record = Run.open(run)
        weights = checkpoint.load_weights(checkpoint.folder_of(record.checkpoint_folder, 8))
        digest = hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights)))
        return Outcome(0, (record.info["steps"], record.info["flops"], digest.hexdigest()), found.words)

    reference = resumed(copied(stopped, tmp_path / "whole"))
    assert reference.code == 0, reference.words
    ends = {}
    for case in (case for case in cases("resume") if (stopped / case.file).exists()):
        run = copied(stopped, tmp_path / "mutated")
        case.apply(run)
        try:
            ends[case] = [resumed(run).kind(reference.numbers)]
        except MatscaleError as error:
            ends[case] = [f"the run that was resumed cannot be read: {error}"]
    judge("resumed", ends)


def test_a_study_is_listed_from_its_runs_whatever_became_of_its_ledgers_and_plans(tmp_path: Path) -> None:
    from matscale.core.study import ledger

    def listed(study: Path) -> Outcome:
        found = command("runs", "list", study, "--json")
        return Outcome(found.code, found.numbers, found.words)

    whole = tmp_path / "whole" / "run"
    for size in (1000, 3000):
        folder = make_run(whole / "runs" / f"schnet-{size}", size=size)
        shutil.copyfile(folder / "config.toml", folder / "planned.toml")
    ledger.write(whole, [ledger.row(path) for path in ledger.run_folders(whole)])
    place = tmp_path / "mutated"
    reference = listed(copied(whole, place))
    ends = {}
    for file in ("runs.jsonl", "runs.csv", "runs/schnet-1000/planned.toml"):
        for mutation in list(MUTATIONS)[:26]:
            case, study = Case(file, mutation), copied(whole, place)
            case.apply(study)
            ends[case] = [listed(study).kind(reference.numbers)]
    judge("of a study, listed", ends)
    assert all(found == ["same"] for found in ends.values())
