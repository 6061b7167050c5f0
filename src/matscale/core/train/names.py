"""Names of the files of a run folder; here, so that reading records does not wait for torch."""

from __future__ import annotations

FORMAT_VERSION = 1
CONFIG, INFO, METRICS, SAMPLES, GEOMETRIES = "config.toml", "run.json", "metrics.jsonl", "samples.jsonl", "samples.json"

SECTIONS = ("architecture", "parameters", "dataset", "labels", "best", "last")
"""Keys of run.json whose value is an object, or null."""


def called(architecture: str, variant: object = None) -> str:
    """`gemnet-OC` of the architecture gemnet and the label `variant` of a run: what laws and comparisons tell apart."""
    return f"{architecture}-{variant}" if variant else architecture


def is_record(info: object) -> bool:
    """Whether what was read from a run.json has the shape of one."""
    return isinstance(info, dict) and all(isinstance(info.get(key) or {}, dict) for key in SECTIONS)
