"""What averaged parameters bring, in the course of a training and at its end: the bundled weights on validation tasks.

    python tools/averages.py --out docs/results/averages.json

At a quarter, half, three quarters and the end of trainings of several lengths, the mean loss on 200 further batches is compared
between the parameters and their averages over several shares of the training (`celo_core.averaged`). Fifteen minutes on a core;
a task that is there already is not trained again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import celo_zoo
from celo_core import averaged, celo, celo_eval_params, files
from celo_tasks.meta_training.validation import VALIDATION_TASKS
from celo_tasks.reporting.machine import hardware, versions

SHARES = (0.005, 0.0125, 0.025, 0.05)
MOMENTS = (0.25, 0.5, 0.75, 1.0)
BATCHES = 200


def losses(family: Any, weights: celo_zoo.Pretrained, num_steps: int, seed: int) -> dict[str, list[float]]:
    """Mean losses at the moments: of the parameters, and of their averages over each share."""
    data = jax.tree.map(jnp.asarray, family.load())
    key_task, key_init, key_steps, key_batches, key_loss = jax.random.split(jax.random.key(seed), 5)
    config = family.sample(key_task)

    @jax.jit
    def run(keys: Any, batches: Any) -> Any:
        optimizer = celo(weights.theta, num_steps, config=weights.config)
        # The same trajectory under each: an average has no effect on updates.
        for share in SHARES:
            optimizer = averaged(optimizer, num_steps, share)
        params, model_state = family.init(key_init, config)

        def body(carry: Any, key: Any) -> tuple[Any, None]:
            params, model_state, state = carry
            key_batch, key_one = jax.random.split(key)
            loss = lambda p: family.loss(p, model_state, key_one, config, family.batch(key_batch, config, data))
            (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(gradient, state, params, value=value)
            return (optax.apply_updates(params, updates), model_state, state), None

        def evaluated(params: Any, model_state: Any) -> Any:
            one = lambda key: family.loss(params, model_state, key_loss, config, family.batch(key, config, data))[0]
            return jnp.mean(jax.lax.map(one, batches))

        carry: Any = (params, model_state, optimizer.init(params))
        found, done = [], 0
        for moment in MOMENTS:
            until = int(moment * num_steps)
            carry, _ = jax.lax.scan(body, carry, keys[done:until])
            done, (params, model_state, state) = until, carry
            candidates = [params]
            for _ in SHARES:
                # The outermost is that of the last share.
                candidates.append(celo_eval_params(state, params))
                state = state.inner
            found.append(jnp.stack([evaluated(p, model_state) for p in candidates]))
        return jnp.stack(found)

    result = np.asarray(run(jax.random.split(key_steps, num_steps), jax.random.split(key_batches, BATCHES)))
    names = ["parameters", *(f"{share:g}" for share in reversed(SHARES))]
    return {name: [float(x) for x in result[:, n]] for n, name in enumerate(names)}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--lengths", default="300,1000,3000", help="steps of the trainings (300,1000,3000)")
    parser.add_argument("--weights", default="celo", metavar="REF", help="name or folder of weights (celo)")
    options = parser.parse_args()
    weights = celo_zoo.load(options.weights)
    document: dict[str, Any] = {"moments": MOMENTS, "shares": SHARES, "batches": BATCHES, "losses": {}}
    if options.out.exists():
        document["losses"] = json.loads(options.out.read_text())["losses"]
    document |= {
        "command": f"python tools/averages.py --out {options.out} --lengths {options.lengths}",
        "weights": options.weights,
    }
    for name, (_, make) in VALIDATION_TASKS.items():
        for length in (int(n) for n in options.lengths.split(",")):
            label = f"{name}, {length} steps"
            if label in document["losses"]:
                continue
            document["losses"][label] = losses(make(), weights, length, seed=0)
            files.write_json(options.out, document | {"machine": hardware(), "versions": versions()})
            print(label, flush=True)


if __name__ == "__main__":
    main()
