"""Command line of matscale: a table of commands, each imported on first use. Only this package uses click and rich.

Results go to stdout, progress and warnings to stderr; a MatscaleError becomes its message and its exit code.
"""

from __future__ import annotations

import click

from matscale.cli.lazy import MainGroup
from matscale.version import __version__

COMMANDS = {
    "train": ("matscale.cli.train:train", "Train one model."),
    "estimate": ("matscale.cli.estimate:estimate", "Estimate parameters, FLOPs, memory, time and disk of a run."),
    "bench": ("matscale.cli.bench:bench", "Measure speed, memory and errors of models on this device."),
    "sweep": ("matscale.cli.sweep:sweep", "Train the grid of runs of a study, or resume it."),
    "tune": ("matscale.cli.tune:tune", "Tune the learning rate at small sizes, and fit a law."),
    "runs": ("matscale.cli.runs:runs", "Runs in a folder: list, show, forecast."),
    "fit": ("matscale.cli.laws.fit:fit", "Scaling laws of runs or a table, with verdicts."),
    "compare": ("matscale.cli.laws.fit:compare", "Compare exponents and costs of architectures."),
    "plan": ("matscale.cli.laws.plan:plan", "Plan size and data for a budget, or for a loss."),
    "report": ("matscale.cli.report:report", "Report on runs, laws and figures, as one HTML page."),
    "models": ("matscale.cli.models:models", "The architectures: list, show, ladder."),
    "plugins": ("matscale.cli.plugins:plugins", "The plugins: list, check, new."),
    "doctor": ("matscale.cli.doctor:doctor", "Examine this machine and installation."),
    "data": ("matscale.cli.data:data", "Make, pack, inspect and fetch datasets."),
    "baselines": ("matscale.cli.baselines:baselines", "Errors of simple baselines on a dataset."),
    "evaluate": ("matscale.cli.use.evaluate:evaluate", "Errors of trained models on a dataset."),
    "predict": ("matscale.cli.use.predict:predict", "Predictions of a trained model for structures in a file."),
    "properties": ("matscale.cli.use.properties:properties", "Elasticity, phonons, dynamics of crystals by models."),
    "view": ("matscale.cli.use.view:view", "Look at predictions: parity, structures, forces, as one HTML page."),
    "attention": (
        "matscale.cli.use.attention:attention",
        "Attention weights of a model against distance: table and page.",
    ),
    "import": ("matscale.cli.fairchem:importing", "Import models of other programs as runs: fairchem."),
    "export": ("matscale.cli.fairchem:exporting", "Export runs to other programs: fairchem."),
}
"""Location of each command (`module:name`) and its line in `matscale --help`, by the name of the command."""


@click.group(
    cls=MainGroup,
    elsewhere=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="matscale")
def main() -> None:
    """Study how neural models of materials scale: train, count, fit and compare architectures.

    Start with `matscale train --arch schnet`. MATSCALE_DEBUG=1 shows the traceback behind an error. Shell completion
    for bash: eval "$(_MATSCALE_COMPLETE=bash_source matscale)"; for zsh and fish, replace bash by the name of the
    shell.
    """
