"""`matscale train`: configure a run by options, a file and overrides, then train it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.options import quiet_option, with_options
from matscale.cli.progress.reporter import reporter
from matscale.cli.progress.text import pretrained
from matscale.cli.text import errors_table
from matscale.cli.types import ArchitectureName, CountOrAuto, ParameterCount, TrackerName
from matscale.core.errors import ConfigError
from matscale.core.runs.files import CONFIG
from matscale.core.train.options import configuration, free_folder, given

if TYPE_CHECKING:
    from matscale.core.model.architecture import Architecture
    from matscale.core.runs.config import TrainConfig


training_options = with_options(
    click.option("--arch", type=ArchitectureName, help="Architecture: `matscale models list`."),
    click.option("--size", metavar="NAME", help="Published configuration; `matscale models show` lists them."),
    click.option(
        "--params",
        type=ParameterCount(),
        help="Rung of the size ladder nearest to 30k, 1M, ... parameters, embeddings included.",
    ),
    click.option("--data", help="Packed dataset: a path or a name.  [default: emt]"),
    click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path),
        help="TOML file of the configuration; the config.toml of a run repeats the run.",
    ),
    click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override any key of the configuration."
    ),
    click.option(
        "--from",
        "start",
        type=click.Path(path_type=str),
        metavar="RUN",
        help="Fine-tune the model of another run, with its architecture.",
    ),
    click.option(
        "--partial", is_flag=True, default=None, help="With --from: use the weights that fit, and list the others."
    ),
    click.option(
        "--references",
        type=click.Choice(["auto", "keep", "refit"]),
        help="With --from: keep its element references, or correct them for the new data.  [default: auto]",
    ),
    click.option(
        "--pretrain",
        type=click.Choice(["distances", "denoise"]),
        help="Pre-train without labels; fine-tune this run with --from.",
    ),
    click.option(
        "--epochs", type=click.IntRange(1), help="Passes over the data.  [default: 10, if there is no budget]"
    ),
    click.option("--steps", type=click.IntRange(1), help="Optimizer steps."),
    click.option("--max-time", metavar="TIME", help="Wall time: 90s, 30m, 2h."),
    click.option("--max-flops", metavar="COUNT", help="Training FLOPs: 1e15."),
    click.option("--lr", type=float, help="Highest learning rate."),
    click.option(
        "--batch",
        type=CountOrAuto("structures", "as many as fit in memory"),
        help="Structures in a batch, or auto: as many of the largest structures as fit in memory.",
    ),
    click.option("--seed", type=click.IntRange(0), help="Seed of split, weights, order and dropout.  [default: 0]"),
    click.option("--device", help="cpu, cuda, cuda:1.  [default: a GPU if there is one]"),
    click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16", "fp64"]), help="[default: fp32]"),
    click.option(
        "--overfit",
        type=click.IntRange(1),
        metavar="N",
        help="Train and validate on the same N structures, as a check.",
    ),
)
"""Options that configure a run: architecture, size, data, budget and so on."""


@click.command()
@training_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.  [default: a new one in runs/]")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder -o.")
@click.option(
    "--track", multiple=True, type=TrackerName, help="Also send the metrics to a tracker: tensorboard, wandb, trackio."
)
@click.option(
    "--devices",
    type=CountOrAuto("devices", "all GPUs"),
    help="Processes of this machine that share each step, one per GPU: 4, or auto (all GPUs).  [default: 1]",
)
@click.option(
    "--restarts",
    type=click.IntRange(0),
    default=0,
    help="With --devices: number of restarts after a process died.  [default: 0]",
)
@quiet_option
@click.option("--no-baselines", is_flag=True, help="Do not compare with baselines at the end.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and train nothing.")
def train(
    arch: str | None,
    size: str | None,
    params: int | None,
    file: Path | None,
    assignments: tuple[str, ...],
    output: Path | None,
    resume: bool,
    track: tuple[str, ...],
    devices: int | str | None,
    restarts: int,
    quiet: bool,
    no_baselines: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train one model.

    Later sources override earlier ones: defaults, --config, options, --set. The run folder has configuration, metrics
    and checkpoints. On Ctrl-C, the run saves and stops; --resume -o FOLDER continues it.
    """
    from matscale.core.train.processes.launch import is_restarted, reported  # start-up: pydantic

    options["track"] = list(track) or None
    with reported():
        resume = resume or (output is not None and is_restarted() and (output / CONFIG).exists())
        resumed = output if resume else None
        config, architecture = configuration(arch, size, params, file, given(options), assignments, resumed)
        if resume and output is None:
            raise ConfigError("--resume needs the folder of the run: give it with -o FOLDER.")
        if options["batch"] == "auto" and resumed is None:  # a run that goes on has the number that was found
            config = _probed(config, architecture, devices, quiet)
        if dry_run:
            from matscale.core.config import to_toml  # start-up: pydantic

            click.echo(to_toml(config.plain()), nl=False)
        elif devices is None and restarts:
            raise ConfigError("--restarts is for the processes that --devices starts: give both, or neither.")
        elif devices is not None and (n := _processes(devices, config)) + restarts > 1:
            _launch(n, restarts, config, output or free_folder(config), resume, quiet, no_baselines)
        else:
            _train(config, architecture, output, resume, quiet, no_baselines)


