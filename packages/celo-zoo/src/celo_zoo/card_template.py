"""The fixed text of a model card, with places for `str.format`."""

MAKE = '{embed}tx = celo_zoo.optimizer("{ref}", num_steps=50{keyword})  # {what}'
EMBED = """\
loss, grads = jax.value_and_grad(loss_fn)(params)
embedding = celo_core.task_embedding(params, loss, grads, num_steps=50)
"""
CARD = """\
---
{front}
---

# {title}

{about}

## Use

```python
import {imports}
import jax, jax.numpy as jnp, optax

keys = jax.random.split(jax.random.key(0), 3)
inputs = jax.random.normal(keys[0], (64, 8))
targets = jnp.sin(inputs.sum(axis=1, keepdims=True))
params = {{"hidden": jax.random.normal(keys[1], (8, 32)) / 3, "output": jax.random.normal(keys[2], (32, 1)) / 6}}


def loss_fn(params):
    return jnp.mean((jnp.tanh(inputs @ params["hidden"]) @ params["output"] - targets) ** 2)


{make}
state = tx.init(params)


@jax.jit
def step(params, state):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = tx.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss


losses = []
for _ in range(50):
    params, state, loss = step(params, state)
    losses.append(float(loss))
print(f"first loss {{losses[0]:.4f}}, last loss {{losses[-1]:.4f}}")
```

There is no learning rate to tune: the optimizer takes the planned number of steps, and at every step the loss.

## Meta-training

{training}

## Provenance

{provenance}

## Evaluation

{evaluation}

## Known limits

{limits}

## Verify

`celo-zoo verify {ref}` compares the SHA-256 of every file with `checksums`, and checks names, shapes and finiteness;
so does every loading. `sha256sum -c checksums` compares the files alone. The SHA-256 of `checksums`, which `celo-zoo show`
prints, stands for all of them. None of this tells who the writer was.

## Licence

The weights' licence: {licence}.

## Citation

```bibtex
@misc{{moudgil2025celo,
  title = {{Celo: Training Versatile Learned Optimizers on a Compute Diet}},
  author = {{Moudgil, Abhinav and Knyazev, Boris and Lajoie, Guillaume and Belilovsky, Eugene}},
  year = {{2025}},
  eprint = {{2501.12670}},
  archivePrefix = {{arXiv}}
}}
@misc{{celo-weights,
  title = {{{title}: weights of a learned optimizer}},
  {cite}
}}
```
"""
