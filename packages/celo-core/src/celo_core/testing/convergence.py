"""A check that the optimizer trains a network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core.testing._problem import Make, assert_finite, conformance_check

STEPS = 300
FACTOR = 20.0


@conformance_check
def check_convergence(make: Make) -> None:
    """Trained weights reduce the loss of a small network on a regression to a twentieth in 300 full-batch steps.

    Random meta-parameters of a learned optimizer need not pass.
    """
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((32, 4)), jnp.float32)
    targets = jnp.sin(inputs @ jnp.asarray(rng.standard_normal((4, 2)), jnp.float32))
    draw = lambda rows, columns: jnp.asarray(rng.standard_normal((rows, columns)) / np.sqrt(rows), jnp.float32)
    params = {"first": draw(4, 16), "bias": jnp.zeros(16), "last": draw(16, 2), "offset": jnp.zeros(2)}

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        hidden = jnp.tanh(inputs @ params["first"] + params["bias"])
        return jnp.mean(jnp.square(hidden @ params["last"] + params["offset"] - targets))

    tx = make(STEPS)

    def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    (trained, _), losses = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=STEPS))(params)
    assert_finite(trained, "parameters after the training")
    first, last = float(losses[0]), float(loss(trained))
    assert last < first / FACTOR, (
        f"in {STEPS} steps the loss goes from {first:.3g} to {last:.3g}, not below {first / FACTOR:.3g}"
    )
