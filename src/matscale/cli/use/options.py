"""Options that the commands on trained models share."""

from __future__ import annotations

from pathlib import Path

import click

from matscale.cli.options import with_options

run_argument = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
checkpoint_option = click.option(
    "--checkpoint",
    default="best",
    show_default=True,
    metavar="best|last|STEP",
    help="Checkpoint; its averaged weights are used if there are any.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if there is one."
)
dtype_option = click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), help="Arithmetic of the model.  [default: as trained]"
)
net_force_option = click.option(
    "--zero-net-force",
    is_flag=True,
    help="Subtract the mean force of each structure: direct forces do not sum to zero otherwise.",
)
runs_argument = click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
data_option = click.option(
    "--data", help="Packed dataset (a path or a name), or a file of structures.  [default: that of the run]"
)
batch_option = click.option(
    "--batch", type=click.IntRange(1), default=32, show_default=True, help="Structures in a batch."
)
measured_options = with_options(
    click.option(
        "--split",
        "which",
        type=click.Choice(["auto", "validation", "train", "all"]),
        default="auto",
        show_default=True,
        help="Part to measure on; auto: the validation part if the run was trained on this dataset, otherwise all.",
    ),
    checkpoint_option,
    click.option(
        "--weights",
        type=click.Choice(["auto", "average", "raw"]),
        default="auto",
        show_default=True,
        help="Weights of the checkpoint; auto: their moving average (EMA) if the run kept one.",
    ),
    batch_option,
    device_option,
    dtype_option,
    click.option("--skip-invalid", is_flag=True, help="Leave out and list structures that a model cannot predict."),
)
"""Options that say which structures are measured, and with which weights."""
evaluation_options = with_options(
    measured_options,
    net_force_option,
    click.option("--baselines/--no-baselines", default=True, show_default=True, help="Show errors of baselines, too."),
)
"""Options of commands that measure errors: the keywords of `evaluated`."""
