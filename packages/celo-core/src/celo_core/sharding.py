"""Updates on meshes with explicit axes, the default of `jax.make_mesh`: results are sharded as the arguments are.

On such a mesh every array's type includes its sharding, and operations with an ambiguous result (a reshape, a stack, a matrix
product) raise an error. An update has many of them, but the shardings of its results are known: those of its arguments. So it
is computed with automatic axes, and the results get the shardings of the gradients and of the old state.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding


def explicit(x: Any) -> Any:
    """The `NamedSharding` of an array on a mesh with an explicit axis, or ``None``."""
    found = getattr(jax.typeof(x), "sharding", None)
    return None if found is None or AxisType.Explicit not in found.mesh.axis_types else found


def explicit_key(tree: Any) -> Hashable:
    """Key that tensors must share to be stacked: their shardings, or ``None`` where none is explicit."""
    found = tuple(explicit(x) for x in jax.tree.leaves(tree))
    return None if all(x is None for x in found) else tuple(None if x is None else x.spec for x in found)


class KeepsShardings:
    """An update whose results are sharded as its arguments are, also where axes of the mesh are explicit.

    Args:
      update: ``(updates, state, params, value, static) -> (updates, state)``.
    """

    def __init__(self, update: Callable[..., tuple[Any, Any]]) -> None:
        self._update = update
        self._compiled: dict[Hashable, Callable[..., tuple[Any, Any]]] = {}

    def __call__(self, updates: Any, state: Any, params: Any, value: Any, static: Hashable) -> tuple[Any, Any]:
        """Calls the update; the results have the structures of ``updates`` and ``state``."""
        leaves = jax.tree.leaves((updates, state, params))
        found = [sharding for x in leaves if (sharding := explicit(x)) is not None]
        if not found:
            return self._update(updates, state, params, value, static)
        mesh = found[0].mesh
        of = lambda x: NamedSharding(mesh, jax.typeof(x).sharding.spec)
        shardings = jax.tree.map(of, (updates, state))
        update = lambda updates, state, params, value: self._update(updates, state, params, value, static)
        automatic = jax.sharding.auto_axes(update, out_sharding=shardings)
        if any(isinstance(x, jax.core.Tracer) for x in [*leaves, value]):
            return automatic(updates, state, params, value)
        # Automatic axes exist inside a trace only.
        key = (static, jax.tree.structure(shardings), tuple(jax.tree.leaves(shardings)))
        if key not in self._compiled:
            self._compiled[key] = jax.jit(automatic)
        return self._compiled[key](updates, state, params, value)
