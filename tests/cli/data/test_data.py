"""`matscale data`: what is printed, what --json holds, which exit codes come back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from ase.io import write as ase_write
from click.testing import CliRunner

from matscale.cli import main
from matscale.core.data.references import References


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(main, ["data", *map(str, arguments)])

    return invoke


@pytest.fixture
def packed(run, tmp_path, structures):
    ase_write(tmp_path / "a.extxyz", [s.to_ase() for s in structures(40)], format="extxyz")
    result = run("pack", tmp_path / "a.extxyz", "-o", tmp_path / "out", "--workers", 1, "--filter", "n_atoms<=11")
    assert result.exit_code == 0, result.output
    return tmp_path / "out"


def kept(structures):
    return [s for s in structures(40) if len(s) <= 11]


def test_pack_reports_and_info_says_the_same(run, packed, structures):
    n = len(kept(structures))
    info = run("info", packed, "--verify")
    assert info.exit_code == 0
    assert f"{n} structures" in info.stdout
    assert "as it was packed" in info.stderr
    values = json.loads(run("info", packed, "--json").stdout)
    assert values["n_structures"] == n
    assert values["filtered"] == 40 - n
    assert values["labels"] == {"energy": n, "forces": n, "stress": n}
    assert values["sources"][0]["keys"]["energy"] == "energy"


def test_packing_again_says_that_there_is_nothing_to_do(run, packed):
    again = run("pack", packed.parent / "a.extxyz", "-o", packed, "--workers", 1, "--filter", "n_atoms<=11")
    assert again.exit_code == 0
    assert "already packed" in again.stderr


def test_verify_finds_a_flipped_byte(run, packed):
    shard = packed / "shard-00000.safetensors"
    contents = bytearray(shard.read_bytes())
    contents[-1] ^= 1
    shard.write_bytes(contents)
    assert run("info", packed).exit_code == 0
    verified = run("info", packed, "--verify")
    assert verified.exit_code == 3
    assert "SHA-256" in verified.stderr


def test_stats_has_moments_by_source_and_split(run, packed, structures, tmp_path):
    result = run("stats", packed, "--html", tmp_path / "f.html", "--validation", "0.2")
    assert result.exit_code == 0, result.output
    assert "validation" in result.stdout
    assert "forces_norm [eV/Å]" in result.stdout
    page = (tmp_path / "f.html").read_text()
    assert "force on an atom" in page
    assert "<script src=" not in page
    parts = json.loads(run("stats", packed, "--json", "--validation", "0.2").stdout)["parts"]
    assert parts["train"]["n_structures"] + parts["validation"]["n_structures"] == len(kept(structures))
    largest = max(s.stress.max() for s in kept(structures))
    assert parts["all"]["stress_component"]["max"] == pytest.approx(largest)


def test_refs_prints_the_fit_and_json_that_can_be_read_again(run, packed):
    fitted = References.from_json(run("refs", packed, "--json").stdout)
    assert fitted.values[29] == pytest.approx(-2.9, abs=1e-9)
    table = run("refs", packed).stdout
    assert "rank 4 of 4" in table
    assert "-2.900000" in table


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["pack", "nowhere.xyz", "-o", "x"], 3, "no such file"),
        (["pack", "a.extxyz", "-o", "x", "--filter", "forces_mx<1"], 2, "Did you mean 'forces_max'"),
        (["pack", "a.extxyz", "-o", "x", "--key", "energie=e"], 2, "Did you mean 'energy'"),
        (["info", "nowhere"], 3, "no dataset 'nowhere'"),
        (["stat", "x"], 2, "Did you mean 'stats'"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(run, tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.extxyz").write_text("1\n\nH 0 0 0\n")
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr


def test_a_folder_that_cannot_be_written_is_an_error_and_no_traceback(run, packed, tmp_path, monkeypatch):
    monkeypatch.delenv("MATSCALE_DEBUG", raising=False)
    result = run("stats", packed, "--html", tmp_path / "nowhere" / "x.html")
    assert result.exit_code == 1
    assert "nowhere/x.html" in result.stderr.splitlines()[-1]
    assert isinstance(result.exception, SystemExit)


def test_strict_ends_with_exit_code_3(run, tmp_path):
    (tmp_path / "a.extxyz").write_text('1\npbc="T T T" energy=1.0\nH 0 0 0\n')
    result = run("pack", tmp_path / "a.extxyz", "-o", tmp_path / "out", "--workers", 1, "--strict")
    assert result.exit_code == 3
    assert "missing cell" in result.stderr


def test_help_of_every_command_does_not_import_torch():
    code = (
        "import sys; from click.testing import CliRunner; from matscale.cli import main\n"
        "for c in ('pack', 'info', 'stats', 'refs', 'make', 'fetch'):\n"
        "    assert CliRunner().invoke(main, ['data', c, '-h']).exit_code == 0, c\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_limit_is_an_option(run, tmp_path):
    (tmp_path / "a.extxyz").write_text(2 * ("3\n\n" + 3 * "H 0 0 0\n"))
    packing = ("pack", tmp_path / "a.extxyz", "-o", tmp_path / "out", "--workers", 1)
    refused = run(*packing, "--limit", "structure=20")
    assert refused.exit_code == 3
    assert "a.extxyz: structure 0" in refused.stderr
    assert "--limit structure=" in refused.stderr
    wrong = run(*packing, "--limit", "atmos=5")
    assert wrong.exit_code == 2
    assert "Did you mean 'atoms'" in wrong.stderr
