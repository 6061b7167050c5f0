"""Servers that answer with other pieces than were asked for, and recipes that ask for more than memory holds."""

from __future__ import annotations

import pytest
import requests

from matscale.core.data.named import download
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import ConfigError

BODY = bytes(range(256)) * 40


class Answer:
    """The answer of a server: the bytes of `BODY` from `start` on."""

    reason = ""

    def __init__(self, status: int, start: int, headers: dict[str, str], end: int | None = None) -> None:
        self.status_code, self.headers, self.body = status, {"ETag": '"1"', **headers}, BODY[start:end]

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def raise_for_status(self) -> None:
        pass

    def iter_content(self, size: int) -> list[bytes]:
        return [self.body]


@pytest.fixture
def answers(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    given: list[Answer] = []
    monkeypatch.setattr(requests, "get", lambda *_, **__: given.pop(0))
    return given


@pytest.mark.parametrize("length", ["many", "-5", "10240, 10240", "1" * 5000, "١٢"])
def test_a_length_that_is_no_number_counts_as_unknown(answers, tmp_path, length):
    answers.append(Answer(200, 0, {"Content-Length": length}))
    assert download.retrieve("http://here/f", tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("stated", [{}, {"Content-Range": "bytes 0-10239/10240"}, {"Content-Range": "bytes ?"}])
def test_a_piece_that_begins_elsewhere_is_not_joined(answers, tmp_path, stated):
    whole = {"Content-Length": str(len(BODY))}
    answers += [Answer(200, 0, whole, 4000), Answer(206, 0, stated), Answer(200, 0, whole)]
    assert download.retrieve("http://here/f", tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("key", ["max_atoms", "per_parent"])
def test_a_recipe_that_memory_does_not_hold_is_refused(key):
    with pytest.raises(ConfigError, match=f"{key} = 1000000000: .*less than or equal to"):
        Recipe.parse({key: 10**9})


def test_a_closeness_of_nothing_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"closeness = 0\.0: .*greater than 0"):
        Recipe.parse({"closeness": 0.0})
