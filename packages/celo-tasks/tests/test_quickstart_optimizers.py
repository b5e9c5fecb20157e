"""Baselines, and pretrained optimizers found through entry points."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_tasks.baselines import BASELINES
from celo_tasks.evaluation import optimizers

NUM_STEPS = 20


def trajectory(optimizer: optax.GradientTransformation, **extra: Any) -> np.ndarray:
    params = {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array(0.5)}
    state, points = optimizer.init(params), []
    for _ in range(NUM_STEPS):
        grads = jax.grad(lambda p: jnp.sum(jnp.cos(p["w"]) * p["b"]) + p["b"] ** 2)(params)
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        points.append(np.concatenate([params["w"], params["b"][None]]))
    return np.stack(points)


REFERENCES: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": lambda rate: optax.adamw(
        lambda count: rate * 0.5 * (1 + jnp.cos(jnp.pi * count / NUM_STEPS)), b1=0.9, b2=0.999, weight_decay=0.01
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_baselines_are_optax_s(name: str) -> None:
    contestant = BASELINES[name]((0.1,))
    found = trajectory(contestant.build(0.1, NUM_STEPS), value=jnp.float32(1.0))
    expected = trajectory(REFERENCES[name](0.1))
    # The same formulas; the schedule is rounded once more or less.
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found[-1] - found[0]).max() > 0.1


@pytest.mark.parametrize("name", REFERENCES)
def test_a_traced_learning_rate_is_the_same(name: str) -> None:
    build = BASELINES[name]((0.1,)).build
    params, grads = jnp.array([1.0, 2.0]), jnp.array([0.3, -0.1])

    def update(rate: Any) -> jax.Array:
        optimizer = build(rate, NUM_STEPS)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    np.testing.assert_allclose(jax.jit(update)(jnp.float32(0.1)), update(0.1), rtol=1e-6)  # float32 rounding


class FakeDistribution(importlib.metadata.Distribution):
    def __init__(self, entry_points: str) -> None:
        self._text = entry_points

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "entry_points.txt" else "Metadata-Version: 2.1\nName: fake\nVersion: 1\n"

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that nothing is installed but packages with these entry points."""

    def install(*entry_points: str) -> None:
        points = [
            point
            for number, one in enumerate(entry_points)
            for point in importlib.metadata.EntryPoints._from_text_for(
                f"[celo.optimizers]\n{one}\n", FakeDistribution(str(number))
            )
        ]
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda **wanted: importlib.metadata.EntryPoints(points).select(**wanted)
        )

    return install


def test_pretrained_is_found_by_name(install: Callable[..., None]) -> None:
    install("celo = optax:sgd", "other = optax:lion")
    assert optimizers.pretrained_names() == ("celo", "other")
    assert optimizers.load_pretrained("celo") is optax.sgd


def test_missing_optimizer_is_explained(install: Callable[..., None]) -> None:
    install()
    with pytest.raises(ValueError, match="pip install celo-zoo"):
        optimizers.load_pretrained("celo")
    install("other = optax:lion")
    with pytest.raises(ValueError, match="offer other"):
        optimizers.load_pretrained("celo")


def test_two_offers_are_refused_unless_they_are_the_same(install: Callable[..., None]) -> None:
    install("celo = optax:sgd", "celo = optax:lion")
    with pytest.raises(ValueError, match="uninstall"):
        optimizers.load_pretrained("celo")
    install("celo = optax:sgd", "celo = optax:sgd")  # a package that lies twice on the path
    assert optimizers.load_pretrained("celo") is optax.sgd


@pytest.mark.parametrize("target", ["no_such_package:celo", "optax:no_such_name"])
def test_broken_offer_is_explained(install: Callable[..., None], target: str) -> None:
    install(f"celo = {target}")
    with pytest.raises(ValueError, match="reinstall"):
        optimizers.load_pretrained("celo")
