"""What an outside package registers is really used by the command line.

Architectures, observers and readers: the tests `*_beside_plugins.py`; commands: test_startup.py; laws: test_laws.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from little import Site, architecture
from matscale.core.data.store.packed import PackedDataset
from matscale.core.runs.record import Run
from studies import study_file

LOSS = """
    from matscale import hookimpl
    from matscale.core.train.loss import Loss

    @hookimpl
    def register_losses():
        return [Loss("thousand", "a thousand times the mean absolute error", lambda r: 1000 * r.abs().mean(dim=1))]
"""

LABELER = """
    from ase.calculators.lj import LennardJones
    from matscale import hookimpl
    from matscale.core.data.synthetic.labelers import Labeler

    @hookimpl
    def register_labelers():
        make = lambda: LennardJones(sigma=2.2, epsilon=0.1, rc=6.0)
        return [Labeler("argon", "Lennard-Jones", "none", make, "lj-1", elements=("Ne", "Ar"))]
"""

TRACKER = """
    import json
    from matscale import hookimpl
    from matscale.core.hosting.tracker import Tracker

    class Diary:
        def __init__(self, run, step):
            self.rows, self.file = [], run.path / "diary.json"

        def log(self, step, time, values):
            self.rows.append([step, values["train/loss" if "train/loss" in values else "validation/loss"]])

        def close(self, status):
            self.file.write_text(json.dumps({"status": status, "rows": self.rows}))

    @hookimpl
    def register_trackers():
        return [
            Tracker("diary", "rows in a file", Diary),
            Tracker("painter", "needs what is not there", Diary, modules=("paint_shop",)),
        ]
"""

LAUNCHER = """
    import subprocess
    from matscale import hookimpl
    from matscale.core.config import Config
    from matscale.core.study.launcher import Ended, Launcher

    class Options(Config):
        note: str = "none"

    class Pool:
        def __init__(self, options, folder):
            self.options, self.folder, self.over = options, folder, []

        def room(self):
            return 1

        def start(self, jobs):
            for job in jobs:
                with job.log.open("ab") as log:
                    done = subprocess.run(job.command, stdout=log, stderr=log)
                with (self.folder / "waited.txt").open("a") as file:
                    file.write(f"{self.options.note} {job.path.name}\\n")
                self.over.append(Ended(job.path, done.returncode))

        def held(self):
            return {}

        def ended(self):
            over, self.over = self.over, []
            return over

        def stop(self):
            return ""

        def close(self):
            pass

    @hookimpl
    def register_launchers():
        return [Launcher("patient", "one after the other", Options, Pool)]
"""


def train(site: Site, data: PackedDataset, folder: Path, *arguments: str) -> tuple[int, str]:
    options = ["--arch", "linear", "--data", str(data.path), "--steps", "4", "--device", "cpu", "-o", str(folder)]
    result = site.run("train", *options, "--set", "log_every=2", "--quiet", "--no-baselines", *arguments)
    return result.exit_code, result.stderr


def test_a_run_is_trained_with_a_loss_from_outside(site: Site, alloys: PackedDataset, tmp_path: Path) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-thousand", LOSS)
    first = []
    for kind in ("mae", "thousand"):
        code, error = train(site, alloys, tmp_path / kind, "--set", f"loss.forces.kind={kind}")
        assert code == 0, error
        row = next(Run.open(tmp_path / kind).metrics("validation"))
        first.append(row["objective"] - row["loss_energy"] - 5 * (row["stress_mae"]))
    assert first[1] > 500 * first[0] > 0


def test_data_are_labelled_by_a_labeler_from_outside(site: Site, tmp_path: Path) -> None:
    site.install("my-argon", LABELER)
    result = site.run("data", "make", "--labeler", "argon", "--n", "12", "-o", str(tmp_path / "data"))
    assert result.exit_code == 0, result.stderr
    made = PackedDataset.open(tmp_path / "data")
    assert made.manifest.labels_by == "surrogate: lj-1"
    assert set(made.elements(np.arange(len(made)))) <= {10, 18}
    assert made.has("forces").all()


def test_a_study_is_run_by_a_launcher_and_told_to_a_tracker_from_outside(
    site: Site, alloys: PackedDataset, tmp_path: Path
) -> None:
    site.install("my-patient", LAUNCHER)
    site.install("my-diary", TRACKER)
    common = {"batch": {"structures": 4}, "compute": {"device": "cpu", "threads": 1}, "log_every": 2}
    values = {"params": ["2k"], "seeds": [0], "set": {**common, "trackers": ["diary"]}, "patient": {"note": "slowly"}}
    study = study_file(tmp_path, alloys.path, **values)
    done = site.run("sweep", str(study), "--launcher", "patient", "--quiet", PYTHONPATH=str(site.folder))
    assert done.exit_code == 0, done.stderr
    (run,) = (tmp_path / "study" / "runs").iterdir()
    assert (tmp_path / "study" / "waited.txt").read_text() == f"slowly {run.name}\n"
    told = json.loads((run / "diary.json").read_text())
    assert told["status"] == "completed"
    assert told["rows"] == [[row["step"], row["loss"]] for row in Run.open(run).metrics()]


def test_a_tracker_is_chosen_by_an_option_and_kept_when_the_run_is_resumed(
    site: Site, alloys: PackedDataset, tmp_path: Path
) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-diary", TRACKER)
    code, error = train(site, alloys, tmp_path / "run", "--track", "diary")
    assert code == 0, error
    assert (tmp_path / "run" / "diary.json").exists()
    assert Run.open(tmp_path / "run").config.trackers == ("diary",)
    resumed = site.run("train", "--resume", "-o", str(tmp_path / "run"), "--dry-run")
    assert 'trackers = [\n    "diary",\n]' in resumed.stdout


def test_a_tracker_whose_package_is_missing_ends_with_2_before_there_is_a_run(
    site: Site, alloys: PackedDataset, tmp_path: Path
) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-diary", TRACKER, requires=("paint-shop>=1; extra == 'paint'", "paint_shop; extra == 'paint'"))
    code, error = train(site, alloys, tmp_path / "run", "--track", "painter")
    assert code == 2
    assert "Tracker 'painter' (my-diary 1.0) cannot be used: there is no module 'paint_shop'" in error
    assert 'pip install "my-diary[paint]"' in error
    assert not (tmp_path / "run").exists()
