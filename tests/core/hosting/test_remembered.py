"""Answers of plugins that are kept in a file: asked for once, and again after anything changed that they depend on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from little import Site
from matscale.core.hosting import remembered as module
from matscale.core.hosting.remembered import remembered

SOURCE = """
from matscale import hookimpl

@hookimpl
def register_laws():
    return []
"""


class Asked:
    """Loads the plugins, as a listing does, and counts how often it was asked."""

    def __init__(self, site: Site, file: Path) -> None:
        self.site, self.file, self.times = site, file, 0
        self.before: Callable[[], None] = lambda: None

    def __call__(self, is_whole: bool = True, **options: Any) -> Any:
        host = self.site.host(**options)

        def ask() -> list[dict[str, float]]:
            self.times += 1
            host.load_all()
            self.before()
            return [{"flops": 0.1}]

        return remembered(self.file, host, ask, lambda answer: is_whole)


@pytest.fixture
def asked(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    site.install("my-thing", SOURCE)
    monkeypatch.setattr(module, "STARTED", 2**62)  # files that tests write are older than this process
    return Asked(site, tmp_path / "cache" / "answer.json")


def edited(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    with (asked.site.folder / "my_thing.py").open("a") as file:
        file.write("# changed\n")
    return {}


def rewritten_in_the_same_length(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    path = asked.site.folder / "my_thing.py"
    path.write_text(path.read_text().replace("return []", "return ()"))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    return {}


def another_package(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (asked.site.folder / "other.py").write_text("")
    folder = asked.site.folder.stat()
    os.utime(asked.site.folder, ns=(1, folder.st_mtime_ns + 1))  # however coarse the clock of the file system is
    return {}


def another_version(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    times = asked.site.folder.stat()
    (asked.site.folder / "my_thing-1.0.dist-info").rename(asked.site.folder / "my_thing-1.1.dist-info")
    metadata = asked.site.folder / "my_thing-1.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    os.utime(asked.site.folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    return {}


def blocked(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"blocked": ("thing",)}


def a_setting(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("MATSCALE_OF_A_PLUGIN", "1")
    return {}


def a_damaged_file(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    asked.file.write_text(asked.file.read_text().replace("0.1", "0.2"))
    return {}


def no_file(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    asked.file.unlink()
    return {}


def test_an_answer_is_asked_for_once(asked: Asked) -> None:
    assert asked() == asked() == asked() == [{"flops": 0.1}]
    assert asked.times == 1


@pytest.mark.parametrize(
    "change",
    [
        edited,
        rewritten_in_the_same_length,
        another_package,
        another_version,
        blocked,
        a_setting,
        a_damaged_file,
        no_file,
    ],
    ids=lambda change: change.__name__,
)
def test_after_a_change_it_is_asked_for_again(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, change: Callable[..., dict[str, Any]]
) -> None:
    asked()
    options = change(asked, monkeypatch)
    assert asked(**options) == asked(**options) == [{"flops": 0.1}]
    assert asked.times == 2


def test_an_answer_that_is_not_whole_is_not_kept(asked: Asked) -> None:
    assert asked(is_whole=False) == asked() == [{"flops": 0.1}]
    assert asked.times == 2


def test_what_a_plugin_warns_of_is_heard_each_time(asked: Asked) -> None:
    asked.before = lambda: warnings.warn("mind the gap", stacklevel=1)
    for _ in range(2):
        with pytest.warns(UserWarning, match="mind the gap"):
            asked()
    assert asked.times == 2


def test_beside_a_plugin_that_fails_nothing_is_kept(asked: Asked) -> None:
    asked.site.install("my-broken", "1 / 0")
    asked()
    asked()
    assert asked.times == 2


def test_code_that_is_newer_than_the_process_is_not_taken_for_the_code_that_ran(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STARTED", (asked.site.folder / "my_thing.py").stat().st_mtime_ns)
    asked()
    asked()
    assert asked.times == 2


def test_without_a_folder_to_keep_it_the_answer_is_right(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert asked() == asked() == [{"flops": 0.1}]
    assert asked.times == 2
