"""`matscale data`: make, pack, inspect and fetch datasets."""

from __future__ import annotations

import click

from matscale.cli.lazy import LazyGroup

ELSEWHERE = {
    "fetch": ("matscale.cli.data.make:fetch", "Download and pack a published dataset."),
    "info": ("matscale.cli.data.pack:info", "Print what a packed dataset contains and where its structures come from."),
    "join": (
        "matscale.cli.data.pack:join",
        "Join the parts that `matscale data pack --part` has packed into one dataset.",
    ),
    "make": ("matscale.cli.data.make:make", "Make a dataset: crystals, rattled and heated, labelled by a potential."),
    "pack": ("matscale.cli.data.pack:pack", "Pack files and folders SRC... into a dataset that training can use."),
    "refs": (
        "matscale.cli.data.refs:refs",
        "Fit element reference energies to a dataset, and print how well they predict.",
    ),
    "stats": ("matscale.cli.data.stats:stats", "Moments and histograms by source and split."),
}
"""Location of each command (`module:name`) and its line of help, by the name of the command; modules load on use."""


@click.group(cls=LazyGroup, elsewhere=ELSEWHERE)
def data() -> None:
    """Make, pack, inspect and fetch datasets."""
