"""Every registered architecture passes the conformance suite, and the suite detects broken optimizers."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from celo_core import ARCHITECTURES, LearnedOptimizer, get_architecture
from celo_core.testing import CHECKS, LEARNED_CHECKS, check_learned_optimizer, check_optimizer, meta_parameters

name_of = lambda check: check.__name__.removeprefix("check_")
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


@functools.cache
def theta_of(architecture):
    return get_architecture(architecture).init(jax.random.key(0))


NOT_YET = {"celo": {"check_all_zeros", "check_convergence"}, "celo_adam": {"check_convergence"}}
"""Checks that fail here: the default config, that of the paper, gives a tensor of zeros no scale, unlike that of the shipped
weights; and random meta-parameters do not train. celo-zoo's tests run both checks on its weights."""


COSTLY = {
    *("check_disable_jit", "check_layouts_automatic", "check_layouts_explicit", "check_stacked_layers", "check_x64"),
    *("check_ranks", "check_theta_gradient"),
}
"""Left out on the lowest versions: two minutes in all."""
may_be_slow = lambda checks: [pytest.param(c, marks=[pytest.mark.slow] if c.__name__ in COSTLY else []) for c in checks]


@architectures
@pytest.mark.parametrize("check", may_be_slow(CHECKS), ids=name_of)
def test_optimizer(architecture, check):
    def make(num_steps, num_stacked_axes=None):
        return get_architecture(architecture).build(
            theta_of(architecture), num_steps, num_stacked_axes=num_stacked_axes
        )

    if check.__name__ in NOT_YET.get(architecture, ()):
        with pytest.raises(AssertionError, match=check.__name__):
            check(make)
    else:
        check(make)


@architectures
@pytest.mark.parametrize("check", may_be_slow((*LEARNED_CHECKS, meta_parameters.check_registry)), ids=name_of)
def test_learned_optimizer(architecture, check):
    check(get_architecture(architecture))


# What Adam is not meant to do: keep the gradient's dtype, tolerate NaN, and check its arguments.
NOT_ADAM = {
    "check_mixed_precision",
    "check_non_finite_gradient",
    "check_extreme_numbers",
    "check_missing_arguments",
    "check_parameter_types",
    "check_num_steps",
    "check_none_gradients",
    "check_gradient_types",
    "check_loss_types",
}

DEPENDS_ON_OPTAX = {"check_strict_dtypes", "check_python_numbers"}
"""Checks that Adam passes in one version of Optax and not in another."""


def adam(num_steps):
    del num_steps
    return optax.with_extra_args_support(optax.adam(1e-2))


@pytest.mark.slow
def test_adam_passes_generic_checks():
    check_optimizer(adam, skip=NOT_ADAM | DEPENDS_ON_OPTAX)


@pytest.mark.parametrize("name", sorted(NOT_ADAM))
def test_adam_fails_the_rest(name):
    with pytest.raises(AssertionError, match=name):
        check_optimizer(adam, only={name})


def _broken(update=None, init=None):
    """Adam with its update or init replaced by a function of the original."""
    good = adam(None)
    change = lambda old, new: old if new is None else functools.partial(new, old)
    return lambda num_steps: optax.GradientTransformationExtraArgs(change(good.init, init), change(good.update, update))


def refuses_extra_arguments(update, updates, state, params=None, *, value=None):
    return update(updates, state, params)


def uses_extra_arguments(update, updates, state, params=None, *, value=None, **extra):
    factor = 2.0 if extra else 1.0
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: factor * u, updates), state


def float32_updates(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: u.astype(jnp.float32), updates), state


def fails_on_scalars(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: u / u.ndim if u.ndim else u * jnp.nan, updates), state


def weakly_typed_init(init, params):
    return jax.tree.map(lambda x: jnp.asarray(0) if x.dtype == jnp.int32 else x, init(params))


def changes_state_dtype(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    return updates, jax.tree.map(lambda x: x.astype(jnp.float16) if x.ndim else x, state)


def counts_too_far(update, updates, state, params=None, **extra):
    updates, new = update(updates, state, params)
    return updates, optax.tree.set(new, count=optax.tree.get(state, "count") + 1)


def aliased_moments(init, params):
    state = init(params)
    return optax.tree.set(state, mu=optax.tree.get(state, "nu"))


def mixes_batches(update, updates, state, params=None, **extra):
    jax.tree.map(lambda u: float(jnp.sum(u)), updates)  # a Python number: fails on a tracer
    return update(updates, state, params)


def state_outside(update, updates, state, params=None, **extra):
    state_outside.count = getattr(state_outside, "count", 0) + 1
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: u * state_outside.count, updates), state


