"""The quickstart study of README, shortened: the same file with fewer, smaller runs, and the same four commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.core.config import read_toml
from matscale.core.data.store.packed import PackedDataset
from matscale.core.study.config import Study

FILE = Path(__file__).resolve().parents[2] / "examples" / "quickstart.toml"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, alloys: PackedDataset) -> Path:
    """The folder of the study: four sizes, six steps, on a little dataset, with the architectures that are built in."""
    folder = tmp_path_factory.mktemp("quickstart")
    values = read_toml(FILE)
    values |= {"output": str(folder / "study"), "data": {"path": str(alloys.path)}, "budget": {"steps": 6}}
    values["architectures"] = [entry for entry in values["architectures"] if entry["name"] in ("fcn", "schnet")]
    values["params"] |= {"to": "10k", "rungs": 4}
    (folder / "study.toml").write_text(tomli_w.dumps(values))
    result = run("sweep", folder / "study.toml", "--quiet")
    assert result.exit_code == 0, result.output
    return folder / "study"


def test_the_study_has_eight_sizes_of_a_control_and_two_models() -> None:
    study = Study.read(FILE)
    assert [entry.name for entry in study.architectures] == ["fcn", "schnet", "painn"]
    assert read_toml(FILE)["params"]["rungs"] == 8


@pytest.mark.parametrize("command", ["fit", "compare"])
def test_laws_are_judged_and_compared(study: Path, command: str) -> None:
    result = run(command, study, *(["--law", "n"] if command == "fit" else ["--axis", "n"]))
    assert result.exit_code == 0, result.output
    assert "fcn" in result.stdout
    assert "schnet" in result.stdout


def test_the_report_is_written(study: Path, tmp_path: Path) -> None:
    result = run("report", study, "-o", tmp_path / "quickstart.html")
    assert result.exit_code == 0, result.output
    assert "schnet" in (tmp_path / "quickstart.html").read_text()
