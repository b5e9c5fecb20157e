"""Wrong arguments raise errors that name what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import ARCHITECTURES, Celo, CeloAdam, CeloConfig, celo, celo_adam, get_architecture, scale_by_celo
from celo_core.checks import flatten_theta, unflatten_theta
from celo_core.directions import MLP

CELO = flatten_theta(jax.device_get(Celo().init(jax.random.key(0))))
ADAM = flatten_theta(jax.device_get(CeloAdam().init(jax.random.key(0))))
BIAS = "update_rule/mlp/output/bias"
PARAMS = {"w": jnp.ones((2, 3))}


def test_flatten_theta_is_undone():
    assert flatten_theta(unflatten_theta(CELO)).keys() == CELO.keys()


@pytest.mark.parametrize("path", sorted(CELO))
def test_missing_leaf(path):
    theta = {name: leaf for name, leaf in CELO.items() if name != path}
    with pytest.raises(ValueError, match=f"it lacks {path}"):
        celo(unflatten_theta(theta), 10)


@pytest.mark.parametrize("path", sorted(ADAM))
def test_misshapen_leaf(path):
    theta = {**ADAM, path: np.concatenate([ADAM[path], ADAM[path]])}
    with pytest.raises(ValueError, match=f"{path}' has shape"):
        celo_adam(unflatten_theta(theta), 10)


def test_extra_leaf():
    with pytest.raises(ValueError, match="unknown leaves update_rule/more"):
        celo(unflatten_theta({**CELO, "update_rule/more": np.ones(3, np.float32)}), 10)


def test_theta_of_another_architecture():
    with pytest.raises(ValueError, match="not one of 'celo': it lacks update_rule/mlp/hidden_0/bias"):
        celo(unflatten_theta(ADAM), 10)
    with pytest.raises(ValueError, match="not one of 'celo_adam': it has unknown leaves update_rule"):
        celo_adam(unflatten_theta(CELO), 10)


def test_theta_of_another_config():
    with pytest.raises(ValueError, match="unknown leaves scheduler"):
        celo(unflatten_theta(CELO), 10, config=CeloConfig(scheduler=None))
    with pytest.raises(ValueError, match="hidden_0/bias' has shape"):
        celo(unflatten_theta(CELO), 10, config=CeloConfig(directions=(MLP(hidden_sizes=(8, 4)),)))


@pytest.mark.parametrize("theta", [None, [], np.ones(3), {}, {"update_rule": {}}])
def test_theta_that_is_no_theta(theta):
    with pytest.raises(ValueError, match="theta is not one of 'celo'"):
        celo(theta, 10)


def test_theta_of_integers():
    with pytest.raises(ValueError, match="has dtype int32"):
        celo(unflatten_theta({**CELO, BIAS: np.zeros(2, np.int32)}), 10)


def test_theta_of_low_precision_is_accepted():
    theta = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), unflatten_theta(CELO))
    state = celo(theta, 10).init(PARAMS)
    assert state.scheduler.network.hidden.dtype == jnp.float32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_steps", [0, 0.5, -1, float("nan"), None, "100", True, np.ones(2)])
def test_num_steps(architecture, num_steps):
    learned = get_architecture(architecture)
    with pytest.raises(ValueError, match="num_steps"):
        learned.build(learned.init(jax.random.key(0)), num_steps)


@pytest.mark.parametrize("value", [jnp.ones(3), np.ones((1,)), [1.0, 2.0]])
def test_value_that_is_no_scalar(value):
    tx = scale_by_celo(unflatten_theta(CELO), 10)
    with pytest.raises(ValueError, match="scalar loss as value"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=value)


def test_missing_value_tells_the_ways_to_pass_it():
    tx = celo(unflatten_theta(CELO), 10)
    with pytest.raises(ValueError, match=r"value=loss.*flax\.nnx\.Optimizer.*celo_core\.TrainState"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, jnp.bool_])
def test_parameters_that_are_no_floats(dtype):
    params = {"layer": {"w": jnp.ones(3), "index": jnp.ones(3, dtype)}}
    with pytest.raises(TypeError, match=r"parameter \['layer'\]\['index'\] has dtype .*optax\.masked"):
        celo(unflatten_theta(CELO), 10).init(params)


def test_unknown_architecture():
    with pytest.raises(ValueError, match="unknown architecture 'sgd': choose from celo, celo_adam"):
        get_architecture("sgd")


def test_config_of_another_architecture():
    with pytest.raises(ValueError, match="CeloAdamConfig has no field"):
        get_architecture("celo_adam", {"hidden_sizes": [4, 4]})