def drops_none(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    return {k: v for k, v in updates.items() if v is not None}, state


def empty_array(init, params):
    return init(params), jnp.zeros((0,))


def forgets_empty_array(update, updates, state, params=None, **extra):
    updates, inner = update(updates, state[0], params)
    return updates, (inner, state[1])


def relative_steps(update, updates, state, params=None, **extra):
    """An optimizer with steps relative to a tensor's size, which is almost none for zeros."""
    updates, state = update(updates, state, params)
    size = lambda p: jnp.sqrt(jnp.mean(jnp.square(p.astype(jnp.float32))) + 1e-9).astype(p.dtype)
    return jax.tree.map(lambda u, p: u * size(p), updates, params), state


def fails_on_no_elements(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    largest = jnp.stack([jnp.mean(jnp.abs(u.astype(jnp.float32))) for u in jax.tree.leaves(updates)])
    return updates, jax.tree.map(lambda x: x + 0 * jnp.max(largest).astype(x.dtype) if x.ndim else x, state)


def reads_loss_of_zero(update, updates, state, params=None, *, value=None, **extra):
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: u / jnp.asarray(value, u.dtype), updates), state


def adds_axes(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: u + jnp.zeros(u.shape[-1:], u.dtype), updates), state


def makes_infinity(init, params):
    return jax.tree.map(lambda x: jnp.minimum(x, jnp.full_like(x, jnp.inf)) if x.ndim else x, init(params))


def makes_nan(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: jnp.nan_to_num(u + 0.0 / jnp.zeros_like(u)), updates), state


def wide_constants(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: u * jnp.ones(u.shape), updates), state


def replicates(update, updates, state, params=None, **extra):
    """An optimizer that stacks leaves of one shape without regard to their shardings."""
    updates, state = update(updates, state, params)
    leaves, treedef = jax.tree.flatten(updates)
    together = lambda u: jnp.mean(jnp.stack([v for v in leaves if v.shape == u.shape]), axis=0) * 0 + u
    return treedef.unflatten([together(u) for u in leaves]), state


def far_too_long(update, updates, state, params=None, **extra):
    updates, state = update(updates, state, params)
    return jax.tree.map(lambda u: 1000 * u, updates), state


def nothing_of_no_tensors(init, params):
    """A state with one array for all tensors, which is missing if there are no tensors."""
    return init(params), jnp.ones(len(params)) if jax.tree.leaves(params) else None


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("check_convergence", {"update": far_too_long}),
        ("check_map_params", {"init": nothing_of_no_tensors, "update": forgets_empty_array}),
        ("check_state_has_elements", {"init": empty_array}),
        ("check_orbax", {"init": empty_array, "update": forgets_empty_array}),
        ("check_all_zeros", {"update": relative_steps}),
        ("check_stacked_layers", {"update": relative_steps}),
        ("check_no_elements", {"update": fails_on_no_elements}),
        ("check_losses", {"update": reads_loss_of_zero}),
        ("check_rank_promotion", {"update": adds_axes}),
        ("check_debug_infs", {"init": makes_infinity}),
        ("check_debug_nans", {"update": makes_nan}),
        ("check_x64", {"update": wide_constants}),
        ("check_layouts_explicit", {"update": replicates}),
        ("check_extra_arguments_ignored", {"update": refuses_extra_arguments}),
        ("check_extra_arguments_ignored", {"update": uses_extra_arguments}),
        ("check_dtypes", {"update": float32_updates}),
        ("check_ranks", {"update": fails_on_scalars}),
        ("check_compiles_once", {"init": weakly_typed_init}),
        ("check_state_types", {"init": weakly_typed_init}),
        ("check_state_types", {"update": changes_state_dtype}),
        ("check_dtypes", {"update": changes_state_dtype}),
        ("check_scan", {"update": changes_state_dtype}),
        ("check_counts", {"update": counts_too_far}),
        ("check_donation", {"init": aliased_moments}),
        ("check_vmap_over_params", {"update": mixes_batches}),
        ("check_traced_num_steps", {"update": mixes_batches}),
        ("check_none_leaves", {"update": drops_none}),
        ("check_containers", {"update": drops_none}),
        ("check_orbax", {"update": state_outside}),
        ("check_flax_nnx", {"update": state_outside}),
        ("check_masked", {"update": state_outside}),
    ],
    ids=lambda x: x if isinstance(x, str) else next(iter(x.values())).__name__,
)
def test_broken_optimizer_is_noticed(check, changes):
    with pytest.raises(AssertionError, match=check):
        check_optimizer(_broken(**changes), only={check})


def test_all_failures_are_reported():
    with pytest.raises(AssertionError, match=r"2 checks failed:\ncheck_missing_arguments.*\ncheck_num_steps"):
        check_optimizer(adam, only={"check_missing_arguments", "check_num_steps"})


def test_unknown_check_is_refused():
    with pytest.raises(ValueError, match="unknown checks check_nothing"):
        check_optimizer(adam, only={"check_nothing"})
    with pytest.raises(ValueError, match="unknown checks check_nothing"):
        check_learned_optimizer(get_architecture("celo"), skip={"check_nothing"})


def test_frozen_theta_is_noticed():
    class Frozen(LearnedOptimizer):
        """Celo-Adam whose theta has an unused part."""

        name = "frozen"
        config = get_architecture("celo_adam").config

        def init(self, key):
            return {**get_architecture("celo_adam").init(key), "unused": jnp.ones((2,))}

        def build(self, theta, num_steps, **kwargs):
            return get_architecture("celo_adam").build({"scheduler": theta["scheduler"]}, num_steps, **kwargs)

    with pytest.raises(AssertionError, match="'unused'"):
        check_learned_optimizer(Frozen(), only={"check_theta_gradient"})
