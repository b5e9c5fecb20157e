"""Evaluation tasks and suites: `celo_tasks.tasks.registry` knows them by name."""
