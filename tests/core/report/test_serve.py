"""The page that follows a sweep: loopback only, built anew when a record has changed, waiting where there is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from matscale.core.report.page import scripts
from matscale.core.report.records import folders_of
from matscale.core.report.serve import Pages, policy_of, server, url, version_of
from synthetic_runs import make_run

pytestmark = pytest.mark.network


@contextmanager
def running(sources: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Port, and the versions that were built."""
    built: list[str] = []

    def build(version: str) -> str:
        built.append(version)
        return f"{len(folders_of(sources))} runs"

    served = server(Pages(sources, build), "127.0.0.1", 0)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served.server_address[1], built
    finally:
        served.shutdown()
        served.server_close()
        thread.join()


def get(port: int, path: str = "/", host: str | None = None) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    status, text = answer.status, answer.read().decode()
    connection.close()
    return status, text


def test_the_page_is_built_once_until_a_record_changes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with running([str(tmp_path)]) as (port, built):
        assert [get(port) for _ in range(3)] == [(200, "1 runs")] * 3
        assert len(built) == 1
        assert get(port, "/version") == (200, built[0])
        with (run / "metrics.jsonl").open("a") as file:
            file.write("{}\n")
        assert get(port, "/version")[1] != built[0]
        make_run(tmp_path / "b")
        assert get(port) == (200, "2 runs")
        assert len(built) == 2


def test_the_loopback_of_ipv6_is_one_too(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    try:
        served = server(Pages([str(tmp_path)], lambda version: "page"), "::1", 0)
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    assert url(served) == f"http://[::1]:{served.server_address[1]}/"
    served.server_close()


def test_it_waits_for_the_first_run(tmp_path: Path) -> None:
    with running([str(tmp_path)]) as (port, _):
        status, text = get(port)
        assert status == 200
        assert "there is no run" in text
        make_run(tmp_path / "a")
        assert get(port) == (200, "1 runs")


def test_a_site_that_points_its_name_here_gets_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    with running([str(tmp_path)]) as (port, built):
        assert get(port, host="evil.example:80")[0] == 403
        assert get(port, host=f"localhost:{port}")[0] == 200
        assert get(port, "/etc/passwd")[0] == 404
        assert len(built) == 1


@pytest.mark.parametrize("path", ["/", "/version", "/nothing"])
def test_an_answer_allows_nothing_from_elsewhere(tmp_path: Path, path: str) -> None:
    make_run(tmp_path / "a")
    with running([str(tmp_path)]) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert "default-src 'none'" in (answer.headers["Content-Security-Policy"] or "")
        assert len(answer.headers.get_all("Content-Security-Policy")) == 1
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        connection.close()


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/version", 200), ("/nothing", 404)])
def test_head_is_answered_like_get_without_a_body(tmp_path: Path, path: str, status: int) -> None:
    make_run(tmp_path / "a")
    with running([str(tmp_path)]) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        headers = []
        for method in ("HEAD", "GET"):
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == status
            assert (body == b"") is (method == "HEAD")
            headers.append((answer.headers["Content-Length"], answer.headers["Content-Type"]))
            connection.close()
        assert headers[0] == headers[1]


def test_the_policy_names_the_scripts_of_the_package_by_their_hash() -> None:
    policy = policy_of(["a", "\nb\n"])
    assert policy.count("'sha256-") == 2
    assert "'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs='" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'none'" in policy_of([])


def test_a_script_that_came_into_a_page_is_not_permitted(tmp_path: Path) -> None:
    smuggled = "<script>alert(1)</script>"
    page, policy = Pages([str(tmp_path)], lambda version: smuggled).current()
    assert smuggled in page
    assert policy == policy_of(scripts())


def test_the_version_is_that_of_the_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    before = version_of([str(tmp_path)])
    assert version_of([str(tmp_path)]) == before
    (run / "run.json").write_text((run / "run.json").read_text() + "\n")
    assert version_of([str(tmp_path)]) != before
