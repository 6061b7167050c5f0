"""What an architecture says of itself, and how a ladder finds its rungs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from matscale.core.errors import ConfigError
from matscale.core.model.architecture import (
    Architecture,
    ArchitectureConfig,
    DatasetInfo,
    closest,
    count_parameters,
    graded,
)


class SquareConfig(ArchitectureConfig):
    width: int = 4
    extra: int = 0
    forces: str = "gradient"


def build(config: SquareConfig, info: DatasetInfo) -> nn.Module:
    return nn.Sequential(nn.Linear(config.width, config.width, bias=False), nn.Linear(config.extra + 1, 1, bias=False))


def square(**changes: object) -> Architecture:
    fields: dict = {
        "name": "square",
        "summary": "A square matrix.",
        "reference": "none",
        "config": SquareConfig,
        "build": build,
        "ladder": lambda n: closest(n, lambda width: SquareConfig(width=width), build),
        "dial": "width",
    }
    return Architecture(**(fields | changes))


@pytest.mark.parametrize(("n_params", "width"), [(1, 1), (5, 2), (26, 5), (31, 5), (33, 6), (10_001, 100)])
def test_the_closest_width_is_found(n_params: int, width: int) -> None:
    assert square().ladder(n_params).width == width


def test_a_fine_dial_takes_up_what_the_coarse_one_leaves() -> None:
    config = closest(
        31,
        lambda width: SquareConfig(width=width),
        build,
        fine=lambda config, extra: SquareConfig(width=config.width, extra=extra),
    )
    assert (config.width, config.extra) == (5, 5)


def test_the_fine_dial_stays_where_it_is_if_the_coarse_one_is_near_enough() -> None:
    def fine(config: SquareConfig, dial: int) -> SquareConfig:
        raise AssertionError("not needed")

    assert closest(10_100, lambda width: SquareConfig(width=width), build, fine=fine).width == 100


def test_graded_widths_grow_steadily_and_never_by_much() -> None:
    widths = [graded(dial) for dial in range(1, 600)]
    assert widths[:128] == list(range(1, 129))
    assert all(0 < b - a <= max(1, a / 64) for a, b in zip(widths, widths[1:]))  # noqa: RUF007
    assert all(w % 16 == 0 for w in widths if w >= 1024)


def test_weights_depend_on_the_seed_alone_and_leave_the_callers_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    a = square().model(SquareConfig(), DatasetInfo.any(), 7)
    assert torch.equal(torch.rand(2), expected)
    b = square().model(SquareConfig(), DatasetInfo.any(), 7)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


def test_an_unknown_claim_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rotation'"):
        square(claims=frozenset({"rotations"}))


def test_an_unknown_claim_for_one_config_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'smooth'"):
        square(claims_for=lambda config: frozenset({"smoth"})).claims_of(SquareConfig())


def test_a_family_may_claim_by_config() -> None:
    family = square(
        claims=frozenset({"rotation"}),
        claims_for=lambda config: frozenset({"rotation"} if config.width > 4 else ()),
        forces="gradient",
    )
    assert family.claims_of(SquareConfig(width=5)) == {"rotation"}
    assert family.claims_of(SquareConfig(width=4)) == frozenset()


def test_a_family_that_claims_by_config_has_the_claims_of_its_default_config() -> None:
    assert square(claims_for=lambda config: frozenset({"rotation"} if config.width == 4 else ())).claims == {"rotation"}


def test_only_gradient_forces_are_conservative() -> None:
    family = square(claims=frozenset({"conservative", "rotation"}), forces="both")
    assert family.claims_of(SquareConfig(forces="gradient")) == {"conservative", "rotation"}
    assert family.claims_of(SquareConfig(forces="direct")) == {"rotation"}
    direct = square(claims_for=lambda config: frozenset({"conservative", "rotation"}), forces="direct")
    assert direct.claims == {"rotation"}


def test_an_unknown_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'large'"):
        square(sizes={"large": SquareConfig(width=9)}).size("lagre")


def test_embeddings_are_counted_apart() -> None:
    model = nn.Sequential(nn.Embedding(10, 3), nn.Linear(3, 2))
    model[1].bias.requires_grad_(False)
    assert count_parameters(model) == {"total": 38, "trainable": 36, "embedding": 30, "non_embedding": 8}


class Tables(nn.Module):
    """A weight that every element has a row of, which is no embedding, and one that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.by_element = nn.Parameter(torch.zeros(5, 3))
        self.shared = nn.Parameter(torch.zeros(4))

    def element_tables(self) -> frozenset[str]:
        return frozenset({"by_element"})


def test_tables_that_a_model_names_count_as_embeddings() -> None:
    counts = {"total": 19, "trainable": 19, "embedding": 15, "non_embedding": 4}
    assert count_parameters(Tables()) == counts


def test_what_a_model_knew_of_its_data_survives_a_file() -> None:
    info = DatasetInfo((1, 8), 12.5, 40.25)
    assert DatasetInfo.parse(info.plain()) == info
