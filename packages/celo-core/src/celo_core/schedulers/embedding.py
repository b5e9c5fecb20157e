"""Task embedding: what is known about a training problem before its first step, as one short vector.

A scheduler that reads it can choose its step sizes by the size of the network and the scale of its gradients, which the time
and loss inputs reveal late or not at all.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.protocols import TaskFamily

Array = jax.Array

EMBEDDING_NAMES = (
    "log_num_parameters",
    "log_num_tensors",
    "log_num_scalars",
    "log_num_vectors",
    "log_num_matrices",
    "log_num_rank_3",
    "log_num_rank_4_or_more",
    "log_largest_tensor",
    "log_smallest_tensor",
    "log_num_steps",
    "normalized_loss",
    "log_loss",
    "log_gradient_norm",
    "mean_log_gradient_rms",
    "std_log_gradient_rms",
    "log_gradient_to_parameter_ratio",
)
"""Entries of `task_embedding`, in the order of the rows of a scheduler's kernel. It is a format: entries are only appended."""

EMBEDDING_SIZE = len(EMBEDDING_NAMES)

EMBEDDING_BOUND = 3.0
"""Every entry is clipped to plus or minus this."""

_CENTERS = (10.0, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0, 8.0, 4.0, 7.0, 0.0, 0.0, 0.0, -6.0, 1.0, -2.0)
_SCALES = (4.0, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 4.0, 3.0, 2.0, 1.0, 4.0, 4.0, 4.0, 1.0, 4.0)
_LARGEST = 1e15  # its square is finite in float32
_SMALLEST = 1e-12  # lower bound on arguments of logarithms