def _probed(config: TrainConfig, architecture: Architecture, devices: int | str | None, quiet: bool) -> TrainConfig:
    from matscale.core.estimate.probe import with_fitting_batch  # start-up: torch

    n = 1 if devices is None else _processes(devices, config)
    with reporter(quiet) as progress:
        return with_fitting_batch(config, architecture, n, progress)


def _processes(devices: int | str, config: TrainConfig) -> int:
    from matscale.core.train.processes.launch import n_processes  # start-up: pydantic

    return n_processes(None if devices == "auto" else int(devices), config.compute)


def _launch(
    n: int, restarts: int, config: TrainConfig, folder: Path, resume: bool, quiet: bool, no_baselines: bool
) -> None:
    """Train in `n` processes, and end with their exit code."""
    from matscale.core.train.processes.launch import launch  # start-up: pydantic

    flags = {"--resume": resume, "--quiet": quiet, "--no-baselines": no_baselines}
    code = launch(n, restarts, config, folder, [flag for flag, wanted in flags.items() if wanted])
    click.get_current_context().exit(code)


def _train(
    config: TrainConfig,
    architecture: Architecture,
    output: Path | None,
    resume: bool,
    quiet: bool,
    no_baselines: bool,
) -> None:
    """Train in this process, and print the results on the main one."""
    from matscale.core.train.processes.world import World  # start-up: torch
    from matscale.core.train.session import train as start  # start-up: torch

    world = World.from_environment()
    if world.size > 1 and output is None:
        raise ConfigError("Several processes train this run, and all need the same folder: name it with -o FOLDER.")
    with reporter(quiet or not world.is_main) as progress:
        run = start(config, output or free_folder(config), resume=resume, architecture=architecture, progress=progress)
    if world.is_main:
        if not no_baselines:
            _conclude(run, quiet)
        click.echo(f"Run: {run.path}")


def _conclude(run: Any, quiet: bool) -> None:
    """Print the errors of a run beside those of baselines or, after pre-training, beside those of the trivial guess."""
    from matscale.core.inference.compare import compare, dataset_of  # start-up: torch

    if run.config.pretrain is not None:
        click.echo(f"Pre-training ({run.config.pretrain.task}): {pretrained(run.info['last'])}")
    elif run.config.data.overfit:
        first, last = next(run.metrics("train"), None), run.info["last"]
        click.echo(errors_table({run.config.architecture.name: last}))
        if first is not None:
            before, after = (row.get("loss", row["objective"]) for row in (first, last))
            click.echo(f"Loss on {run.info['dataset']['train']} structures: {before:.4g} -> {after:.4g}")
    else:
        dataset = dataset_of(run)
        with reporter(quiet) as progress:
            progress.stage("Baselines")
            compared = compare(run, dataset, "validation", device=run.config.compute.device)
        click.echo(errors_table(compared))
