"""What docs/architectures.md says of models that can be counted is what the code says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from zoo import ZOO, models  # noqa: E402

from matscale.core.estimate.describe import describe, parameters  # noqa: E402
from matscale.core.hosting.host import host  # noqa: E402

LETTERS = {
    "permutation": "P",
    "translation": "T",
    "periodic": "B",
    "rotation": "R",
    "reflection": "M",
    "extensive": "E",
    "smooth": "S",
    "conservative": "C",
}


def letters(claims: frozenset[str] | list[str]) -> str:
    return " ".join(letter for claim, letter in LETTERS.items() if claim in claims) or "none"


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table whose head begins with `heading`."""
    lines = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    end = next(k for k in range(start, len(lines)) if not lines[k].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]


def test_every_model_of_the_zoo_has_a_row_with_its_own_numbers() -> None:
    rows = {cells[0].strip("`"): cells for cells in table("model")}
    for name, architecture, config in models(ZOO):
        about = describe(architecture, config, host())
        assert about.flops_per_atom is not None
        cells = rows[name]
        assert cells[4] == f"{about.parameters['total']:,}"
        assert cells[2] == letters(about.claims)
        assert cells[3] == ("gradient" if architecture.derives_forces(config) else "direct")
        assert float(cells[5]) == pytest.approx(about.flops_per_atom, rel=6e-3)
        assert 97_000 < about.parameters["total"] < 103_000


def test_every_published_size_has_a_row_with_its_parameters_and_claims() -> None:
    rows = {(cells[0].strip("`"), cells[1].strip("`")): cells[2:] for cells in table("architecture")}
    for architecture in {one.name: one for _, one, _ in models(ZOO)}.values():
        for name in architecture.sizes:
            config = architecture.size(name)
            count = parameters(architecture, config)["total"]
            assert rows[architecture.name, name] == [f"{count:,}", letters(architecture.claims_of(config))]


def test_links_of_papers_go_where_they_say() -> None:
    text = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    links = re.findall(r"\[(\d{4}\.\d{5})\]\(https://arxiv.org/abs/(\d{4}\.\d{5})\)", text)
    assert len(links) >= 6
    assert all(shown == target for shown, target in links)
