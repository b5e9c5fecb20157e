"""The tasks of stress-8: each stresses what it says, and its gradient is right."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_tasks.families import DiabetesRegression, FineTuned, HashedTrigrams, PoissonPINN
from celo_tasks.families.pinn import solution
from celo_tasks.tasks import registry

TASKS = registry.SUITES["stress-8"].tasks
KEY = jax.random.key(0)


def made(name):
    family = registry.TASKS[name].make()
    return family, jax.tree.map(jnp.asarray, family.load())


def test_there_are_eight():
    assert len(TASKS) == 8 and all(name.startswith("stress_") for name in TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_tuned_adam_would_train_it(name):
    family, data = made(name)
    config = family.sample(KEY)
    start = family.init(KEY, config)

    def final(rate):
        tx = optax.adam(rate)

        def step(carry, key):
            params, model_state, state = carry
            batch = family.batch(key, config, data)
            (loss, model_state), gradient = jax.value_and_grad(family.loss, has_aux=True)(
                params, model_state, key, config, batch
            )
            updates, state = tx.update(gradient, state)
            return (optax.apply_updates(params, updates), model_state, state), family.normalizer(loss)

        return jax.lax.scan(step, (*start, tx.init(start[0])), jax.random.split(KEY, 300))[1]

    losses = np.asarray(jax.jit(jax.vmap(final))(jnp.asarray([1e-3, 1e-2])))
    assert np.all(np.isfinite(losses))
    assert losses[:, -40:].mean(axis=1).min() < 0.98 * losses[:, :10].mean()


def test_pixels_are_raw():
    family, data = made("stress_raw_pixels")
    images, _ = family.batch(KEY, {}, data)
    assert images.shape == (64, 784) and float(images.max()) > 200
    plain = registry.TASKS["small_mlp"].make()
    np.testing.assert_allclose(images, 255.0 * plain.batch(KEY, {}, data)[0], rtol=1e-6)
    np.testing.assert_allclose(family.load_held_out()[0], 255.0 * plain.load_held_out()[0], rtol=1e-6)


def test_batches_have_one_to_four_different_images():
    family, data = made("stress_tiny_batch")
    images = jax.vmap(lambda key: family.batch(key, {}, data)[0])(jax.random.split(KEY, 60))
    different = [len(np.unique(batch.reshape(4, -1), axis=0)) for batch in np.asarray(images)]
    assert set(different) == {1, 2, 3, 4}
    single = next(batch for batch, count in zip(images, different, strict=True) if count == 1)
    np.testing.assert_array_equal(single, jnp.broadcast_to(single[:1], single.shape))


def test_the_table_is_raw_and_its_test_rows_are_others():
    family = DiabetesRegression("table", (8,))
    data, (inputs, targets) = family.load(), family.load_held_out()
    assert data["targets"].max() > 300 and data["inputs"].max() > 200
    assert len(targets) + len(data["targets"]) == 442 and len(targets) == 88
    rows = {row.tobytes() for row in data["inputs"]}
    assert not any(row.tobytes() in rows for row in inputs)
    zeros = jax.tree.map(jnp.zeros_like, family.init(KEY, {})[0])
    found, _ = family.loss(zeros, None, KEY, {}, (jnp.asarray(inputs), jnp.asarray(targets)))
    np.testing.assert_allclose(found, np.mean(np.square(targets, dtype=np.float64)), rtol=1e-5)


class Exact(PoissonPINN):
    """A network that is the solution, times a number."""

    def _network(self):
        class Module:
            def apply(self, variables, points):
                return variables["params"] * solution(points)[:, None]

        return Module()


def test_the_equations_solution_has_no_loss():
    family = Exact("exact", (4,))
    batch = family.batch(KEY, {}, {})
    # The right side is of some 50, in float32.
    assert float(family.loss(jnp.float32(1.0), None, KEY, {}, batch)[0]) < 1e-7
    zero = float(family.loss(jnp.float32(0.0), None, KEY, {}, batch)[0])
    # The mean of (5 pi^2 sin sin)^2 over midpoints is a quarter of the square of 5 pi^2.
    np.testing.assert_allclose(zero, (5 * np.pi**2) ** 2 / 4, rtol=1e-4)


def test_its_second_derivatives_are_differences_of_second_order():
    family = PoissonPINN("pinn", (16, 16), side=4, boundary_weight=0.0)
    params, _ = family.init(KEY, {})
    inside, boundary = family.batch(KEY, {}, {})
    widen = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    layers = [widen(params)[name] for name in sorted(params)]

    def value(points):
        for layer in layers[:-1]:
            points = np.tanh(points @ layer["kernel"] + layer["bias"])
        return (points @ layers[-1]["kernel"] + layers[-1]["bias"])[:, 0]

    points, h = np.asarray(inside, np.float64), 1e-3
    around = [value(points + h * np.array(d)) for d in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    laplacian = (sum(around) - 4 * value(points)) / h**2
    right_side = -5 * np.pi**2 * np.sin(np.pi * points[:, 0]) * np.sin(2 * np.pi * points[:, 1])
    expected = np.mean((laplacian - right_side) ** 2)
    np.testing.assert_allclose(family.loss(params, None, KEY, {}, (inside, boundary))[0], expected, rtol=1e-4)
    assert len(boundary) == 16 and np.all((boundary == 0) | (boundary == 1) | ((boundary > 0) & (boundary < 1)))
    assert np.all(np.any((np.asarray(boundary) == 0) | (np.asarray(boundary) == 1), axis=1))


def test_most_rows_of_the_embedding_have_no_gradient():
    family, data = made("stress_rare_tokens")
    params, _ = family.init(KEY, {})
    gradient = jax.grad(lambda p: family.loss(p, None, KEY, {}, family.batch(KEY, {}, data))[0])(params)
    touched = np.any(np.asarray(gradient["embedding"]) != 0, axis=1).mean()
    assert 0 < touched < 0.06  # at most 8 x 24 of 4,096


def test_a_prediction_does_not_see_its_future():
    network = HashedTrigrams(64, 4, 8, 10)
    tokens = jax.random.randint(KEY, (2, 12), 0, 10)
    variables = network.init(KEY, tokens)
    changed = tokens.at[:, 7].add(1)
    before, after = network.apply(variables, tokens), network.apply(variables, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.all(np.any(np.asarray(before[:, 7:10] != after[:, 7:10]), axis=-1))


@pytest.mark.slow
def test_frozen_tensors_have_a_gradient_of_zero():
    family, data = made("stress_frozen")
    params, _ = family.init(KEY, {})
    # A last layer of zeros passes no gradient on.
    params = {**params, "logits": jax.tree.map(lambda x: x + 0.1, params["logits"])}
    params["logits"]["kernel"] += 0.1 * jax.random.normal(KEY, params["logits"]["kernel"].shape)
    batch = family.batch(KEY, {}, data)
    value, gradient = jax.value_and_grad(lambda p: family.loss(p, None, KEY, {}, batch)[0])(params)
    whole = jax.grad(lambda p: family.family.loss(p, None, KEY, {}, batch)[0])(params)
    np.testing.assert_allclose(value, family.family.loss(params, None, KEY, {}, batch)[0], rtol=1e-6)
    trained = 0
    for (path, found), expected in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(whole), strict=True
    ):
        if family.is_trained(path):
            trained += found.size
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
        else:
            assert not np.any(found)
    assert 0 < trained < 0.2 * sum(x.size for x in jax.tree.leaves(params))


def test_where_nothing_is_trained_it_says_so():
    family = FineTuned(registry.TASKS["small_mlp"].make(), "no such tensor", "frozen")
    with pytest.raises(ValueError, match="nothing would be trained"):
        family.init(KEY, {})
