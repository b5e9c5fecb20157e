"""The converter: equal in effect to the reference implementation, and strict."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import celo_zoo
from celo_core import get_architecture
from celo_core.checks import flatten_theta
from celo_zoo import convert

FILES = {
    "celo": ("celo_theta.state", "celo_phase2_official.npz"),
    "celo_adam": ("celo_adam_theta.state", "celo_adam_official.npz"),
}


def tree_of(architecture, seed=0):
    """A tree like the published one, of random numbers."""
    random = np.random.default_rng(seed)
    tree = {}
    for path, shape in convert.PUBLISHED_SHAPES[architecture].items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = random.normal(size=shape).astype(np.float32)
    return tree


def write(tree, path):
    path.write_bytes(serialization.msgpack_serialize(tree))
    return path


@pytest.mark.parametrize("architecture", FILES)
def test_parity_with_the_reference_implementation(architecture, shared_dir):
    state_file, golden_file = FILES[architecture]
    theta, config = celo_zoo.convert_published(shared_dir / "reference" / state_file, architecture)
    golden = np.load(shared_dir / "golden" / golden_file, allow_pickle=False)
    tx = get_architecture(architecture, config).build(theta, int(golden["num_steps"]))
    names = [key.removeprefix("init/") for key in golden.files if key.startswith("init/")]
    params = {name: jnp.asarray(golden[f"init/{name}"]) for name in names}
    state = tx.init(params)

    # Compiling takes most of the test's time, hence without optimisation.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(params, state, grads, loss):
        updates, state = tx.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    for index, loss in enumerate(golden["loss"]):
        grads = {name: golden[f"grads/{name}"][index] for name in names}
        params, state = step(params, state, grads, loss)
        for name in names:
            expected = golden[f"params/{name}"]
            movement = np.abs(expected[-1] - golden[f"init/{name}"]).max()
            # The reference implementation agrees with itself, between versions of JAX, to 5e-6 of a leaf's movement.
            np.testing.assert_allclose(params[name], expected[index], rtol=0, atol=1e-4 * movement)
    assert index == 24


@pytest.mark.parametrize("architecture", FILES)
def test_converted_weights_can_be_saved(architecture, tmp_path, caplog):
    path = write(tree_of(architecture), tmp_path / "theta.state")
    with caplog.at_level(logging.INFO, logger="celo_zoo"):
        theta, config = celo_zoo.convert_published(path, architecture)
    for dropped in convert.DROPPED[architecture]:
        assert dropped in caplog.text
    metadata = convert.published_metadata(path)
    assert metadata["license"] == "other"  # made-up numbers are not the authors'
    loaded, read = celo_zoo.load(celo_zoo.save(theta, config, tmp_path / "model", metadata=metadata))
    assert read == config
    for path, leaf in flatten_theta(theta).items():
        np.testing.assert_array_equal(leaf, flatten_theta(loaded)[path])


def test_mapping(tmp_path):
    tree = tree_of("celo")
    theta, _ = celo_zoo.convert_published(write(tree, tmp_path / "theta.state"))
    mlp, rnn = tree["ff_mod_stack"]["~"], tree["rnn_params"]
    kernel = theta["update_rule"]["mlp"]["hidden_0"]["kernel"]
    assert kernel.shape == (30, 4)
    np.testing.assert_array_equal(kernel[3:6], mlp["w0__3"][0])
    np.testing.assert_array_equal(kernel[27:], mlp["w0__13"][0])
    np.testing.assert_array_equal(theta["update_rule"]["mlp"]["output"]["kernel"], mlp["w2"][0, :, :2])
    network = theta["scheduler"]
    np.testing.assert_array_equal(network["input"]["kernel"], rnn["linear_2"]["w"])
    np.testing.assert_array_equal(network["pooled_input"]["bias"], rnn["linear_1"]["b"])
    np.testing.assert_array_equal(network["gates"]["kernel"], rnn["rnn/linear"]["w"])
    np.testing.assert_array_equal(theta["scheduler"]["initial_cell"], tree["lstm_init_state"]["cell"][0])
    kept = sum(leaf.size for leaf in jax.tree.leaves(theta))
    dropped = (18 * 64 + 64) + 65 + 5
    assert kept + dropped == sum(leaf.size for leaf in jax.tree.leaves(tree)) == 37_089


def test_known_files_carry_their_licence(shared_dir):
    for name, _ in FILES.values():
        metadata = convert.published_metadata(shared_dir / "reference" / name)
        assert metadata["license"] == "mit"
        assert "Abhinav Moudgil" in metadata["source"]


def remove(tree):
    del tree["rnn_params"]["linear_1"]["b"]


def add(tree):
    tree["rnn_params"]["linear_3"] = {"b": np.zeros(3, np.float32)}


def reshape(tree):
    tree["ff_mod_stack"]["~"]["w0__3"] = np.zeros((1, 1, 4), np.float32)


def transpose(tree):
    tree["ff_mod_stack"]["~"]["w2"] = tree["ff_mod_stack"]["~"]["w2"].transpose(0, 2, 1)


def double(tree):
    tree["lstm_init_state"]["cell"] = tree["lstm_init_state"]["cell"].astype(np.float64)


def integers(tree):
    tree["lstm_init_state"]["cell"] = tree["lstm_init_state"]["cell"].astype(np.int32)


def number(tree):
    tree["rnn_params"]["step_size"]["b"] = 1.0


def text(tree):
    tree["rnn_params"]["step_size"] = "gone"


def nest(tree):
    tree["rnn_params"]["rnn"] = {"linear": tree["rnn_params"].pop("rnn/linear")}


def infinite(tree):
    tree["rnn_params"]["linear"]["w"][3, 3] = np.inf


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (remove, r"it lacks rnn_params \| linear_1 \| b\.$"),
        (add, r"unknown leaves rnn_params \| linear_3 \| b\.$"),
        (reshape, r"ff_mod_stack \| ~ \| w0__3 has shape \(1, 1, 4\), not \(1, 3, 4\)"),
        (transpose, r"w2 has shape \(1, 3, 4\), not \(1, 4, 3\)"),
        (double, "is an array of float64"),
        (integers, "is an array of int32"),
        (number, "is of type float"),
        (text, "is of type str"),
        (nest, r"it lacks rnn_params \| rnn/linear"),
        (infinite, "not finite"),
    ],
)
def test_another_tree_is_refused(edit, message, tmp_path):
    tree = tree_of("celo")
    edit(tree)
    with pytest.raises(ValueError, match=message):
        celo_zoo.convert_published(write(tree, tmp_path / "theta.state"))


def test_wrong_architecture_is_named(tmp_path):
    path = write(tree_of("celo_adam"), tmp_path / "theta.state")
    with pytest.raises(ValueError, match="holds weights of 'celo_adam', not of 'celo'"):
        celo_zoo.convert_published(path, "celo")
    path = write(tree_of("celo"), tmp_path / "theta.state")
    with pytest.raises(ValueError, match="holds weights of 'celo', not of 'celo_adam'"):
        celo_zoo.convert_published(path, "celo_adam")
    with pytest.raises(ValueError, match="choose from celo, celo_adam"):
        celo_zoo.convert_published(path, "velo")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        celo_zoo.convert_published(tmp_path / "absent", "celo")


def test_truncated_file_is_refused(tmp_path):
    path = write(tree_of("celo"), tmp_path / "theta.state")
    data = path.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"^theta\.state "):
            celo_zoo.convert_published(path)


@pytest.mark.parametrize(
    "data",
    [b"hello, world", b"\x80\x04\x95\x00.", b"\xc1" * 40, b"\x91" * 5000, b"\x01", b"\x81\x01\x02", b"\x80"],
    ids=["text", "pickle", "reserved", "deep", "a number", "number as key", "empty map"],
)
def test_other_files_are_refused(data, tmp_path):
    path = tmp_path / "theta.state"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^theta\.state"):
        celo_zoo.convert_published(path)


def test_large_file_is_refused(tmp_path):
    path = tmp_path / "theta.state"
    path.write_bytes(b"")
    with open(path, "r+b") as file:
        file.truncate(convert.LARGEST_FILE + 1)  # sparse
    with pytest.raises(ValueError, match="larger than"):
        celo_zoo.convert_published(path)
