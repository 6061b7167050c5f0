"""Examination of this machine and installation: resources for training, and faults that would stop or slow it.

Each check is guarded: an error in it becomes a finding, and the other checks go on. The top of this file imports only
modules that cannot be broken.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from matscale.core.estimate.variables import dangers
from matscale.core.threads import usable_cores
from matscale.version import __version__

Mark = Literal["ok", "warn", "fail"]
LITTLE, TOO_LITTLE = 2e9, 100e6
"""Free space [bytes] below which there is a warning, and below which training would fail."""


@dataclass(frozen=True)
class Finding:
    """Fact about this machine or installation."""

    section: str
    name: str
    value: str
    mark: Mark = "ok"
    """`fail`: training with the default settings would fail. `warn`: it would be slower, or not as one expects."""
    advice: str = ""
    """Remedy; empty for `ok`."""


Found = Iterator[tuple[str, str] | tuple[str, str, Mark, str]]
"""Findings of a check: name and value and, unless the mark is `ok`, mark and advice."""


def examine() -> list[Finding]:
    """Examine everything, in the order of `CHECKS`. Raises nothing but KeyboardInterrupt."""
    return [finding for section, check in CHECKS.items() for finding in _guarded(section, check)]


def _guarded(section: str, check: Callable[[], Found]) -> Iterator[Finding]:
    try:
        for found in check():
            yield Finding(section, *found)
    except (Exception, SystemExit) as error:
        yield Finding(section, "check", _told(error), "warn", "The rest of this section could not be looked at.")


def _told(error: BaseException) -> str:
    """First line of an error, with its type."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


# Versions -------------------------------------------------------------------------------------------------------------


def _versions() -> Found:
    yield "matscale", f"{__version__} in {Path(__file__).parents[2]}"
    is_new = sys.version_info >= (3, 11)
    yield (
        "python",
        f"{platform.python_version()} ({sys.executable})",
        "ok" if is_new else "fail",
        ("" if is_new else "Install Python 3.11 or newer."),
    )
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield from _torch()
    yield from _driver()
    yield from _packages()


def _torch() -> Found:
    try:
        torch = importlib.import_module("torch")
        built = torch.version.cuda or torch.version.hip
        yield "torch", f"{torch.__version__}, built for {f'CUDA or ROCm {built}' if built else 'CPUs only'}"
    except (Exception, SystemExit) as error:
        yield "torch", _told(error), "fail", "Install PyTorch anew: pip install --force-reinstall torch"


def _driver() -> Found:
    listed, complaint = _listed()
    if complaint:
        yield "driver", complaint, "warn", "nvidia-smi finds no GPU: is the driver loaded? Ask the administrator."
    else:
        yield "driver", "; ".join(listed) or "no nvidia-smi"


def _listed() -> tuple[list[str], str]:
    """GPUs that NVIDIA's driver lists, each with its version, and the error of nvidia-smi if it lists none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return [], ""
    query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        return [], _told(error)
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode or not lines:
        return [], next(iter((answer.stdout + answer.stderr).strip().splitlines()), "no answer")[:200]
    return lines, ""


def _packages() -> Found:
    """Packages that matscale requires, by the metadata of its distribution."""
    try:
        from packaging.requirements import Requirement  # start-up: packaging

        lines = requires("matscale") or []
    except (Exception, SystemExit) as error:
        yield "packages", _told(error), "warn", "Install matscale anew: pip install --force-reinstall matscale"
        return
    wanted = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate({"extra": ""})]
    faults = 0
    for requirement in wanted:
        try:
            installed = version(requirement.name)
            fits = requirement.specifier.contains(installed, prereleases=True)
            fault = "" if fits else f"{installed}, but matscale needs {requirement.specifier}"
        except PackageNotFoundError:
            fault = "is not installed"
        except Exception as error:  # damaged metadata of that package
            fault = _told(error)
        if fault:
            faults += 1
            yield requirement.name, fault, "warn", f'pip install "{requirement.name}{requirement.specifier}"'
    yield "packages", f"{len(wanted) - faults} of {len(wanted)} as matscale needs them"


# Devices and threads --------------------------------------------------------------------------------------------------


def _devices() -> Found:
    try:
        torch = importlib.import_module("torch")
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except (Exception, SystemExit) as error:
        yield "GPU", _told(error), "fail", "Reinstall torch or the driver, or train with --device cpu."
        return
    if n == 0:
        if _listed()[0]:
            yield (
                "GPU",
                "torch sees none, but the driver lists some",
                "warn",
                "Install a torch that was built for this driver (pytorch.org), or look at CUDA_VISIBLE_DEVICES.",
            )
        else:
            yield "GPU", "none"
    for number in range(n):
        yield from _gpu(torch, number)
    if n > 1 and not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        yield (
            "NCCL",
            "is not built into this torch",
            "warn",
            ("One run can use one GPU only: install a torch with NCCL for --devices."),
        )
    yield "CPU", f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _gpu(torch: Any, number: int) -> Found:
    try:
        name = torch.cuda.get_device_name(number)
        if torch.ones(2, device=f"cuda:{number}").sum().item() != 2:
            raise RuntimeError("1 + 1 is not 2 on this device")
        free, total = torch.cuda.mem_get_info(number)
    except (Exception, SystemExit) as error:
        yield (
            f"cuda:{number}",
            _told(error),
            "fail",
            (
                "The GPU does not compute. Look at nvidia-smi and dmesg; hide it with CUDA_VISIBLE_DEVICES, or train "
                "with --device cpu."
            ),
        )
        return
    is_full = free < 0.5 * total
    yield (
        f"cuda:{number}",
        f"{name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free",
        "warn" if is_full else "ok",
        ("Another process uses its memory: look at nvidia-smi." if is_full else ""),
    )


def _threads() -> Found:
    cores, present = usable_cores(), os.cpu_count() or 1
    note = "" if cores >= present else " (affinity or a quota excludes the others)"
    yield "cores", f"{cores} of {present}{note}"
    if hasattr(os, "sched_getaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        yield "affinity", f"{len(allowed)} cores: {_ranges(allowed)}"
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
        is_busy = load > 1.5 * present
        yield (
            "load",
            f"{load:.1f} of {present} cores",
            "warn" if is_busy else "ok",
            ("Other processes use the cores: training waits for them." if is_busy else ""),
        )
    try:
        threads = int(importlib.import_module("torch").get_num_threads())
    except (Exception, SystemExit):
        return  # told by the section of versions
    is_many = threads > cores
    yield (
        "torch threads",
        str(threads),
        "warn" if is_many else "ok",
        (f"More threads than cores: set OMP_NUM_THREADS={cores}." if is_many else ""),
    )


def _ranges(numbers: list[int]) -> str:
    """Write numbers as ranges.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    runs = list[list[int]]()
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


