"""Model cards: what is known about weights, in Markdown with the YAML front matter that the Hub reads."""

import json
import math
from collections.abc import Mapping
from typing import Any

_TEMPLATE = """\
---
license: {license}
library_name: celo
tags:
{tags}
---

# {title}

A learned optimizer of the architecture `{architecture}` with {values:,} meta-trained values, for
[Optax](https://optax.readthedocs.io). It has no learning rate to tune: it takes the planned number of training steps,
and at every step the loss.

## Use

```python
import celo_zoo

tx = celo_zoo.optimizer("path/to/this/folder", num_steps=1000)  # or "owner/repo@commit" on the Hub
state = tx.init(params)
updates, state = tx.update(grads, state, params, value=loss)
```

`celo-zoo verify path/to/this/folder` compares every file with `checksums`.

## Where the weights come from

{provenance}

## Known limits

{limits}
"""

_FIELDS = {
    "source": "source",
    "command": "command",
    "commit": "commit",
    "data": "data",
    "seeds": "random seeds",
    "seconds": "meta-training time in seconds",
    "inner_steps": "inner training steps",
    "hardware": "hardware",
    "versions": "versions",
}


def write_card(document: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The model card.

    Args:
      document: content of config.json.
      shapes: shapes of theta's leaves by path.
    """
    provenance = document["provenance"]
    architecture = document["architecture"]
    tags = dict.fromkeys(["celo", architecture, "learned-optimizer", "meta-learning", "optax", "jax"])
    return _TEMPLATE.format(
        license=_yaml(provenance.get("license", "apache-2.0")),
        tags="\n".join(f"- {_yaml(tag)}" for tag in tags),
        title=architecture.replace("_", "-").title(),
        architecture=architecture,
        values=sum(math.prod(shape) for shape in shapes.values()),
        provenance=_provenance(provenance),
        limits="\n".join(f"- {limit}" for limit in _limits(provenance)),
    )


def _yaml(value: Any) -> str:
    """A YAML scalar; JSON strings are YAML, and plain words need no quotes."""
    text = str(value)
    return text if text.replace("-", "").replace(".", "").replace("_", "").isalpha() else json.dumps(text)


def _code(value: Any) -> str:
    """A value as inline code, which no content can break out of."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def _provenance(provenance: Mapping[str, Any]) -> str:
    rows = [f"- {label}: {_code(provenance[key])}" for key, label in _FIELDS.items() if provenance.get(key) is not None]
    if not rows:
        return "Nothing was recorded about it."
    return "\n".join(rows) + "\n\nAll that was recorded stands in `config.json` under `provenance`."


def _limits(provenance: Mapping[str, Any]) -> list[str]:
    recipe = provenance.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    limits = []
    if "min_length" in recipe and "max_length" in recipe:
        limits.append(
            f"Meta-trained on problems of {recipe['min_length']} to {recipe['max_length']} steps; much longer runs are "
            "outside of what it has seen and may become unstable."
        )
    else:
        limits.append(
            "Runs much longer than those of its meta-training are outside of what it has seen and may become unstable."
        )
    if datasets := recipe.get("datasets"):
        limits.append(f"Meta-trained on {_code(datasets)} only; models much larger than those may train badly.")
    else:
        limits.append("Models much larger than those of its meta-training may train badly.")
    limits.append("`num_steps` matters: the learned schedule is stretched over it, so stop training there.")
    notes = provenance.get("notes")
    # One line each, so that a note cannot add headings or front matter of its own.
    limits += [" ".join(str(note).split()) for note in notes] if isinstance(notes, list) else []
    return limits
