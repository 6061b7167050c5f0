"""Configuration of a run from a file and from short options, for `matscale train` and `matscale.train`.

Heavy modules are imported only when a configuration is made, so that `matscale train --help` waits for neither
pydantic nor torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matscale.core.errors import ConfigError
from matscale.core.hosting.host import get

if TYPE_CHECKING:
    from matscale.core.model.architecture import Architecture
    from matscale.core.runs.config import TrainConfig

DEFAULT_PARAMETERS = 30_000
"""Default number of parameters: small enough to learn the default data on two cores in minutes."""

OPTIONS = {
    "data": "data.path",
    "epochs": "budget.epochs",
    "steps": "budget.steps",
    "max_time": "budget.max_time",
    "max_flops": "budget.max_flops",
    "lr": "optimizer.lr",
    "batch": "batch.structures",
    "seed": "seed",
    "device": "compute.device",
    "precision": "compute.precision",
    "overfit": "data.overfit",
    "start": "start.run",
    "partial": "start.partial",
    "references": "start.references",
    "pretrain": "pretrain.task",
    "track": "trackers",
}
"""Key in the configuration that each option sets, by the name of the option."""


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the values of the options that the user gave, by their keys in the configuration.

    >>> given({"steps": 100, "seed": 1, "lr": None})
    {'budget.steps': 100, 'seed': 1}
    """
    # `--batch auto` is no value of a configuration: the probe puts a number there.
    named = {name: value for name, value in options.items() if value is not None and (name, value) != ("batch", "auto")}
    return {OPTIONS[name]: value for name, value in named.items()}


def configuration(
    arch: str | None,
    size: str | None,
    params: int | None,
    file: Path | Mapping[str, Any] | None,
    options: Mapping[str, Any],
    assignments: Iterable[str],
    resumed: Path | None,
) -> tuple[TrainConfig, Architecture]:
    """Resolve the configuration and its architecture.

    Later sources override earlier ones: the run in the folder `resumed`, `file` (a TOML file, or a mapping of its
    values), `options` (keys as `given` returns them), `assignments` (`a.b=c`). Raises ConfigError for contradictions.
    """
    from matscale.core.config import override, read_toml  # start-up: pydantic
    from matscale.core.runs.config import TrainConfig, merged  # start-up: pydantic
    from matscale.core.runs.record import Run  # start-up: torch
    from matscale.core.train.setup import resolved  # start-up: torch

    values: dict[str, Any] = Run.open(resumed).config.plain() if resumed else {}
    if file is not None:
        values = merged(values, read_toml(file) if isinstance(file, Path) else file)
    values = _with_options(values, options)
    chosen = values.get("architecture", {})
    source = values.get("start", {}).get("run")
    if source is not None and not chosen:
        theirs = Run.open(source).config.architecture
        if arch in (None, theirs.name):
            chosen = theirs.plain()
    if arch is not None and arch != chosen.get("name"):
        chosen = {"name": arch}  # keys of another architecture do not apply to this one
    if "name" not in chosen:
        raise ConfigError(
            'Say which architecture to train: --arch schnet (Python: arch="schnet"). `matscale models list` shows all.'
        )
    if size is not None or params is not None:
        chosen = {"name": chosen["name"]}  # a size chosen here replaces the file's
    elif not chosen.get("config"):
        params = DEFAULT_PARAMETERS
    values = override({**values, "architecture": chosen}, assignments)
    config = TrainConfig.parse(values, str(file) if isinstance(file, Path) else "configuration")
    architecture = get(config.architecture.name)
    return resolved(config, architecture, size, params), architecture


def _with_options(values: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    from matscale.core.runs.config import merged  # start-up: pydantic

    lengths, values = {"epochs", "steps"}, dict(values)
    if any(f"budget.{name}" in options for name in lengths):  # one of them replaces the other
        budget = {key: value for key, value in values.get("budget", {}).items() if key not in lengths}
        values = {**values, "budget": budget}
    task = options.get("pretrain.task")
    if task not in (None, values.get("pretrain", {}).get("task")):
        values = {key: value for key, value in values.items() if key != "pretrain"}  # options are those of another task
    for key, value in options.items():
        nested: Any = value
        for section in reversed(key.split(".")):
            nested = {section: nested}
        values = merged(values, nested)
    return values


def free_folder(config: TrainConfig) -> Path:
    """First free folder of the form `runs/<architecture>-<data>-<k>`."""
    data = Path(config.data.path).name
    name = config.architecture.name.replace(":", "-")
    k = 1
    while (path := Path("runs") / f"{name}-{data}-{k}").exists():
        k += 1
    return path
