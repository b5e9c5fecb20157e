"""Tasks with their data on the device, and what tells one task from another."""

import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from celo_core import TaskFamily
from celo_tasks.evaluation.program import parameter_count
from celo_tasks.families.held_out import HeldOut
from celo_tasks.tasks.registry import find_task

Array = jax.Array


class LoadedTask(NamedTuple):
    """A task with its data on the device.

    Attributes:
      family: the task.
      dataset: name of its data set.
      identity: changes with the task's definition or its data.
      data: on the device.
      held_out: held-out data, or ``None`` where there is none.
      parameters: trained numbers.
    """

    family: TaskFamily
    dataset: str
    identity: str
    data: Any
    held_out: Any
    parameters: int


def load_task(name: str, data_dir: str | None) -> LoadedTask:
    """Makes a task and loads its data; errors as `celo_tasks.tasks.registry.TaskEntry.make`."""
    entry = find_task(name)
    family = entry.make(data_dir)
    data = family.load()
    held_out = family.load_held_out() if isinstance(family, HeldOut) else None
    return LoadedTask(
        family,
        str(entry.dataset(data_dir)),
        identity(family, data),
        jax.device_put(data),
        held_out,
        parameter_count(family),
    )


@functools.cache
def task_identity(name: str, data_dir: str | None) -> str:
    """A task's `identity` on the data that are here; they are read once. Errors as `load_task`."""
    family = find_task(name).make(data_dir)
    return identity(family, family.load())


def identity(family: Any, data: Any) -> str:
    """A digest of a task's definition and data: the same wherever the data lie, and in every version of the libraries."""
    digest = hashlib.sha256(repr(_definition(family)).encode())
    for path, leaf in jax.tree.leaves_with_path(data):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _definition(value: Any) -> Any:
    """What a family or network is made of; what has its default value is left out, so that new options change nothing."""
    if not dataclasses.is_dataclass(value):
        return tuple(map(_definition, value)) if isinstance(value, list | tuple) else value
    places = ("data_dir", "parent", "name")  # a flax module's parent and name say where it stands, not what it is
    fields = {field.name: field.default for field in dataclasses.fields(value) if field.name not in places}
    given = {name: getattr(value, name) for name in fields}
    return type(value).__name__, {name: _definition(x) for name, x in given.items() if x != fields[name]}
