"""Check that a batch fits into memory, before its angles are computed.

Arrays that are computed in pieces (`angles`, `dihedrals`) need little memory. The lower bound counts the features of
edges and the sums that each layer keeps for the backward, and the largest piece of a single atom.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import torch

from matscale.plugin import ConfigError
from matscale.plugins.gemnet.config import GemNetConfig
from matscale.plugins.gemnet.links import Links


def total_memory(device: torch.device) -> int:
    """Total memory of the device in bytes, free or not; on a CPU, the memory that this job or container may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return _of_machine()


@cache  # cached, since every forward calls this
def _of_machine() -> int:
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *group_limits()])


def group_limits(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Memory limits of this process's control groups in bytes, versions 1 and 2; empty without limits."""
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, kind, place = line.split(":", 2)
        if kind not in ("", "memory"):
            continue
        name = "memory.limit_in_bytes" if kind else "memory.max"
        for part in (PurePosixPath(place), *PurePosixPath(place).parents):  # limits of parent groups apply, too
            limit = root / kind / part.relative_to("/") / name
            text = limit.read_text().strip() if limit.exists() else ""
            if text.isdecimal():  # "max" means no limit
                yield int(text)


def least_bytes(config: GemNetConfig, edges: Links, middle: Links | None) -> int:
    """Lower bound of the memory [bytes] that a forward takes or, if gradients are enabled, a training step."""
    c, degree = config, edges.degree
    n_layers = c.n_layers if torch.is_grad_enabled() else 1
    summed = (c.n_spherical + c.circular_embedding) * c.triplet_in
    numbers = n_layers * edges.n * (8 * c.edge_channels + summed)
    if edges.n:
        numbers += int(degree.max()) ** 2 * c.n_spherical
    if middle is not None and middle.n:
        outs = int(degree[middle.target].sum())
        numbers += n_layers * outs * c.n_spherical * c.quadruplet_in
        numbers += int((degree[middle.target] * degree[middle.source]).max()) * c.n_spherical
    return numbers * edges.vec.element_size()


def check_fits(config: GemNetConfig, edges: Links, middle: Links | None) -> None:
    """Raises ConfigError with numbers and advice for a batch that does not fit into the memory."""
    needed, there = least_bytes(config, edges, middle), total_memory(edges.vec.device)
    if needed <= there:
        return
    degree = edges.degree
    found = f"{edges.n:,} edges, {int((degree * degree).sum()):,} triplets"
    if middle is not None:
        found += f", {int((degree[middle.target] * degree[middle.source]).sum()):,} quadruplets"
    raise ConfigError(
        f"gemnet: a batch of {edges.n_atoms:,} atoms has {found}, which take at least {needed / 2**30:,.1f} GiB; "
        f"{edges.vec.device} has {there / 2**30:,.1f} GiB. Make batches smaller (batch.structures, batch.atoms or "
        "batch.edges, with batch.accumulate to make up for it), or give an atom fewer neighbours: "
        f"architecture.config.cutoff (now {config.cutoff:g} Å) or max_neighbors (now {config.max_neighbors or 'all'})."
    )
