"""`matscale train` where plugins of every fault are installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result

from little import Site, architecture, install_faulty
from matscale.core.data.store.packed import PackedDataset
from matscale.core.runs.record import Run


@pytest.fixture
def faulty(site: Site) -> Site:
    """One sound plugin among faulty ones."""
    site.install("my-linear", architecture("linear"))
    install_faulty(site)
    site.install("a-needy", "import not_there", requires=("not-there>=2",))
    site.install("a-raiser", "from matscale import hookimpl\n@hookimpl\ndef evaluated(run): 1 / 0\n")
    return site


def train(site: Site, data: PackedDataset, folder: Path, *arguments: str, **environment: str) -> Result:
    options = ["--data", str(data.path), "--steps", "4", "--device", "cpu", "-o", str(folder)]
    return site.run("train", *options, *arguments, **environment)


def test_a_run_that_asked_for_none_of_them_is_not_disturbed(
    faulty: Site, alloys: PackedDataset, tmp_path: Path
) -> None:
    result = train(faulty, alloys, tmp_path / "run", "--arch", "linear")
    assert result.exit_code == 0, result.stderr
    assert Run.open(tmp_path / "run").info["architecture"]["distribution"] == "my-linear"
    assert not [name for name in ("broken", "quitter", "future", "typo", "raiser") if name in result.output]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("broken", "Plugin 'broken' (a-broken 1.0) cannot be used: it raised ZeroDivisionError"),
        ("quitter", "SystemExit"),
        ("needy", 'pip install "not-there>=2"'),
        ("future", "was written for plugin interface 9.0"),
        ("typo", "unknown hook, 'run_start'. Did you mean 'run_started'?"),
        ("twin", "a-twin:twin or b-twin:twin"),
        ("linaer", "Did you mean 'linear'?"),
    ],
)
def test_an_architecture_that_cannot_be_had_ends_with_2_and_its_own_error(
    faulty: Site, alloys: PackedDataset, tmp_path: Path, name: str, answer: str
) -> None:
    result = train(faulty, alloys, tmp_path / "run", "--arch", name)
    assert result.exit_code == 2
    assert answer in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_blocked_architecture_ends_with_2(faulty: Site, alloys: PackedDataset, tmp_path: Path) -> None:
    result = train(faulty, alloys, tmp_path / "run", "--arch", "linear", MATSCALE_BLOCK_PLUGINS="linear")
    assert result.exit_code == 2
    assert "is blocked: by MATSCALE_BLOCK_PLUGINS" in result.stderr


def test_an_observer_that_raises_costs_the_run_one_warning(faulty: Site, alloys: PackedDataset, tmp_path: Path) -> None:
    arguments = ("--arch", "linear", "--set", 'plugins=["raiser"]', "--set", "evaluation.every=1")
    with pytest.warns(UserWarning, match=r"'raiser' .* is switched off for the rest of this run") as caught:
        result = train(faulty, alloys, tmp_path / "run", *arguments)
    assert result.exit_code == 0, result.stderr
    assert len(caught) == 1
    assert Run.open(tmp_path / "run").info["status"] == "completed"
