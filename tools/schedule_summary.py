"""What the records of schedule_labels.py say: the best heights, what fixed ones lose, and how well signals tell the best.

Called by ``python tools/schedule_labels.py --out DIR --summary``, which writes summary.md and summary.png there.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from schedule_records import LARGEST_REGRET, Labels, read

from celo_core import files
from celo_tasks.evaluation.scores import SMALLEST_LOSS
from celo_tasks.reporting.figures import png, tidy

Floats = NDArray[np.floating]

OBSERVED = 0.5
"""Height of the trainings whose signals are judged."""

FOLDS = 8
RIDGE = 1.0
SHARES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
MOMENTS = (0.03, 0.05, 0.1, 0.2, 0.3)


def _groups(labels: Labels) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Names of groups of trainings, and which are in them."""
    yield "all", np.ones(len(labels.tasks), bool)
    for length in np.unique(labels.lengths):
        yield f"{length:,} steps", labels.lengths == length
    column = lambda name: np.array([described[name] for described in labels.described])
    shapes = column("shape")
    for shape in dict.fromkeys(shapes):
        size = int(np.median(column("parameters")[shapes == shape]))
        yield f"{shape} ({size:,} parameters)", shapes == shape
    names = {
        "inputs": "inputs",
        "augmentation": "augmentation",
        "batch_size": "batch of",
        "wrong_labels": "wrong labels",
        "target_scale": "targets times",
        "few_examples": "few examples",
    }
    for name, text in names.items():
        values = column(name)
        chosen = np.ones(len(values), bool)
        if name == "target_scale":
            chosen = np.array([shape.startswith("regression") for shape in shapes])
        for value in np.unique(values[chosen]):
            yield f"{text} {value}", chosen & (values == value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _best_heights(labels: Labels) -> str:
    regrets, best = labels.regrets, labels.best
    rows = []
    for name, chosen in _groups(labels):
        if not chosen.any():
            continue
        low, middle, high = 2.0 ** np.quantile(best[chosen], [0.25, 0.5, 0.75])
        mean = regrets[chosen].mean(axis=0)
        fixed = int(np.argmin(mean))
        edge = np.mean((best[chosen] == best_of(labels, 0)) | (best[chosen] == best_of(labels, -1)))
        one, half = (regrets[chosen, labels.at(height)].mean() for height in (1.0, 0.5))
        of_fixed = f"{labels.heights[fixed]:.3g}: {mean[fixed]:.3f}"
        numbers = [f"{middle:.2g} ({low:.2g}-{high:.2g})", f"{one:.3f}", f"{half:.3f}", of_fixed, f"{100 * edge:.0f} %"]
        rows.append([name, str(int(chosen.sum())), *numbers])
    head = [
        "",
        "trainings",
        "best height, median (quartiles)",
        "regret at 1",
        "at 1/2",
        "at the best fixed",
        "at an edge",
    ]
    return _table(head, rows)


def best_of(labels: Labels, place: int) -> float:
    """Binary logarithm of a height by its place."""
    return float(np.log2(labels.heights[place]))


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation."""
    a, b = _ranks(a), _ranks(b)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _alike(name: str, values: Floats) -> Floats:
    """Values of a signal such that equal differences mean about as much."""
    unit = {"rho": 0.01, "slope": 1.0}.get(name.split("_")[0])
    return values if unit is None else np.arcsinh(values / unit)


def _features(labels: Labels, names: Sequence[str], moment: int, height: int) -> Floats:
    """Signals at a moment, made alike in size, and time; (N, features)."""
    columns = []
    for name in names:
        columns.append(_alike(name, labels.signal(name, height, moment)))
    return np.stack([*columns, np.log(labels.lengths)], axis=1)


def chosen_regrets(labels: Labels, features: Floats) -> Floats:
    """Regrets of the heights that are chosen from features, each by the trainings of other tasks, (N,).

    A kernel ridge regression with a Gaussian kernel predicts the regret at every height, and the least is chosen: what does
    not matter for the losses does not matter here. With no features it is the best fixed height.
    """
    regrets = labels.regrets
    fold = labels.tasks % FOLDS
    result = np.empty(len(labels.tasks))
    for number in range(FOLDS):
        seen, new = fold != number, fold == number
        if not new.any():
            continue
        if not seen.any():
            seen = new
        mean, spread = features[seen].mean(axis=0), features[seen].std(axis=0) + 1e-9
        x, y = (np.clip((features[rows] - mean) / spread, -3, 3) for rows in (seen, new))
        width = 2.0 * max(1, features.shape[1])
        kernel = lambda a, b, w=width: np.exp(-np.sum((a[:, None] - b[None]) ** 2, axis=-1) / w)
        middle = regrets[seen].mean(axis=0)
        weights = np.linalg.solve(kernel(x, x) + RIDGE * np.eye(len(x)), regrets[seen] - middle)
        predicted = kernel(y, x) @ weights + middle
        result[new] = regrets[new, np.argmin(predicted, axis=1)]
    return result


RHO = ("rho_short", "rho_long")


def _feature_sets(labels: Labels, moment: int, height: int) -> dict[str, Floats]:
    of = lambda names: _features(labels, names, moment, height)
    return {
        "rho": of(RHO),
        "rho and cos": of([*RHO, "cos_short", "cos_long"]),
        "all signals": of(labels.names),
        "all signals and embedding": np.concatenate([of(labels.names), labels.embeddings], axis=1),
    }


def _prediction(labels: Labels) -> tuple[str, dict[str, Floats], dict[str, float]]:
    """The table, mean regrets at every moment by features, and those that need no signal."""
    height = labels.at(OBSERVED)
    moments = range(len(labels.fractions))
    sets = {moment: _feature_sets(labels, moment, height) for moment in moments}
    found = {
        name: np.array([chosen_regrets(labels, sets[moment][name]).mean() for moment in moments]) for name in sets[0]
    }
    regrets = labels.regrets
    lengths = np.log(labels.lengths)[:, None].astype(np.float64)
    known = {
        "height 1": float(regrets[:, labels.at(1.0)].mean()),
        "height 1/2": float(regrets[:, labels.at(0.5)].mean()),
        "best fixed": float(regrets.mean(axis=0).min()),
        "length alone": float(chosen_regrets(labels, lengths).mean()),
        "embedding": float(chosen_regrets(labels, labels.embeddings).mean()),
    }
    places = [labels.moment(share) for share in MOMENTS]
    rows = [[name, *[f"{value:.3f}"] * len(places)] for name, value in known.items()]
    rows += [[f"{name}, so far", *(f"{values[place]:.3f}" for place in places)] for name, values in found.items()]
    head = ["chosen by", *(f"after {labels.fractions[place]:.3g}" for place in places)]
    return _table(head, rows), found, known


def _correlations(labels: Labels) -> dict[str, Floats]:
    """Rank correlations of signals with the best height at every moment, by name."""
    height, best = labels.at(OBSERVED), labels.best
    moments = range(len(labels.fractions))
    return {
        name: np.array([correlation(labels.signal(name, height, moment), best) for moment in moments])
        for name in labels.names
    }


def controlled_regrets(labels: Labels, name: str, moment: int) -> Floats:
    """Regrets of the heights that a controller might reach which brings a signal to a target at a moment, (N,).

    A height's cost is the squared distance of the signal from the target, in standard deviations of what it is at the best
    heights, and a share of the squared binary logarithm of the height over the best fixed one. Target and share, constants
    for all, are those that are best for the trainings of other tasks.
    """
    every, fold, regrets = np.arange(len(labels.tasks)), labels.tasks % FOLDS, labels.regrets
    columns = [_alike(name, labels.signal(name, place, moment)) for place in range(len(labels.heights))]
    values = np.stack(columns, axis=1)
    at_best = values[every, np.argmin(labels.final, axis=1)]
    fixed = labels.heights[np.argmin(regrets.mean(axis=0))]
    away = np.square(np.log2(labels.heights / fixed))
    found = []
    for target in np.quantile(at_best, np.linspace(0.05, 0.95, 19)):
        distance = np.square((values - target) / (at_best.std() + 1e-9))
        found += [regrets[every, np.argmin(distance + share * away, axis=1)] for share in SHARES]
    table, result = np.stack(found), np.empty(len(every))
    for number in np.unique(fold):
        seen = fold != number if (fold != number).any() else fold == number
        result[fold == number] = table[np.argmin(table[:, seen].mean(axis=1)), fold == number]
    return result


def _control(labels: Labels) -> str:
    places = [labels.moment(share) for share in MOMENTS]
    regret = lambda name, place: f"{controlled_regrets(labels, name, place).mean():.3f}"
    rows = [[name, *(regret(name, place) for place in places)] for name in labels.names]
    return _table(["signal brought to a target", *(f"after {share:g}" for share in MOMENTS)], rows)


def _pooled(labels: Labels, name: str, moment: int) -> float:
    """Rank correlation of a signal at all heights within a factor of four of the best with the ratio of the best to them."""
    ratios = labels.best[:, None] - np.log2(labels.heights)
    values = np.stack([labels.signal(name, place, moment) for place in range(len(labels.heights))], axis=1)
    near = np.abs(ratios) <= 2.0
    return correlation(values[near], ratios[near])


def _at_best(labels: Labels) -> str:
    """Table of rho around the best height."""
    best = np.argmin(labels.final, axis=1)
    octave = round(1.0 / float(np.median(np.diff(np.log2(labels.heights)))))
    rows = []
    for octaves in (-2, -1, 0, 1, 2):
        place = best + octaves * octave
        inside = (place >= 0) & (place < len(labels.heights))
        cells = []
        for share in MOMENTS:
            of = labels.signal("rho_long", np.clip(place, 0, len(labels.heights) - 1), labels.moment(share))[inside]
            low, middle, high = np.quantile(of, [0.25, 0.5, 0.75]) if inside.any() else (np.nan,) * 3
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        rows.append([f"{2.0**octaves:g}", *cells])
    return _table(["times the best height", *(f"after {share:g}" for share in MOMENTS)], rows)


def _noise(labels: Labels) -> str:
    """How exact the labels are: by further batches, by neighbouring heights, by shorter trainings."""
    step = abs(best_of(labels, 1) - best_of(labels, 0))
    other = np.log2(labels.heights)[np.argmin(labels.settled, axis=1)]
    near = np.mean(np.abs(other - labels.best) <= 1.01 * step)
    logs = np.log(np.maximum(labels.final, SMALLEST_LOSS))
    regrets, every = labels.regrets, np.arange(len(logs))
    neighbours = regrets[every, 1 + np.argmin(logs[:, :-2] + logs[:, 2:], axis=1)].mean()
    lines = [
        f"* The best height by the final training loss and that by the trained networks' loss on further batches are the same "
        f"or neighbours in {100 * near:.0f} % of trainings.",
        f"* The height whose two neighbours have the least mean log loss has a regret of {neighbours:.3f}: so much of the regrets "
        f"below may be the luck of single trainings and the nearness of divergence.",
    ]
    place = {pair: row for row, pair in enumerate(zip(labels.tasks.tolist(), labels.lengths.tolist(), strict=True))}
    lengths = np.unique(labels.lengths).tolist()
    for short, long in itertools.pairwise(lengths):
        tasks = [task for task in dict.fromkeys(labels.tasks.tolist()) if {(task, short), (task, long)} <= place.keys()]
        if tasks:
            first, second = ([place[task, length] for task in tasks] for length in (short, long))
            regret = regrets[second, np.argmin(logs[first], axis=1)].mean()
            fixed = regrets[second].mean(axis=0).min()
            lines.append(
                f"* At {long:,} steps the best height of {short:,} has a regret of {regret:.3f}, the best fixed one of {fixed:.3f}."
            )
    return "\n".join(lines)


def _draw(labels: Labels, found: dict[str, Floats], known: dict[str, float], related: dict[str, Floats]) -> Figure:
    figure = Figure(figsize=(10.0, 7.4), dpi=130, layout="constrained")
    histogram, fixed, ranks, regret = figure.subplots(2, 2).ravel()
    lengths = np.unique(labels.lengths)
    logs = np.log2(labels.heights)
    for number, length in enumerate(lengths):
        chosen = labels.lengths == length
        share = [np.mean(labels.best[chosen] == x) for x in logs]
        histogram.bar(logs + (number - 1) * 0.13, share, 0.13, label=f"{length:,} steps")
        fixed.plot(labels.heights, labels.regrets[chosen].mean(axis=0), "o-", ms=3, label=f"{length:,} steps")
    histogram.set_xticks(logs[::2], [f"{2**x:g}" for x in logs[::2]])
    histogram.set(xlabel="best height", ylabel="share of trainings")
    fixed.set(xlabel="fixed height", ylabel="mean log(final loss / best)", xscale="log", ylim=(0, None))
    for name in ("rho_short", "rho_long", "cos_long", "hypergradient_short", "slope_long", "signal_0.99_mean"):
        ranks.plot(labels.fractions, related[name], label=name)
    ranks.set(xlabel="share of the training", ylabel=f"rank correlation with the best height, at {OBSERVED:g}")
    for name, values in found.items():
        regret.plot(labels.fractions, values, label=name)
    for (name, value), style in zip(known.items(), ("-", "--", "-.", ":", (0, (1, 3))), strict=True):
        regret.axhline(value, color="gray", ls=style, lw=1, label=name)
    regret.set(xlabel="share of the training seen", ylabel="mean regret of the height chosen")
    regret.set_ylim(0, 1.3 * max(known.values()))
    for axes in (ranks, regret):
        axes.set_xscale("log")
    for axes in (histogram, fixed, ranks, regret):
        tidy(axes)
        axes.legend(fontsize=6, ncols=2, framealpha=0.6)
    return figure


def write(out: Path) -> str:
    """Writes summary.md and summary.png; returns the former.

    Raises:
      OSError: there are no records.
    """
    labels = read(out)
    table, found, known = _prediction(labels)
    related = _correlations(labels)
    places = [labels.moment(share) for share in MOMENTS]
    rows = [
        [name, *(f"{values[place]:+.2f} / {_pooled(labels, name, place):+.2f}" for place in places)]
        for name, values in related.items()
    ]
    head = [f"at {OBSERVED:g} / at all heights", *(f"after {share:g}" for share in MOMENTS)]
    inner = int(labels.lengths.sum()) * len(labels.heights)
    section: Callable[[str, str], str] = lambda title, text: f"## {title}\n\n{text}\n"
    parts = [
        "# The best height of a learned optimizer's steps\n",
        f"{len(set(labels.tasks.tolist()))} tasks, {len(labels.tasks)} trainings at {len(labels.heights)} heights each, "
        f"{inner:,} steps. Regret: log(final loss / best of the grid), at most {LARGEST_REGRET:g}, mean over trainings.\n",
        "![best heights, regrets and what signals tell](summary.png)\n",
        section("How exact the labels are", _noise(labels)),
        section("Best heights and regrets", _best_heights(labels)),
        section(
            "Rank correlation of signals with the best height",
            f"In the trainings at height {OBSERVED:g} with the best height; at all heights within a factor of four of the best "
            f"with the ratio of the best to the height, where the size of the step tells the height itself.\n\n"
            + _table(head, rows),
        ),
        section(
            "Regret of the height that is chosen by what is known",
            f"By kernel ridge regression on the trainings of other tasks, from signals seen at height {OBSERVED:g}; the regret is "
            f"that of the chosen height from the first step on.\n\n{table}",
        ),
        section(
            "Regret of the height that brings a signal to a target",
            "Of each training the height at which the signal is near the target at that moment and which is not far from the best "
            "fixed one; the target and what is far are as is best for other tasks. It is what a controller might reach.\n\n"
            + _control(labels),
        ),
        section("Actual over predicted decrease, long window, median (quartiles)", _at_best(labels)),
    ]
    text = "\n".join(parts)
    figure = png(_draw(labels, found, known, related))
    files.write_bytes(out / "summary.png", figure)
    files.write_bytes(out / "summary.md", text.encode())
    return text
