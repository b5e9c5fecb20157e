"""Model cards: what is known about weights, in Markdown with the YAML front matter that the Hub reads.

Provenance may be any JSON: it is inserted as one line of bounded length, as inline code or as escaped text.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from celo_zoo import card_results, card_template, evaluation, folders, hub, markdown, references
from celo_zoo.errors import FormatError

_HUB = "https://huggingface.co/"
_COST = {
    "iteration": "meta-iterations",
    "inner_steps": "inner training steps",
    "seconds": "seconds",
    "meta_loss": "meta-loss",
}
_DIRECTIONS = {
    "mlp": "the step that a small network makes of every parameter's gradient, momenta and second moments",
    "adam": "Adam's direction with learned weights",
    "orthogonal": "for matrices an orthogonalised momentum",
}
_INPUTS = {
    "time": "the part of the training done",
    "loss": "the loss",
    "horizon": "the planned length of the training",
    "task_embedding": "an embedding of the task",
    "gradient_alignment": "how well gradients agree with their momentum",
    "gain_ratio": "the actual over the predicted decrease of the loss",
    "loss_trend": "the slope and the noise of the loss",
    "relative_step": "the size of the last step",
    "momentum_alignment": "how well gradients agree with their momenta",
    "signal_to_noise": "how much of each momentum is signal",
}
_NETWORKS = {
    "linear": "a linear map",
    "linear_integral": "a linear controller with an integral",
    "lstm": "an LSTM",
    "transformer": "a Transformer",
}
_PRIORS = {"constant": "a constant", "linear_decay": "a linear decay", "cosine": "a cosine decay"}


def _about(architecture: str, config: Mapping[str, Any]) -> str:
    """What an architecture does by its config, in a sentence; empty for an unknown one."""
    if architecture == "celo_adam":
        about = "The direction is Adam's"
    elif architecture == "celo" and (directions := _known(config.get("directions"), _DIRECTIONS)):
        about = f"Steps are the sum of {_listed(directions)}" if len(directions) > 1 else f"Steps are {directions[0]}"
    else:
        return ""
    if config.get("scheduler", {}) is None:
        return f"{about}."
    scheduler = markdown.mapping(config.get("scheduler"))
    prior = "".join(_known([scheduler.get("prior")], _PRIORS)) or "a schedule"
    network = _known([scheduler.get("network")], _NETWORKS)
    if not network:
        return f"{about}. All steps are scaled by {prior}, in which nothing is learned."
    inputs = _listed(_known(scheduler.get("inputs"), _INPUTS)) or "its inputs"
    return f"{about}. All steps are scaled by {prior} times what {network[0]} makes of {inputs}."


def _known(parts: Any, names: Mapping[str, str]) -> list[str]:
    """Descriptions of those parts of a config that have one."""
    kinds = [markdown.mapping(part).get("type") for part in parts] if isinstance(parts, list) else []
    return [names[kind] for kind in kinds if isinstance(kind, str) and kind in names]


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def write_card(document: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, dtype: str = "float32") -> str:
    """The README.md of a folder of weights; the same for the same arguments.

    Args:
      document: content of config.json: ``architecture``, ``config``, ``provenance``, and maybe ``evaluation`` (records, see
        `celo_zoo.evaluation`) and ``repository`` (``owner/name``).
      shapes: shapes of theta's leaves by path.
      dtype: what they are stored in.

    Raises:
      FormatError: the evaluation or the repository does not have the required form.
    """
    provenance, architecture = document["provenance"], document["architecture"]
    records, repository = document.get("evaluation") or [], document.get("repository")
    evaluation.check_all(records)
    if repository is not None and not references.is_repository(repository):
        raise FormatError(f"{markdown.line(repository)!r} is no repository on the Hub: give it as owner/name.")
    title = markdown.line(architecture.replace("_", "-").title())
    licence = markdown.line(provenance.get("license") or "apache-2.0")
    sizes: dict[str, int] = {}
    for path, shape in sorted(shapes.items()):
        part = markdown.code(path.split("/")[0])
        sizes[part] = sizes.get(part, 0) + math.prod(shape)
    parts = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
    config = markdown.mapping(document.get("config"))
    about = (
        f"A learned optimizer of the architecture {markdown.code(architecture)} for [Optax](https://optax.readthedocs.io), with "
        f"{sum(sizes.values()):,} meta-trained values of {markdown.code(dtype)} ({parts}).\n{_about(architecture, config)}"
    )
    inputs = markdown.mapping(config.get("scheduler")).get("inputs")
    embeds = bool(_known(inputs, {"task_embedding": "read"}))
    return card_template.CARD.format(
        front=_front_matter(architecture, repository or title, licence, records),
        title=markdown.plain(title),
        about=about.strip(),
        imports="celo_core, celo_zoo" if embeds else "celo_zoo",
        make=card_template.MAKE.format(
            embed=card_template.EMBED if embeds else "",
            ref=repository or ".",
            keyword=", task_embedding=embedding" if embeds else "",
            what=f'"{repository}@COMMIT" for always the same weights' if repository else "this folder",
        ),
        training=_training(provenance),
        provenance=_provenance(provenance),
        evaluation="\n\n".join([card_results.SCORES, *map(card_results.section, records)])
        if records
        else "Nothing was measured.",
        limits="\n".join(f"- {limit}" for limit in _limits(provenance, bool(records))),
        ref=repository or ".",
        licence=markdown.code(licence),
        cite=f"howpublished = {{{_HUB}{repository}}}" if repository else "note = {SHA-256 of checksums: ...}",
    )


def read_metadata(card: str) -> dict[str, Any]:
    """The front matter of a card, as huggingface_hub reads it.

    Raises:
      FormatError: there is none, it is not valid, or its evaluation results change when they are written again.
    """
    import yaml

    model_card = hub.client("repocard").ModelCard
    folders.check_size(folders.CARD, len(card.encode(errors="replace")), "the model card")
    try:
        parsed = model_card(card)
        front = card[: len(card) - len(parsed.text)]
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(front, Loader=yaml.SafeLoader)):
            raise ValueError("it has aliases")
        metadata = parsed.data.to_dict()
        json.dumps(metadata, allow_nan=False, default=str)
        again = model_card(f"---\n{parsed.data.to_yaml()}\n---\n")
    except (ImportError, MemoryError):  # not of the card
        raise
    except Exception as error:  # of many kinds: the front matter may be anything
        raise FormatError(
            f"the model card's front matter is not valid ({markdown.line(str(error))}): write it again."
        ) from error
    if not metadata:
        raise FormatError("the model card has no front matter: begin it with YAML between two lines of ---.")
    if again.data.get("eval_results") != parsed.data.get("eval_results"):
        raise FormatError("the model card's model-index does not read back the same once written: write it again.")
    return metadata


def _front_matter(architecture: str, name: str, licence: str, records: Sequence[Mapping[str, Any]]) -> str:
    cards = hub.client("repocard_data")
    slug = re.sub(r"[^a-z0-9.-]+", "-", licence.lower()).strip("-.")[:60] or "unknown"
    known = slug == licence.lower()
    results = [
        cards.EvalResult("training-neural-networks", **result)
        for record in records
        for result in card_results.results(record)
    ]
    text: str = cards.ModelCardData(
        license=slug if known else "other",
        license_name=None if known else slug,
        library_name="celo",
        tags=["celo", markdown.line(architecture), "learned-optimizer", "meta-learning", "optax", "jax"],
        model_name=name,
        eval_results=results or None,
    ).to_yaml()
    return text


def _training(provenance: Mapping[str, Any]) -> str:
    names = {"data": "data", "seeds": "random seeds", "hardware": "hardware"}
    lines = [
        f"- {label}: {markdown.code(provenance[key])}"
        for key, label in names.items()
        if provenance.get(key) is not None
    ]
    costs = {"total": provenance, **{f"of {name}": cost for name, cost in markdown.entries(provenance.get("cost"))}}
    for name, cost in costs.items():
        cost = markdown.mapping(cost)
        known = [f"{markdown.figure(cost[key])} {unit}" for key, unit in _COST.items() if cost.get(key) is not None]
        if known:
            lines.append(f"- cost {markdown.plain(name)}: {', '.join(known)}")
    recipe = [
        [markdown.code(key), markdown.code(value)]
        for key, value in markdown.entries(provenance.get("recipe"))
        if value is not None
    ]
    parts = ["\n".join(lines), markdown.table(["recipe", ""], recipe) if recipe else ""]
    return "\n\n".join(filter(None, parts)) or "Nothing was recorded."


def _provenance(provenance: Mapping[str, Any]) -> str:
    keys = ("source", "command", "commit", "commits", "versions", "converted_from")
    lines = [
        f"- {key.replace('_', ' ')}: {markdown.code(provenance[key])}"
        for key in keys
        if provenance.get(key) is not None
    ]
    if not lines:
        return "Nothing was recorded about it."
    return "\n".join(lines) + "\n\nAll that was recorded stands in `config.json` under `provenance`."


def _limits(provenance: Mapping[str, Any], measured: bool) -> list[str]:
    recipe = markdown.mapping(provenance.get("recipe"))
    lengths, seen = "those of its meta-training", "the networks and data of its meta-training"
    problems, estimator = markdown.mapping(recipe.get("problems")), markdown.mapping(recipe.get("estimator"))
    drawn = markdown.mapping(estimator.get("lengths"))
    if drawn.get("minimum") is not None and drawn.get("maximum") is not None:
        bounds = (markdown.figure(drawn[key]) for key in ("minimum", "maximum"))
        lengths = "the {} to {} steps that it was meta-trained for".format(*bounds)
    elif recipe.get("lengths") is not None:
        lengths = f"the {markdown.code(recipe['lengths'])} steps that it was meta-trained for"
    elif recipe.get("min_length") is not None and recipe.get("max_length") is not None:
        lengths = "the {} to {} steps that it was meta-trained for".format(
            *(markdown.figure(recipe[key]) for key in ("min_length", "max_length"))
        )
    networks = recipe.get("networks", provenance.get("networks"))
    if datasets := problems.get("datasets", recipe.get("datasets")):
        seen = f"{seen}, {markdown.code(datasets)}"
    if networks:
        seen += f" with {markdown.code(networks)}"
    limits = [
        f"Horizon: runs much longer than {lengths} are outside of what it has seen and may become unstable.",
        f"Sizes and kinds: models much larger than, or of other kinds than, {seen}, may train badly.",
        "`num_steps` matters: the learned schedule is stretched over it, so give the true number and stop training there.",
    ]
    if not measured:
        limits.append("How good it is compared with a tuned optimizer was not measured.")
    notes = provenance.get("notes")
    return limits + [
        markdown.plain(note) for note in (notes if isinstance(notes, list) else [notes])[: markdown.MOST] if note
    ]
