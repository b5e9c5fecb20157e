"""Meta-training: recipes, families of problems, the run itself, validation and monitoring of it."""
