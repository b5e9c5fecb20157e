"""What is shipped passes the whole conformance suite: every check, on every bundled name, on one CPU as most users have it.

Checks that need several devices are in test_conformance_devices.py.
"""

import jax
import pytest

import celo_zoo
from celo_core.kernels import reductions
from celo_core.testing import CHECKS, DEVICE_CHECKS, LEARNED_CHECKS, meta_parameters

BUNDLED = [name for name in celo_zoo.names() if celo_zoo.index.entries()[name].bundled]
ON_DEVICES = [check for check in CHECKS if check.__name__ in DEVICE_CHECKS]

AS_PUBLISHED = {"celo_paper": {"check_all_zeros"}}
"""What the paper's own Celo does not do: move tensors that are all zeros, to which its steps are relative."""

names = pytest.mark.parametrize("name", BUNDLED)
name_of = lambda check: check.__name__.removeprefix("check_")
pytestmark = pytest.mark.slow


def maker(name):
    """A factory that may be told of stacked layers."""
    return lambda num_steps, num_stacked_axes=None: celo_zoo.optimizer(
        name, num_steps, num_stacked_axes=num_stacked_axes
    )


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled():
    """Without most of XLA's optimisations, of which these checks are about none; on one CPU, where sums are in parts and blocks."""
    assert reductions.on_one_cpu()
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@names
@pytest.mark.parametrize("check", [check for check in CHECKS if check not in ON_DEVICES], ids=name_of)
def test_optimizer(name, check):
    if check.__name__ in AS_PUBLISHED.get(name, ()):
        with pytest.raises(AssertionError, match=check.__name__):
            check(maker(name))
    else:
        check(maker(name))


@names
@pytest.mark.parametrize("check", (*LEARNED_CHECKS, meta_parameters.check_registry), ids=name_of)
def test_architecture(name, check):
    pretrained = celo_zoo.load(name)
    check(pretrained.architecture)


def test_every_bundled_name_is_here():
    assert {"celo", "celo_adam", "celo_paper"} <= set(BUNDLED)
