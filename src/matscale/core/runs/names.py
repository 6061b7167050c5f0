"""Names of the files of a run folder; here, so that reading records does not wait for torch."""

from __future__ import annotations

FORMAT_VERSION = 1
CONFIG, INFO, METRICS, SAMPLES, GEOMETRIES = "config.toml", "run.json", "metrics.jsonl", "samples.jsonl", "samples.json"

RESUMABLE = (
    "budget.max_time",
    "skip_nonfinite",
    "compute.device",
    "compute.threads",
    "compute.timeout",
    "compute.checkpoint_activations",
    "checkpoint",
    "plugins",
    "trackers",
    "labels",
)
"""What may be changed when a run is resumed: nothing that decides which numbers are computed."""

MOVABLE = ("budget", "data.path", "start.run")
"""Keys of a configuration that may change, besides `RESUMABLE`, and leave a trained model what it is: how long it was
to train, and where folders lie (the hash of the data is checked by itself)."""


def called(architecture: str, variant: object = None) -> str:
    """`gemnet-OC` of the architecture gemnet and the label `variant` of a run: what laws and comparisons tell apart.

    >>> called("gemnet"), called("gemnet", "OC")
    ('gemnet', 'gemnet-OC')
    """
    return f"{architecture}-{variant}" if variant else architecture
