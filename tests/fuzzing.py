"""Hostile inputs from sound ones: what the fuzz tests share, and how many inputs they try.

By default a few hundred, the same every time. `MATSCALE_FAULTS=long` tries 100,000 over all tests, and
`MATSCALE_FAULTS=long:5000` that many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from matscale.core.errors import MatscaleError

TOKENS = [
    b"9" * 400, b"1e999", b"-1e999", b"nan", b"inf", b"-1", b"0", b"1e308", b"99999999999999999999", b"1e-400", b"0x10",
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"null", b"true", b"[]", b"{}", b"[" * 2000, b'{"a":' * 300,
    b'"', b"'", b"\n", b"=", b"../../x", b"x" * 3000, b"1_000", b"\xc2\xa0", b"\r", b"\t", b",", b":", b"#", b"]]",
]  # fmt: skip


def n_inputs(default: int, share: float) -> int:
    """How many inputs a test tries: `default`, or its `share` of the long mode's."""
    mode, _, count = os.environ.get("MATSCALE_FAULTS", "").partition(":")
    return max(default, round(share * int(count or 100_000))) if mode == "long" else default


def mutated(sound: bytes, draw: random.Random) -> bytes:
    """`sound` with one to four changes: bits, bytes, tokens, pieces cut out, doubled or exchanged, numbers replaced."""
    content = bytearray(sound)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, to = sorted((draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)))
        to = min(to, at + draw.choice((1, 4, 64, 4096)))
        kind = draw.randrange(7)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(content):
            content[at] = draw.randrange(256)
        elif kind == 2:
            content[at:at] = draw.choice(TOKENS)
        elif kind == 3:
            content[at:to] = draw.choice(TOKENS)
        elif kind == 4:
            del content[at:to]
        elif kind == 5:
            content[at:at] = content[at:to]
        else:
            _replace_a_number(content, at, draw)
    return bytes(content)


def _replace_a_number(content: bytearray, at: int, draw: random.Random) -> None:
    """The next number after `at` becomes something else."""
    digits = b"0123456789.-"
    start = next((k for k in range(at, min(at + 200, len(content))) if content[k] in digits), None)
    if start is not None:
        end = next((k for k in range(start, len(content)) if content[k] not in digits), len(content))
        content[start:end] = draw.choice(TOKENS)


def hostile(sounds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Strategy: one of `sounds`, changed."""
    seeds = st.integers(0, 2**63)
    return st.builds(lambda sound, seed: mutated(sound, random.Random(seed)), st.sampled_from(list(sounds)), seeds)


def attack(sounds: Sequence[bytes], use: Callable[[bytes], object], n: int) -> None:
    """Have `use` meet `n` changed inputs: each gives a value or an error of matscale's, of a readable length."""
    counts = {"value": 0, "refused": 0, "told at length": 0}

    @settings(max_examples=n, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate,))  # fmt: skip
    @given(hostile(sounds))
    def meet(content: bytes) -> None:
        try:
            use(content)
            counts["value"] += 1
        except MatscaleError as error:
            counts["refused" if len(str(error)) < 20_000 else "told at length"] += 1

    meet()
    print(f"{sum(counts.values()):,} inputs: {counts}")
    assert sum(counts.values()) >= min(n, 5)
    assert not counts["told at length"]
