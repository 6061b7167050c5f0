"""`matscale doctor` tells what is broken, whatever it is, and ends without a traceback."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from little import Site, install_faulty
from matscale.cli import main
from matscale.core.estimate import doctor
from matscale.core.estimate.doctor import CHECKS, Finding, examine
from matscale.core.estimate.variables import COUNTS, DANGEROUS, RANKS, dangers
from matscale.core.hosting import host as hosting


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {name for variable in DANGEROUS for name in variable.names}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.1, 0.1), raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """found(section, ...): findings of these sections, by name."""

    def of(*sections: str) -> dict[str, Finding]:
        monkeypatch.setattr(doctor, "CHECKS", {name: CHECKS[name] for name in sections})
        return {finding.name: finding for finding in examine()}

    return of


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*arguments: object, **options: object) -> Any:
        raise error

    return call


def test_a_sound_machine_has_no_problem_and_the_exit_code_0() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"]) == (0, True)
    assert {row["section"] for row in told["findings"]} == {*CHECKS}
    assert not [row for row in told["findings"] if row["mark"] == "fail"]
    assert all(bool(row["advice"]) == (row["mark"] != "ok") for row in told["findings"])
    used = {row["name"]: row["value"] for row in told["findings"] if row["section"] == "training"}
    assert {"device", "precision", "threads", "workers"} <= {*used}


def test_a_problem_is_printed_with_what_to_do_and_the_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"devices": CHECKS["devices"], "variables": CHECKS["variables"]})
    monkeypatch.setattr("torch.cuda.is_available", raising(RuntimeError("CUDA driver initialization failed\nmore")))
    monkeypatch.setenv("OMP_PROC_BIND", "clöse")
    result = CliRunner().invoke(main, ["doctor"], catch_exceptions=False)
    assert result.exit_code == 1
    assert "fail  GPU" in result.stdout
    assert "RuntimeError: CUDA driver initialization failed" in result.stdout
    assert "train with --device cpu" in result.stdout
    assert "warn  OMP_PROC_BIND=cl\\xf6se" in result.stdout
    assert "1 problem for training, 1 warnings" in result.stdout


@pytest.mark.parametrize("section", CHECKS)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), SystemExit(3), RuntimeError()], ids=repr)
def test_a_check_that_fails_itself_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, section: str, error: BaseException
) -> None:
    def check() -> Iterator[tuple[str, str]]:
        yield "first", "found before"
        raise error

    monkeypatch.setattr(doctor, "CHECKS", {section: check})
    first, second = examine()
    assert (first.mark, second.mark, second.section) == ("ok", "warn", section)
    assert type(error).__name__ in second.value


@pytest.mark.parametrize(
    ("package", "section", "name"),
    [
        ("torch", "versions", "torch"),
        ("torch", "devices", "GPU"),
        ("pooch", "disk", "cache"),
        ("matscale.core.train.session", "training", "imports"),
    ],
)
def test_a_package_that_training_needs_and_that_is_missing_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, Finding]], package: str, section: str, name: str
) -> None:
    monkeypatch.delenv("MATSCALE_CACHE", raising=False)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    finding = found(section)[name]
    assert finding.mark == "fail"
    assert package in finding.value


def test_packages_that_are_missing_or_too_old_are_named(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, Finding]]
) -> None:
    needs = ["ase>=999", "no-such-package>=1", 'numpy>=2; extra == "dev"', "click>=8.1"]
    monkeypatch.setattr("matscale.core.estimate.doctor.requires", lambda name: needs)
    told = found("versions")
    assert "but matscale needs >=999" in told["ase"].value
    assert told["no-such-package"].value == "is not installed"
    assert told["no-such-package"].advice == 'pip install "no-such-package>=1"'
    assert told["packages"].value == "1 of 3 as matscale needs them"


def test_a_gpu_that_does_not_compute_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, Finding]]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "A GPU")
    told = found("devices")
    assert [told[f"cuda:{k}"].mark for k in range(2)] == ["fail", "fail"]
    assert told["NCCL"].mark == "warn"  # a torch for CPUs


def test_a_driver_with_gpus_that_torch_does_not_see_is_told(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, Finding]]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    answer = subprocess.CompletedProcess([], 0, "NVIDIA H100, 550.54\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: answer)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "the driver lists some" in found("devices")["GPU"].value
    for broken in (raising(OSError("no such device")), raising(subprocess.TimeoutExpired("nvidia-smi", 20))):
        monkeypatch.setattr(subprocess, "run", broken)
        assert found("versions")["driver"].mark == "warn"
    failed = subprocess.CompletedProcess([], 9, "NVIDIA-SMI has failed\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    assert found("versions")["driver"].value == "NVIDIA-SMI has failed"


def test_plugins_that_are_broken_are_told_and_are_no_problem_for_others(
    site: Site, monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, Finding]]
) -> None:
    install_faulty(site)
    monkeypatch.setenv("MATSCALE_BLOCK_PLUGINS", "nothing")
    hosting.host.cache_clear()
    try:
        told = found("plugins")
    finally:
        hosting.host.cache_clear()
    assert {told[name].mark for name in ("broken", "quitter", "future", "typo", "nothing")} == {"warn"}
    assert "matscale plugins check broken" in told["broken"].advice
    assert not [finding for finding in told.values() if finding.mark == "fail"]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "Read-only"),
        (OSError(errno.ENOSPC, "No space left"), "No space"),
    ],
)
def test_a_folder_that_cannot_be_written_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: Callable[..., dict[str, Finding]],
    error: OSError,
    word: str,
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", raising(error))
    monkeypatch.setenv("MATSCALE_CACHE", str(tmp_path))
    told = found("disk")
    assert {finding.mark for finding in told.values()} == {"fail"}
    assert all(word in finding.value for finding in told.values())
    assert "MATSCALE_CACHE" in told["cache"].advice
    assert "-o FOLDER" in told["runs"].advice
    (tmp_path / "emt-12345678").mkdir()  # the default data are there, and need not be made
    assert found("disk")["cache"].mark == "warn"


@pytest.mark.parametrize(("free", "mark"), [(0, "fail"), (5e8, "warn"), (5e9, "ok")])
def test_little_free_space_is_a_warning_and_hardly_any_a_problem(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, Finding]], free: float, mark: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, int(free)))
    assert {finding.mark for finding in found("disk").values()} == {mark}


def test_a_folder_that_was_deleted_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Callable[..., dict[str, Finding]]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    told = found("disk")
    monkeypatch.chdir(tmp_path)
    assert told["runs"].mark == "fail"


def test_ranks_that_make_no_sense_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, Finding]]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    told = found("variables", "training")
    assert told["WORLD_SIZE=two"].mark == told["device"].mark == "fail"


@pytest.mark.parametrize("variable", DANGEROUS, ids=lambda variable: variable.names[0])
def test_a_dangerous_variable_has_a_reason_and_a_cure(variable: Any) -> None:
    samples = ["1", "0", "true", "-1", "", "BF16", "ACTIVE", "infinite", "100000", "many", "/no/such/folder", "close"]
    assert any(variable.is_dangerous(value) for value in samples)
    assert variable.reason.endswith(".")
    assert variable.cure.endswith(".")


def test_values_that_do_no_harm_are_not_told() -> None:
    harmless = {**dict.fromkeys(COUNTS, "1"), **dict.fromkeys(RANKS, "0"), "CUDA_VISIBLE_DEVICES": "0,1"}
    more = {"OMP_WAIT_POLICY": "PASSIVE", "NVIDIA_TF32_OVERRIDE": "0", "TORCH_COMPILE_DISABLE": "0", "TMPDIR": "/"}
    assert [*dangers({**harmless, **more})] == []


@pytest.mark.long
def test_a_torch_that_cannot_be_imported_is_told_by_the_command_itself(site: Site) -> None:
    (site.folder / "torch").mkdir()
    (site.folder / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.12: cannot open')")
    result = site.python("-m", "matscale", "doctor")
    assert result.returncode == 1, result.stderr
    assert "libcudart.so.12: cannot open" in result.stdout
    assert "Traceback" not in result.stderr + result.stdout
