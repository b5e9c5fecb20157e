"""Shampoo against its definition in float64, and on a quadratic that only a full matrix can precondition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core.testing import check_optimizer
from celo_tasks.baselines import scale_by_shampoo, shampoo

B1, B2, EPS = 0.9, 0.99, 1e-8
RIDGE = 1e-3
EVERY = 2
BLOCK = 4
SHAPES: dict[str, tuple[int, ...]] = {
    "square": (4, 4),
    "tall": (6, 3),  # its longer side is diagonal
    "kernel": (2, 2, 1, 3),  # merged to 4 x 3
    "vector": (5,),
    "scalar": (),
}
NUM_STEPS = 5


def definition(gradients: np.ndarray) -> np.ndarray:
    """Updates of one tensor in float64; the gradients and the updates are (steps, *shape)."""
    shape = gradients.shape[1:]
    m, v = np.zeros(shape), np.zeros(shape)
    sides = (int(np.prod(shape[:-1])), shape[-1]) if len(shape) >= 2 else ()
    statistics = [np.zeros((side, side)) for side in sides]
    roots = list(statistics)
    updates = []
    for step, g in enumerate(gradients.astype(np.float64)):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        adam = m / (1 - B1 ** (step + 1)) / (np.sqrt(v / (1 - B2 ** (step + 1))) + EPS)
        if not sides:
            updates.append(adam)
            continue
        matrix = g.reshape(sides)
        for i, square in enumerate((matrix @ matrix.T, matrix.T @ matrix)):
            kept = square if sides[i] <= BLOCK else np.diag(np.diag(square))
            statistics[i] = B2 * statistics[i] + (1 - B2) * kept
            if step % EVERY == 0:
                values, vectors = np.linalg.eigh(statistics[i])
                roots[i] = vectors @ np.diag((values + RIDGE * values.max()) ** -0.25) @ vectors.T
        direction = (roots[0] @ m.reshape(sides) @ roots[1]).reshape(shape)
        updates.append(direction * np.linalg.norm(adam) / np.linalg.norm(direction))
    return np.stack(updates)


def test_updates_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    # Unlike scales of tensors and of steps, which the bias corrections and the ridge must follow.
    scales = {name: 10.0 ** (2 * i - 5) for i, name in enumerate(SHAPES)}
    gradients = {
        name: (scales[name] * rng.standard_normal((NUM_STEPS, *shape))).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    tx = scale_by_shampoo(B1, B2, EPS, ridge=RIDGE, update_every=EVERY, block_size=BLOCK)
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    steps = lambda grads: jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(params), grads)
    state, found = jax.jit(steps)(gradients)
    for name in SHAPES:
        # Rounding of eigenvalues, 1e-6 of the largest, is 1e-3 of the smallest with the ridge, to the power -1/4.
        np.testing.assert_allclose(found[name], definition(gradients[name]), rtol=1e-3, atol=1e-4, err_msg=name)
    statistics = dict(zip(sorted(SHAPES), state.statistics, strict=True))
    assert statistics["vector"] is None and statistics["scalar"] is None
    assert [side.shape for side in statistics["tall"]] == [(6,), (3, 3)]
    assert [side.shape for side in statistics["kernel"]] == [(4, 4), (3, 3)]
    adam = optax.scale_by_adam(B1, B2, EPS)
    vectors = {name: gradients[name] for name in ("vector", "scalar")}
    begin = adam.init({name: params[name] for name in vectors})
    _, expected = jax.lax.scan(lambda s, g: adam.update(g, s)[::-1], begin, vectors)
    for name in vectors:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)  # the same formula, compiled otherwise


def test_full_matrices_precondition_what_no_learning_rate_can() -> None:
    """1/2 |A (X - X*) B|^2 with rotated A and B: its Hessian is the Kronecker product of two full matrices."""
    size, num_steps, condition = 8, 100, 1e4
    rng = np.random.default_rng(1)
    basis = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2)]
    curvature = np.logspace(0, -np.log10(condition) / 2, size)
    a, b = (q @ np.diag(np.sqrt(curvature)) @ q.T for q in basis)
    # Each of the size^2 eigenvectors of the Hessian has an equal share of the initial loss, 1/2.
    eigenvalues = np.outer(curvature, curvature)
    start = basis[0] @ (eigenvalues**-0.5 / size) @ basis[1].T
    # Gradient descent shrinks eigenvector i by (1 - rate * eigenvalue i) a step: its best result over all rates below 2.
    best_descent = min(0.5 * np.mean((1 - rate * eigenvalues) ** (2 * num_steps)) for rate in np.linspace(0.01, 2, 200))

    def final_loss(rate: Any, full: bool) -> Any:
        decay = optax.cosine_decay_schedule(1.0, num_steps)
        tx = shampoo(lambda count: rate * decay(count), block_size=size if full else 1, b2=0.9, update_every=5)
        loss = lambda x: 0.5 * jnp.sum(jnp.square(jnp.asarray(a, jnp.float32) @ x @ jnp.asarray(b, jnp.float32)))

        def step(carry: Any, _: None) -> tuple[Any, None]:
            x, state = carry
            updates, state = tx.update(jax.grad(loss)(x), state, x)
            return (optax.apply_updates(x, updates), state), None

        x = jnp.asarray(start, jnp.float32)
        return loss(jax.lax.scan(step, (x, tx.init(x)), None, num_steps)[0][0])

    rates = jnp.array([0.1, 0.3, 1.0, 3.0])
    best = lambda full: jnp.min(jax.vmap(lambda rate: final_loss(rate, full))(rates))
    full, diagonal = jax.jit(lambda: (best(True), best(False)))()
    assert best_descent > 0.1
    assert full < 0.01 * best_descent
    assert full < 0.1 * diagonal


def test_zero_gradients_give_zero_steps() -> None:
    tx = scale_by_shampoo(update_every=2)
    params = {"matrix": jnp.ones((3, 2)), "vector": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    update, state, found = jax.jit(tx.update), tx.init(params), []
    # One that is not zero comes while the roots are still those of a zero matrix.
    for gradient in (zeros, jax.tree.map(lambda p: 1e-3 * p, params), zeros):
        updates, state = update(gradient, state)
        found.append(updates)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(found[0]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((found, state)))
    assert np.all(np.asarray(found[1]["matrix"]) > 0)


def test_behaves_as_an_optax_transformation() -> None:
    """The checks that are cheap, and hold for an optimizer that needs no loss and no number of steps."""
    tx = shampoo(0.1)
    # Compiled once for each kind of tree, as an eager lax.cond is compiled in every step.
    jitted = optax.GradientTransformationExtraArgs(jax.jit(tx.init), jax.jit(tx.update))
    check_optimizer(
        lambda num_steps: jitted,
        only=(
            "check_mixed_precision",
            "check_masked_nodes",
            "check_compiles_once",
            "check_state_types",
            "check_donation",
        ),
    )


def test_senseless_options_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        scale_by_shampoo(update_every=0)
