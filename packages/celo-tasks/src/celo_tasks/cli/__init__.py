"""The command ``celo-tasks``: `celo_tasks.cli.main` and what it is made of."""
