"""Names of the files of a run folder; here, so that reading records does not wait for torch."""

from __future__ import annotations

FORMAT_VERSION = 1
CONFIG, INFO, METRICS, SAMPLES, GEOMETRIES = "config.toml", "run.json", "metrics.jsonl", "samples.jsonl", "samples.json"
