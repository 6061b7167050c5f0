"""The size ladder of every architecture, and the published ones by name."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from matscale.core.estimate.describe import parameters
from matscale.core.hosting.host import get, host
from matscale.core.model.architecture import Architecture

BUILT_IN = [a for a in host().architectures() if host().origin(a.name)[0] == "matscale"]


@pytest.mark.parametrize("architecture", host().architectures(), ids=lambda a: a.name)
def test_every_size_from_3k_to_300M_is_reached_within_5_percent(architecture: Architecture) -> None:
    wanted = np.array([3_000, 4_200, 10_000, 123_456, 1_000_000, 100_000_000, 300_000_000])
    found = np.array([parameters(architecture, architecture.ladder(int(n)))["total"] for n in wanted])
    assert np.abs(found / wanted - 1).max() < 0.05
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("architecture", BUILT_IN, ids=lambda a: a.name)
def test_parameters_are_counted_by_one_rule(architecture: Architecture) -> None:
    counts = parameters(architecture, architecture.ladder(30_000))
    assert set(counts) == {"total", "trainable", "embedding", "non_embedding"}
    assert counts["embedding"] + counts["non_embedding"] == counts["total"] == counts["trainable"]
    assert counts["embedding"] > 0


def sizes(name: str, prefix: str) -> list[dict[str, int]]:
    architecture = get(name)
    return [parameters(architecture, config) for size, config in sorted(architecture.sizes.items()) if prefix in size]


def test_the_nine_transformers_of_the_paper_are_there_by_name() -> None:
    totals = [17_770, 155_146, 205_130, 432_810, 942_730, 2_509_386, 2_954_250, 5_200_010, 9_309_514]
    assert [counts["total"] for counts in sizes("transformer", "adit-")] == totals


def test_the_seven_per_atom_networks_of_the_paper_are_there_by_name() -> None:
    expected = [9_434, 38_298, 181_278, 655_050, 1_325_706, 5_338_250, 13_024_650]
    assert [counts["non_embedding"] for counts in sizes("fcn", "ladder-")] == expected


def test_the_twenty_equiformers_of_the_paper_are_there_by_name(shared: Path) -> None:
    with (shared / "reference" / "eqv2_ladder.csv").open() as file:
        totals = [int(row["total_params"]) for row in csv.DictReader(file)]
    assert [counts["total"] for counts in sizes("eqv2", "ladder-")] == totals


def test_the_published_escaips_are_there_by_name() -> None:
    assert [counts["total"] for counts in sizes("escaip", "H")] == [271_605_120, 88_609_408, 85_148_160]


def test_the_published_schnets_are_there_by_name() -> None:
    assert [counts["total"] for counts in sizes("schnet", "oc20-")] == [5_704_193, 9_088_513]
    ladder = [get("schnet").size(f"ladder-{k:02}") for k in (1, 2, 3)]
    assert [(c.hidden, c.filters, c.n_layers) for c in ladder] == [(64, 64, 3), (128, 128, 6), (256, 256, 8)]
