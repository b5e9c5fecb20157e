"""The conformance suite: does an optimizer behave as Optax, Flax, Equinox and Orbax expect?

Run it on your own optimizer::

    from celo_core.testing import check_optimizer

    def test_my_optimizer():
        check_optimizer(lambda num_steps: my_optimizer(theta, num_steps))

or one check per test, with a name in the report::

    from celo_core.testing import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_optimizer(check):
        check(lambda num_steps: my_optimizer(theta, num_steps))

A check raises AssertionError with one sentence where the optimizer fails it, and `Unavailable` where the check itself cannot
run: some (`DEVICE_CHECKS`) need eight devices (simulated ones will do, if the environment has
``XLA_FLAGS=--xla_force_host_platform_device_count=8`` before JAX starts), some a package of the ``test`` extra.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from celo_core.protocols import LearnedOptimizer
from celo_core.testing import (
    convergence,
    edge_cases,
    frameworks,
    layouts,
    meta_parameters,
    modes,
    robustness,
    transformations,
    updates,
    wrappers,
)
from celo_core.testing._problem import Make

CHECKS: tuple[Callable[[Make], None], ...] = (
    updates.check_extra_arguments_ignored,
    updates.check_value_types,
    updates.check_dtypes,
    updates.check_mixed_precision,
    updates.check_ranks,
    updates.check_empty_tree,
    updates.check_containers,
    updates.check_none_leaves,
    updates.check_masked_nodes,
    updates.check_counts,
    transformations.check_compiles_once,
    transformations.check_state_types,
    transformations.check_scan,
    transformations.check_traced_num_steps,
    transformations.check_vmap_over_params,
    transformations.check_donation,
    transformations.check_sharded_parameters,
    transformations.check_explicit_sharding,
    wrappers.check_chain,
    wrappers.check_masked,
    wrappers.check_partition,
    wrappers.check_multi_steps,
    wrappers.check_apply_if_finite,
    wrappers.check_inject_hyperparams,
    wrappers.check_map_params,
    robustness.check_non_finite_gradient,
    robustness.check_non_finite_value,
    robustness.check_extreme_numbers,
    robustness.check_longer_than_planned,
    robustness.check_missing_arguments,
    robustness.check_parameter_types,
    robustness.check_num_steps,
    frameworks.check_flax_nnx,
    frameworks.check_flax_linen,
    frameworks.check_equinox,
    frameworks.check_orbax,
    frameworks.check_orbax_managers,
    frameworks.check_orbax_other_devices,
    edge_cases.check_python_numbers,
    edge_cases.check_no_elements,
    edge_cases.check_state_has_elements,
    edge_cases.check_none_gradients,
    edge_cases.check_gradient_types,
    edge_cases.check_losses,
    edge_cases.check_loss_types,
    edge_cases.check_all_zeros,
    edge_cases.check_stacked_layers,
    modes.check_rank_promotion,
    modes.check_strict_dtypes,
    modes.check_debug_nans,
    modes.check_debug_infs,
    modes.check_tracer_leaks,
    modes.check_disable_jit,
    modes.check_x64,
    layouts.check_layouts_automatic,
    layouts.check_layouts_explicit,
    layouts.check_shard_map,
    layouts.check_pmap,
    convergence.check_convergence,
)
"""Checks of an optimizer; each takes a factory ``make(num_steps)``."""

DEVICE_CHECKS = frozenset(
    {
        *("check_sharded_parameters", "check_explicit_sharding", "check_orbax_other_devices"),
        *("check_layouts_automatic", "check_layouts_explicit", "check_shard_map", "check_pmap"),
    }
)
"""Names of the checks that need eight devices."""

LEARNED_CHECKS: tuple[Callable[[LearnedOptimizer], None], ...] = (
    meta_parameters.check_protocol,
    meta_parameters.check_config_json,
    meta_parameters.check_init_of_theta,
    meta_parameters.check_numpy_theta,
    meta_parameters.check_vmap_over_theta,
    meta_parameters.check_theta_gradient,
)
"""Checks of an architecture; each takes a `celo_core.LearnedOptimizer`."""


def check_optimizer(make: Make, *, only: Collection[str] | None = None, skip: Collection[str] = ()) -> None:
    """Runs `CHECKS` on an optimizer.

    Args:
      make: factory of the optimizer, ``make(num_steps) -> optax.GradientTransformationExtraArgs``; ``num_steps`` may be
        traced. An optimizer without such a notion may ignore it.
      only: names of the checks to run; all by default.
      skip: names of checks to leave out.

    Raises:
      AssertionError: checks failed; the message has a line for each.
      ValueError: ``only`` or ``skip`` has an unknown name.
      Unavailable: a check cannot be run here.
    """
    _run(CHECKS, make, only, skip)


def check_learned_optimizer(
    learned: LearnedOptimizer, *, only: Collection[str] | None = None, skip: Collection[str] = ()
) -> None:
    """Runs `LEARNED_CHECKS` on an architecture; arguments and errors as for `check_optimizer`."""
    _run(LEARNED_CHECKS, learned, only, skip)


def _run(
    checks: Sequence[Callable[[Any], None]], subject: Any, only: Collection[str] | None, skip: Collection[str]
) -> None:
    names = {check.__name__ for check in checks}
    if unknown := sorted((set(only or ()) | set(skip)) - names):
        raise ValueError(f"unknown checks {', '.join(unknown)}: choose from {', '.join(sorted(names))}.")
    failures = []
    for check in checks:
        if check.__name__ in skip or (only is not None and check.__name__ not in only):
            continue
        try:
            check(subject)
        except AssertionError as error:
            failures.append(error)
    if failures:
        raise AssertionError(f"{len(failures)} checks failed:\n" + "\n".join(map(str, failures))) from failures[0]