# Plugins, variables, disk ---------------------------------------------------------------------------------------------


def _plugins() -> Found:
    host = importlib.import_module("matscale.core.hosting.host").host()
    host.load_all()
    working = 0
    for plugin in host.plugins:
        if plugin.status == "ok":
            working += 1
        elif plugin.status in ("blocked", "clash"):
            yield (
                plugin.asked,
                f"{plugin.status}: {plugin.reason}",
                "ok" if plugin.status == "blocked" else "warn",
                (f"Use the name {plugin.asked}." if plugin.status == "clash" else ""),
            )
        else:
            advice = f"matscale plugins check {plugin.asked} shows the traceback; or block it: MATSCALE_BLOCK_PLUGINS."
            if plugin.entry.builtin:
                advice = "Reinstall matscale and its requirements: pip install --force-reinstall matscale"
            yield plugin.asked, f"{plugin.status}: {plugin.reason}", "fail" if plugin.entry.builtin else "warn", advice
    for name in host.unknown_blocks:
        yield name, "is blocked, but there is no such plugin", "warn", "Correct MATSCALE_BLOCK_PLUGINS."
    yield "plugins", f"{working} of {len(host.plugins)} work"


def _variables() -> Found:
    count = 0
    for name, value, variable in dangers():
        count += 1
        yield f"{name}={value[:60]}", variable.reason, variable.mark, variable.cure
    if not count:
        yield "environment", "no dangerous variable is set"


def _disk() -> Found:
    for name, folder, else_where in (
        ("cache", _cache, "Set MATSCALE_CACHE to a folder on another disk."),
        ("runs", lambda: Path.cwd() / "runs", "Train with -o FOLDER on another disk, or change the current folder."),
        ("temporary", lambda: Path(tempfile.gettempdir()), "Set TMPDIR to a folder on another disk."),
    ):
        path = None
        try:
            path = folder()
            free = _free(path)
        except (Exception, SystemExit) as error:
            is_filled = path is not None and name == "cache" and any(path.glob("emt-*"))
            yield (
                name,
                f"{path or 'no folder'}: {_told(error)}",
                "warn" if is_filled else "fail",
                (f"It cannot be written. {else_where}"),
            )
            continue
        mark: Mark = "fail" if free < TOO_LITTLE else "warn" if free < LITTLE else "ok"
        yield name, f"{path}: {free / 1e9:.3g} GB free", mark, "" if mark == "ok" else f"Free some space. {else_where}"


def _cache() -> Path:
    folder: Path = importlib.import_module("matscale.core.data.named.cache").folder()
    return folder


def _free(path: Path) -> int:
    """Free space [bytes] on the disk of `path`, after a test that it can be written; `path` need not exist."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    with tempfile.TemporaryFile(dir=existing) as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
    return shutil.disk_usage(existing).free


# Training -------------------------------------------------------------------------------------------------------------


def _training() -> Found:
    """Device, precision, threads and workers that `matscale train` would use without options."""
    try:
        importlib.import_module("matscale.core.train.session")
        importlib.import_module("matscale.core.data.named.catalog")
        compute = importlib.import_module("matscale.core.train.compute")
        world = importlib.import_module("matscale.core.train.processes.world").World
        settings = importlib.import_module("matscale.core.runs.config").ComputeConfig()
        precisions_of = importlib.import_module("matscale.core.estimate.bench").precisions_of
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None)
        cure = (
            f"pip install {missing}"
            if isinstance(error, ModuleNotFoundError) and missing
            else ("Reinstall matscale and its requirements: pip install --force-reinstall matscale")
        )
        yield "imports", _told(error), "fail", cure
        return
    try:
        group = world.from_environment()
        yield "processes", f"{group.size}" if group.size == 1 else f"{group.rank} of {group.size}"
        device = compute.device_of(settings, group)
        yield "device", compute.describe(device)
        yield "precision", f"{settings.precision}; the device also has {', '.join(precisions_of(device)[2:])}"
    except (Exception, SystemExit) as error:
        yield "device", _told(error), "fail", "See above; or train with --device cpu."
    yield "threads", str(importlib.import_module("torch").get_num_threads())
    yield "workers", f"0 for batches (made in the training thread), {min(8, usable_cores())} to make a dataset"
    compilers = [name for name in ("c++", "g++", "clang++") if shutil.which(name)]
    yield "compute.compile", f"possible with {compilers[0]}" if compilers else "not on a CPU: there is no C++ compiler"


CHECKS: dict[str, Callable[[], Found]] = {
    "versions": _versions,
    "devices": _devices,
    "threads": _threads,
    "plugins": _plugins,
    "variables": _variables,
    "disk": _disk,
    "training": _training,
}
"""Checks, by the section that they fill."""
