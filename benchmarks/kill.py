"""Kill every kind of work that writes at chosen points of its writing, start it again, and compare with unbroken work.

    OMP_NUM_THREADS=1 python benchmarks/kill.py --kills 1050
    OMP_NUM_THREADS=1 python benchmarks/kill.py --each 1 --full 1 --walks 0      # a sample, as in the tests

The victims are those of tests/kills.py: training, packing, making, edge caches, sweeps, predictions, exports, imports,
reports. Each works in a fork of this process, which counts its operations on the disk; a fork is ended with SIGKILL
before, amid or after one of them (MATSCALE_FAULT, see matscale.core.files). After every kill nothing half-written may
be taken for whole and nothing complete be lost; the same command again must succeed, give the same bytes or numbers,
and leave nothing over. All writes are hit amid their bytes, and other points as often as --kills allows; with --each N,
no victim more than N times. At --full N points of each victim the disk is full from there on: the work has to end in
one sentence, and to succeed when there is room. Exit code 1 if one of these does not hold once.

Then training is killed again and again in one folder, each time a random number of points further, until it is
complete; this --walks times. Flushing counts as an operation and is left out: a kill loses nothing that the kernel has.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
import kills  # noqa: E402

INSIDE = {"after open", "before write", "amid write", "after write", "before fsync", "after fsync", "before rename"}
"""Points between the opening of a file and the moment at which it has its name."""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=1000)
    options.add_argument("--each", type=int)
    options.add_argument("--full", type=int, default=0)
    options.add_argument("--walks", type=int, default=3)
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder, patch.object(os, "fsync", lambda descriptor: None):
        return 1 if _all(Path(folder), kills.shelved(Path(folder)), arguments, chance) else 0


def _all(folder: Path, victims: dict[str, kills.Victim], arguments: argparse.Namespace, chance: random.Random) -> int:
    """Number of faults that something did not survive."""
    failed, full = 0, 0
    points = {name: kills.points(victim, folder / f"whole-{name}") for name, victim in victims.items()}
    chosen = _chosen(points, arguments, chance)
    done: Counter[tuple[str, str]] = Counter()
    for name, victim in victims.items():
        began, whole = time.perf_counter(), victim.contents(folder / f"whole-{name}")
        filled = chance.sample(range(len(points[name])), min(arguments.full, len(points[name])))
        faults = [(kills.kill_at, k) for k in sorted(chosen[name])] + [(kills.fill_at, k) for k in filled]
        for fault, k in faults:
            place = folder / "victim"
            try:
                fault(victim, place, k + 1, whole)
            except Exception as error:
                failed += 1
                print(f"FAILED: {name}, {points[name][k]}: {type(error).__name__}: {str(error)[:1000]}", flush=True)
            shutil.rmtree(place)
            done[name, points[name][k]] += fault is kills.kill_at
        full += len(filled)
        print(f"{_line(name, done)} of {len(points[name])} points; {time.perf_counter() - began:.0f} s", flush=True)
    for _ in range(arguments.walks):
        _walk(folder, victims["train"], points["train"], chance, done)
    print(_line("train", done), "with walks")
    total, inside = sum(done.values()), sum(n for (_, kind), n in done.items() if kind in INSIDE)
    outcome = f"{failed} not survived" if failed else "all survived"
    amid = sum(n for (_, kind), n in done.items() if kind == "amid write")
    print(f"{total} kills, {inside} inside the writing of a file, {amid} amid its bytes; {full} full disks: {outcome}")
    return failed


def _chosen(points: dict[str, list[str]], arguments: argparse.Namespace, chance: random.Random) -> dict[str, list[int]]:
    """Victim -> the points at which it is killed."""
    amid = {name: [k for k, kind in enumerate(kinds) if kind == "amid write"] for name, kinds in points.items()}
    others = {name: sorted(set(range(len(kinds))) - set(amid[name])) for name, kinds in points.items()}
    if arguments.each is not None:
        half = {name: chance.sample(amid[name], min(arguments.each // 2, len(amid[name]))) for name in points}
        return {name: half[name] + chance.sample(others[name], arguments.each - len(half[name])) for name in points}
    places = [(name, k) for name in points for k in others[name]]
    room = max(arguments.kills - sum(map(len, amid.values())), 0)
    for name, k in chance.sample(places, min(room, len(places))):
        amid[name].append(k)
    return amid


def _walk(folder: Path, victim: kills.Victim, points: list[str], chance: random.Random, done: Counter) -> None:
    """Kill one training again and again until it is through."""
    place = folder / "walk"
    place.mkdir()
    while True:
        status, said = kills.forked(victim, place, **{kills.FAULT: f"kill@{chance.randint(1, len(points) // 3)}"})
        if status == 0:
            break
        assert status == -signal.SIGKILL, said
        victim.contents(place)
        done["train", "in a walk"] += 1
    assert victim.contents(place) == victim.contents(folder / "whole-train"), "a walk: another result"
    assert not kills.left_over(place), f"a walk: left over: {kills.left_over(place)}"
    shutil.rmtree(place)


def _line(name: str, done: Counter) -> str:
    mine = Counter({kind: n for (other, kind), n in done.items() if other == name})
    inside = sum(n for kind, n in mine.items() if kind in INSIDE)
    return f"{name:8} {sum(mine.values()):5} kills, {inside:4} inside a write, {mine['amid write']:3} amid its bytes"


if __name__ == "__main__":
    sys.exit(main())
