"""`matscale plugins` with distributions that are really installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from little import Site, architecture, install_faulty
from matscale.cli.scaffold import names, write
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError

KEYS = ["name", "distribution", "version", "api", "hooks", "status", "reason"]


def listing(site: Site, *options: str, **environment: str) -> dict[str, dict[str, str]]:
    """`matscale plugins list --json`, outsiders only, by qualified name."""
    result = site.run("plugins", "list", "--json", *options, **environment)
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert all(list(row) == KEYS for row in rows)
    return {f"{row['distribution']}:{row['name']}": row for row in rows if row["distribution"] != "matscale"}


def test_the_list_tells_every_fault_by_status_and_reason(site: Site) -> None:
    site.install("a-good", "API_VERSION = (1, 0)\n" + architecture("good"))
    install_faulty(site)
    site.install("a-blocked", "1 / 0")

    rows = listing(site, "--load", MATSCALE_BLOCK_PLUGINS="blocked")
    assert {key: row["status"] for key, row in rows.items()} == {
        "a-good:good": "ok",
        "a-broken:broken": "failed",
        "a-quitter:quitter": "failed",
        "a-future:future": "incompatible",
        "a-typo:typo": "failed",
        "a-blocked:blocked": "blocked",
        "a-schnet:schnet": "clash",
        "a-twin:twin": "clash",
        "b-twin:twin": "clash",
    }
    assert rows["a-good:good"] == {
        "name": "good",
        "distribution": "a-good",
        "version": "1.0",
        "api": "1.0",
        "hooks": ["register_architectures"],
        "status": "ok",
        "reason": "",
    }
    assert all(row["reason"] for row in rows.values() if row["status"] != "ok")
    assert "run_started" in rows["a-typo:typo"]["reason"]


def test_without_load_the_list_imports_nothing(site: Site) -> None:
    site.install("a-broken", "1 / 0")
    site.install("a-blocked", "")
    rows = listing(site, MATSCALE_BLOCK_PLUGINS="blocked")
    assert rows["a-broken:broken"]["status"] == "not loaded"
    assert rows["a-blocked:blocked"]["status"] == "blocked"
    assert not {"a_broken", "a_blocked"} & set(sys.modules)


def test_no_plugins_leaves_the_built_in_ones(site: Site) -> None:
    site.install("a-good", architecture("good"))
    assert listing(site, MATSCALE_NO_PLUGINS="1")["a-good:good"]["status"] == "blocked"


def test_blocking_an_unknown_name_is_said(site: Site) -> None:
    result = site.run("plugins", "list", MATSCALE_BLOCK_PLUGINS="nobody")
    assert "names 'nobody', but there is no plugin of that name" in result.stderr


def test_checking_a_broken_plugin_shows_its_own_traceback_and_ends_with_2(site: Site) -> None:
    site.install("a-broken", "def inner():\n    return 1 / 0\n\n\ninner()\n")
    result = site.run("plugins", "check", "broken")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "ZeroDivisionError" in result.stderr
    assert "a_broken.py" in result.stderr.splitlines()[1]  # the plugin's own first line is where the traceback begins
    assert "Error: Plugin 'broken' (a-broken 1.0) cannot be used" in result.stderr


@pytest.mark.parametrize(("blocked", "code"), [("good", 2), ("other", 0)])
def test_checking_a_blocked_plugin_says_so(site: Site, blocked: str, code: int) -> None:
    site.install("a-good", "from matscale import hookimpl\n@hookimpl\ndef register_losses(): return []\n")
    site.install("a-other", "")
    result = site.run("plugins", "check", "good", MATSCALE_BLOCK_PLUGINS=blocked)
    assert result.exit_code == code
    assert ("is blocked" in result.stderr) == bool(code)


def test_checking_an_unknown_plugin_names_the_nearest(site: Site) -> None:
    result = site.run("plugins", "check", "shcnet")
    assert result.exit_code == 2
    assert "Did you mean 'schnet'?" in result.stderr


def test_checking_an_architecture_that_breaks_its_promise_ends_with_1(site: Site) -> None:
    site.install("a-liar", architecture("liar").replace('{"permutation"}', '{"permutation", "translation"}'))
    result = site.run("plugins", "check", "liar", "--json")
    report = json.loads(result.stdout)
    by_status = {r["name"]: r["status"] for r in report["contract"]["liar"]}
    assert result.exit_code == 1
    assert "failed" in by_status.values()
    assert "passed" in by_status.values()
    assert any(status == "failed" and "transl" in name for name, status in by_status.items())


# A new package -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "distribution", "module", "title"),
    [
        ("mymodel", "matscale-mymodel", "matscale_mymodel", "Mymodel"),
        ("my-model2", "matscale-my-model2", "matscale_my_model2", "MyModel2"),
        ("my_model", "matscale-my-model", "matscale_my_model", "MyModel"),
    ],
)
def test_the_names_of_a_package_follow_from_the_plugins(name: str, distribution: str, module: str, title: str) -> None:
    values = names(name)
    assert (values["distribution"], values["module"], values["title"]) == (distribution, module, title)


@pytest.mark.parametrize("name", ["", "My", "1st", "a b", "a/b", "../a", "a-", "a--b", "class", "é", "-x", "a\n"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="small letters"):
        names(name)


def test_the_name_of_an_installed_plugin_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.folder)
    site.install("a-good", architecture("good"))
    for name in ("schnet", "good"):
        result = site.run("plugins", "new", name)
        assert result.exit_code == 2
        assert f"There is a plugin '{name}' already" in result.stderr
        assert not (site.folder / name).exists()


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        write(tmp_path / "mine", names("mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["README.md"]
    assert (tmp_path / "mine" / "README.md").read_text() == "precious"


def test_the_model_of_a_new_package_is_shorter_than_sixty_lines(tmp_path: Path) -> None:
    write(tmp_path / "mine", names("mine"))
    assert len((tmp_path / "mine" / "matscale_mine.py").read_text().splitlines()) < 60


@pytest.fixture
def new_package(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`matscale plugins new my-model` and `pip install -e my-model`, into the folder `site`."""
    folder = site.folder.parent
    monkeypatch.chdir(folder)
    made = site.run("plugins", "new", "my-model")
    assert made.exit_code == 0, made.stderr
    assert "pip install -e ./my-model" in made.stdout
    # Without an index: the build backend and matscale are there already.
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site.folder)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, "-e", "./my-model"]
    result = subprocess.run(pip, capture_output=True, text=True, timeout=120, check=False)
    if "No module named pip" in result.stderr:
        pytest.skip("this environment has no pip")
    assert result.returncode == 0, result.stderr
    for line in next(site.folder.glob("*.pth")).read_text().splitlines():
        monkeypatch.syspath_prepend(line)  # Python reads `.pth` files when it starts, and in site folders only
    return folder / "my-model"


def test_a_new_package_is_found_passes_the_contract_and_its_own_tests_and_trains_as_it_is(
    site: Site, new_package: Path, alloys: PackedDataset
) -> None:
    row = listing(site, "--load")["matscale-my-model:my-model"]
    assert (row["status"], row["version"], row["api"]) == ("ok", "0.1.0", "1.0")
    result = site.run("plugins", "check", "my-model")
    assert result.exit_code == 0, result.stdout + result.stderr
    assert "0 failed" in result.stdout
    assert "rotation" in result.stdout
    trained = site.run("train", "--arch", "my-model", "--data", str(alloys.path), "--steps", "3", "-o", "run")
    assert trained.exit_code == 0, trained.stderr
    path = f"{site.folder}{os.pathsep}{new_package}"
    result = site.python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=new_package, PYTHONPATH=path)
    assert result.returncode == 0, result.stdout
    assert "passed" in result.stdout
