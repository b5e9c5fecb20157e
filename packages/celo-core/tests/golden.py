"""Reading the vectors of the reference implementation: the map from its meta-parameters to ours, and its states."""

import numpy as np

LEAVES = ("conv", "mat", "scalar", "sq", "t3", "vec")


def theta_from_reference(data, rule=True, scheduler=True):
    """Our theta from the reference's arrays ``theta/...``.

    The first layer is stored group by group and its rows are concatenated in order. The third output of the network, an input
    layer (``linear``) and ``rnn_to_controls`` are unused.
    """
    get = lambda name: data[f"theta/{name}"]
    dense = lambda name: {"kernel": get(f"rnn_params/{name}/w"), "bias": get(f"rnn_params/{name}/b")}
    theta = {}
    if rule:
        layer = lambda name: get(f"ff_mod_stack/~/{name}")[0]
        network = {
            "hidden_0": {"kernel": np.concatenate([layer(f"w0__{i}") for i in range(14)]), "bias": layer("b0")},
            "hidden_1": {"kernel": layer("w1"), "bias": layer("b1")},
            "output": {"kernel": layer("w2")[:, :2], "bias": layer("b2")[:2]},
        }
        theta["update_rule"] = {"mlp": network}
    if scheduler:
        theta["scheduler"] = {
            "input": dense("linear_2"),
            "pooled_input": dense("linear_1"),
            "gates": dense("rnn/linear"),
            "step_size": dense("step_size"),
            "initial_hidden": get("lstm_init_state/hidden")[0],
            "initial_cell": get("lstm_init_state/cell")[0],
        }
    return theta


def trajectory(data):
    """Initial parameters, and per step the gradients and the loss."""
    init = {name: data[f"init/{name}"] for name in LEAVES}
    grads = {name: data[f"grads/{name}"] for name in LEAVES}
    losses = data["loss"]
    return init, [({name: grads[name][i] for name in LEAVES}, losses[i]) for i in range(len(losses))]