def task_embedding(
    params: Any,
    loss: Any,
    gradients: Any,
    num_steps: Any,
    *,
    normalized_loss: Any = None,
    sizes: Any = None,
) -> Array:
    """The embedding of a task, from its first batch.

    With T tensors of n_t elements, parameters p, gradients g, ``n = sum n_t``, ``r_t = sqrt(sum g_t^2 / n_t)``, entry i is
    ``clip((x_i - c_i) / s_i, -3, 3)``:

    ==  ===============================  ========================================  =====  ====
    i   name                             x_i                                       c_i    s_i
    ==  ===============================  ========================================  =====  ====
    0   log_num_parameters               log(1 + n)                                10     4
    1   log_num_tensors                  log(1 + T)                                2.5    1.5
    2   log_num_scalars                  log(1 + tensors of rank 0)                1      1.5
    3   log_num_vectors                  log(1 + tensors of rank 1)                1      1.5
    4   log_num_matrices                 log(1 + tensors of rank 2)                1      1.5
    5   log_num_rank_3                   log(1 + tensors of rank 3)                1      1.5
    6   log_num_rank_4_or_more           log(1 + tensors of rank 4 or more)        1      1.5
    7   log_largest_tensor               log(1 + max n_t)                          8      4
    8   log_smallest_tensor              log(1 + min n_t)                          4      3
    9   log_num_steps                    log max(num_steps, 1)                     7      2
    10  normalized_loss                  l / (1 + abs(l)), l the normalised loss   0      1
    11  log_loss                         log max(abs(loss), 1e-12)                 0      4
    12  log_gradient_norm                log max(norm of g, 1e-12)                 0      4
    13  mean_log_gradient_rms            mean over tensors of log max(r_t, 1e-12)  -6     4
    14  std_log_gradient_rms             standard deviation of the same            1      1
    15  log_gradient_to_parameter_ratio  log(norm of g / norm of p), each at       -2     4
                                         least 1e-12
    ==  ===============================  ========================================  =====  ====

    The centres and scales put networks of a thousand to a hundred million parameters within plus or minus 1.5 or so. Tensors
    without elements are left out; without tensors, sums, extremes, mean and standard deviation are 0. The result is finite
    for any input: a NaN in a loss counts as the largest loss, a NaN in a parameter or gradient as zero, and parameters and
    gradients are limited to plus or minus 1e15.

    Args:
      params: parameters before the first step, a tree of arrays.
      loss: loss of the first batch, a scalar.
      gradients: its gradients, a tree like ``params``.
      num_steps: planned length of training, a scalar, possibly traced.
      normalized_loss: the loss as the task's family normalises it; by default the loss itself.
      sizes: a tree like ``params`` of the numbers of elements in use, for tensors that are used in part; what is not in use
        must be zero in ``params`` and ``gradients``. By default all are in use.

    Returns:
      float32 (EMBEDDING_SIZE,), in the order of `EMBEDDING_NAMES`.

    Raises:
      ValueError: ``gradients`` or ``sizes`` is not a tree like ``params``.
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    for name, tree in (("gradients", gradients), ("sizes", sizes)):
        if tree is not None and jax.tree.structure(tree) != treedef:
            raise ValueError(f"{name} must be a tree like the parameters, {treedef}, not {jax.tree.structure(tree)}.")
    counts = [np.size(leaf) for leaf in leaves] if sizes is None else jax.tree.leaves(sizes)
    used = jnp.stack([jnp.asarray(count, jnp.float32) for count in counts]) if leaves else jnp.zeros((0,), jnp.float32)
    loss = _finite_loss(loss)
    normalized = loss if normalized_loss is None else _finite_loss(normalized_loss)
    values = [
        *_size_entries(used, [np.ndim(leaf) for leaf in leaves]),
        jnp.log(jnp.maximum(jnp.nan_to_num(jnp.asarray(num_steps, jnp.float32)), 1.0)),
        normalized / (1.0 + jnp.abs(normalized)),
        _log(jnp.abs(loss)),
        *_gradient_entries(used, _sums_of_squares(leaves), _sums_of_squares(jax.tree.leaves(gradients))),
    ]
    entries = (jnp.stack(values) - jnp.asarray(_CENTERS, jnp.float32)) / jnp.asarray(_SCALES, jnp.float32)
    return jnp.clip(entries, -EMBEDDING_BOUND, EMBEDDING_BOUND)


def _size_entries(used: Array, ranks: Sequence[int]) -> list[Array]:
    present = used > 0
    numbers = [
        jnp.sum(used),
        jnp.sum(present),
        *(jnp.sum(present & (np.minimum(np.asarray(ranks, np.int32), 4) == rank)) for rank in range(5)),
        jnp.max(used, initial=0.0),
        jnp.where(jnp.any(present), jnp.min(jnp.where(present, used, jnp.inf), initial=jnp.inf), 0.0),
    ]
    return [jnp.log1p(jnp.asarray(number, jnp.float32)) for number in numbers]


def _gradient_entries(used: Array, parameter_squares: Array, gradient_squares: Array) -> list[Array]:
    """Entries from sums of squares per tensor, float32 (T,)."""
    present = used > 0
    number = jnp.maximum(jnp.sum(present), 1)
    logs = jnp.where(present, _log(jnp.sqrt(gradient_squares / jnp.maximum(used, 1.0))), 0.0)
    mean = jnp.sum(logs) / number
    variance = jnp.sum(jnp.where(present, jnp.square(logs - mean), 0.0)) / number
    norm, parameter_norm = _log(jnp.sqrt(jnp.sum(gradient_squares))), _log(jnp.sqrt(jnp.sum(parameter_squares)))
    return [norm, mean, jnp.sqrt(variance), norm - parameter_norm]


def _log(x: Array) -> Array:
    return jnp.log(jnp.clip(x, _SMALLEST, _LARGEST))


def _finite_loss(loss: Any) -> Array:
    return jnp.clip(jnp.nan_to_num(jnp.asarray(loss, jnp.float32), nan=_LARGEST), -_LARGEST, _LARGEST)


def _sums_of_squares(leaves: Sequence[Any]) -> Array:
    """float32 (len(leaves),)."""
    finite = [jnp.clip(jnp.nan_to_num(jnp.asarray(x).astype(jnp.float32)), -_LARGEST, _LARGEST) for x in leaves]
    return jnp.stack([jnp.sum(jnp.square(x)) for x in finite]) if finite else jnp.zeros((0,), jnp.float32)


def embed_initialization(
    family: TaskFamily, key: Array, params: Any, model_state: Any, config: Any, data: Any, num_steps: Any
) -> Array:
    """The embedding of a network that is about to be trained, from one batch drawn by ``key``.

    Returns:
      float32 (EMBEDDING_SIZE,).
    """
    key_batch, key_loss = jax.random.split(key)
    batch = family.batch(key_batch, config, data)
    loss, gradients = jax.value_and_grad(lambda p: family.loss(p, model_state, key_loss, config, batch)[0])(params)
    return task_embedding(
        params,
        loss,
        gradients,
        num_steps,
        normalized_loss=family.normalizer(loss),
        sizes=family.active_sizes(config),
    )


def embed_task(family: TaskFamily, key: Array, config: Any, data: Any, num_steps: Any) -> Array:
    """The embedding of a task, from a network and a batch drawn by ``key``.

    Args:
      family: the family that the task was sampled from.
      key: PRNG key for the network and the batch.
      config: task config from ``family.sample``.
      data: what ``family.load`` returned.
      num_steps: planned length of training, a scalar, possibly traced.

    Returns:
      float32 (EMBEDDING_SIZE,); pure under jit and vmap.
    """
    key_init, key_embed = jax.random.split(key)
    params, model_state = family.init(key_init, config)
    return embed_initialization(family, key_embed, params, model_state, config, data, num_steps)


def check_task_embedding(embedding: Any, wanted: bool) -> Array | None:
    """The embedding as float32 (EMBEDDING_SIZE,), or ``None`` where it is not needed.

    Raises:
      ValueError: it is needed and missing, or has another shape.
    """
    if not wanted:
        return None
    how = "task_embedding=celo_core.task_embedding(params, loss, gradients, num_steps), from the first batch"
    if embedding is None:
        raise ValueError(f"this config's scheduler reads a task embedding: build the optimizer with {how}.")
    if np.shape(embedding) != (EMBEDDING_SIZE,):
        raise ValueError(
            f"a task embedding has shape ({EMBEDDING_SIZE},), not {np.shape(embedding)}: build the optimizer with {how}."
        )
    return jnp.asarray(embedding, jnp.float32)
