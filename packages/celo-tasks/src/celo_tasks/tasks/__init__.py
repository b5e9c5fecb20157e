"""Evaluation tasks and suites, one decorated function a task; `celo_tasks.tasks.registry` knows them by name."""

from celo_tasks.tasks.entries import TaskEntry as TaskEntry
from celo_tasks.tasks.entries import task as task
