"""Each built-in law: its derivatives, and that a fit recovers what made the points."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from numpy.testing import assert_allclose

from matscale.core.hosting.host import host
from matscale.core.scaling.law import Law
from matscale.core.scaling.solve import HUBER, refine, solve
from matscale.plugins.laws import register_laws
from matscale.plugins.laws.farseer import bent, by_power
from matscale.plugins.laws.repeated import pressure, useful

LAWS = register_laws()
TRUE = {
    "power": [np.log(30.0), 0.3],
    "floor": [np.log(0.4), np.log(30.0), 0.3],
    "broken": [np.log(0.05), np.log(10.0), 0.1, 0.4, np.log(3e5), np.log(0.5)],
    "nd": [np.log(0.5), np.log(30.0), np.log(60.0), 0.3, 0.35],
    "kaplan": [np.log(8e8), np.log(5e7), 0.2, 0.3],
    "repetition": [np.log(0.5), np.log(30.0), np.log(60.0), 0.3, 0.35, np.log(15.0)],
    "overfitting": [np.log(0.5), np.log(30.0), np.log(60.0), 0.3, 0.35, np.log(0.002), 0.6],
    "routing": [-0.08, -0.12, 0.01, 1.1, np.log(1.8), np.log(130.0)],
    "farseer": [np.log(0.5), 0.1, 0.3, np.log(2.0), -0.2, -0.2, np.log(0.3), -0.05, 0.1],
    "experts": [np.log(0.5), np.log(30.0), 0.3, 0.1, 0.005],
    "experts-data": [np.log(0.5), np.log(30.0), 0.3, 0.1, 0.005, np.log(60.0), 0.35, 0.05, -0.005],
    "granularity": [np.log(0.5), np.log(20.0), np.log(30.0), np.log(60.0), 0.3, 0.35, 0.6],
}


def points(law: Law) -> np.ndarray:
    """ln of a design that can tell the parameters of `law` apart."""
    n, d = np.geomspace(1e4, 1e7, 9), np.geomspace(1e3, 1e6, 7)
    if law.axes == ("x",):
        return np.log(np.geomspace(1e4, 1e7, 24))[:, None]
    if law.name in ("repetition", "overfitting"):
        return np.log([(a, u, u * repeats) for a in n for u in d for repeats in (1, 4, 30, 200)])
    if law.axes == ("n", "d", "e"):
        return np.log([(a, b, e) for a in n for b in d for e in (1, 4, 16, 64)])
    if law.axes == ("n", "e"):
        return np.log([(a, e) for a in n for e in (1, 2, 8, 32, 128, 512)])
    return np.log([(a, b) for a in n for b in d])


def test_the_hook_supplies_them_all_and_the_host_finds_each() -> None:
    assert {law.name for law in LAWS} == set(TRUE)
    assert all(host().law(name).name == name for name in TRUE)


def test_the_printed_formula_of_farseer_holds_for_the_printed_parameters() -> None:
    law = next(law for law in LAWS if law.name == "farseer")
    theta, n, d, m = np.array(TRUE["farseer"]), 3e5, 2e6, 1e7
    assert "h(p) = ((N/M)^p - 1)/p, M = 10^7" in law.formula
    E, s, q, A, t, b, beta, g, a = (float(value) for value in law.plain(theta).values())

    def h(p: float) -> float:
        return ((n / m) ** p - 1) / p

    data = A * np.exp(-t * h(b)) * m**beta * d ** (-beta * np.exp(-g * h(a)))
    loss = np.exp(law.value(theta, np.log([[n, d]])))
    assert loss == pytest.approx(E * np.exp(-s * h(q)) + data)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_a_law_recovers_the_parameters_that_made_the_points(law: Law) -> None:
    x, truth = points(law), np.array(TRUE[law.name])
    found = solve(law, x, law.value(truth, x))
    values = law.plain(found.theta, found.frame)
    wanted = law.plain(truth)
    if law.name == "farseer":  # nine parameters: the values are known long before they are
        np.testing.assert_allclose(law.value(found.theta, x), law.value(truth, x), atol=2e-3)
        return
    for name in law.parameters:
        assert float(values[name]) == pytest.approx(float(wanted[name]), rel=2e-3), name


@pytest.mark.parametrize("law", [law for law in LAWS if law.tangent], ids=lambda law: law.name)
def test_derivatives_are_those_of_the_value(law: Law) -> None:
    x, theta = points(law), np.array(TRUE[law.name])
    step = 1e-6 * np.eye(law.n_parameters)
    numeric = np.stack([(law.value(theta + s, x) - law.value(theta - s, x)) / 2e-6 for s in step], axis=-1)
    value, found = law.with_derivatives(theta, x)
    np.testing.assert_allclose(found, numeric, atol=1e-7)
    np.testing.assert_allclose(value, law.value(theta, x), atol=1e-12)


@pytest.mark.parametrize("law", [law for law in LAWS if law.move], ids=lambda law: law.name)
def test_moving_a_law_scales_its_axes(law: Law) -> None:
    assert law.move is not None
    x, theta = points(law), np.array(TRUE[law.name])
    shift = np.linspace(0.7, -1.1, x.shape[1])
    moved = law.value(law.move(theta, shift, 0.3), x + shift)
    np.testing.assert_allclose(moved, law.value(theta, x) + 0.3, atol=1e-9)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_many_samples_at_once_are_the_samples_one_by_one(law: Law, rng: np.random.Generator) -> None:
    x, truth = points(law), np.array(TRUE[law.name])
    y = law.value(truth, x) + 0.02 * rng.standard_normal((3, len(x)))
    frame = x.mean(axis=0) if law.move else np.zeros(x.shape[1])
    start = truth if law.move is None else law.move(truth, -frame, 0.0)
    together = refine(law, np.tile(start, (3, 1)), x - frame, y)
    alone = np.concatenate([refine(law, start[None], x - frame, row[None]) for row in y])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_repeated_structure_is_worth_less_than_a_new_one_and_one_epoch_is_whole() -> None:
    unique = np.log(np.full(4, 1000.0))
    worth = np.exp(useful(np.log(np.array([15.0])), unique, unique + np.log([1.0, 4.0, 16.0, 1e6])))
    assert worth[0] == pytest.approx(1000)
    assert np.all(np.diff(worth) > 0)
    assert worth[1] > 3500  # four epochs are nearly free
    assert worth[3] == pytest.approx(16_000, rel=1e-3)  # U (1 + R*) at most


def test_beyond_some_repeats_more_of_them_raise_the_loss_and_one_epoch_has_no_penalty() -> None:
    law, theta = host().law("overfitting"), np.array(TRUE["overfitting"])
    epochs = np.array([1.0, 4.0, 16.0, 64.0, 256.0, 1024.0])
    x = np.log(np.column_stack([np.full(6, 1e5), np.full(6, 1e4), 1e4 * epochs]))
    loss = np.exp(law.value(theta, x))
    least = int(np.argmin(loss))
    assert 0 < least < 5
    assert np.all(np.diff(loss[: least + 1]) < 0)
    assert np.all(np.diff(loss[least:]) > 0)
    joint = np.exp(host().law("nd").value(theta[:5], x[:1, [0, 1]]))
    assert loss[0] == pytest.approx(joint[0], rel=1e-4)
    assert pressure(x)[2] == pytest.approx(np.log(15 * 10))


def test_outliers_move_the_huber_fit_less_than_least_squares(rng: np.random.Generator) -> None:
    law = next(law for law in LAWS if law.name == "nd")
    x, truth = points(law), np.array(TRUE["nd"])
    y = law.value(truth, x) + 0.002 * rng.standard_normal(len(x))
    y[rng.choice(len(y), 4, replace=False)] += 0.5
    robust, plain = (solve(law, x, y, delta) for delta in (HUBER, None))
    errors = [abs(float(law.plain(f.theta, f.frame)["alpha"]) - 0.3) for f in (robust, plain)]
    assert errors[0] < 0.01 < errors[1]


@pytest.mark.parametrize("power", [0.0, 1e-13, 1e-9, -1e-8, 0.9e-6, 1.1e-6, 1e-4, -0.2, 0.5])
def test_the_powers_of_farseer_have_derivatives_through_zero(power: float) -> None:
    n, p = np.linspace(-7.0, 7.0, 15), np.array([power])
    value, z = bent(n, p)
    series = sum(power ** (k - 1) * n**k / factorial(k) for k in range(1, 40))
    slopes = sum((k - 1) * power ** (k - 2) * n**k / factorial(k) for k in range(2, 40))
    assert_allclose(value, series, rtol=1e-9, atol=1e-12)
    assert_allclose(by_power(n, p, value, z), slopes, rtol=1e-8, atol=1e-8)
