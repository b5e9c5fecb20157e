"""The model card: read back by huggingface_hub, closed to whatever provenance holds, with an example that runs."""

import itertools
import json
import re

import jax
import numpy as np
import pytest
import test_evaluation
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import celo_zoo
from celo_core import ADAPTIVE, ORTHOGONAL, CeloAdamConfig, CeloConfig, SchedulerConfig, configs, get_architecture
from celo_core.schedulers import Loss, TaskEmbedding, Time
from celo_zoo import card, evaluation, schema

SHAPES = {"update_rule/kernel": (3, 4), "update_rule/bias": (4,), "scheduler/kernel": (2,)}
HEADINGS = ["Celo", "Use", "Meta-training", "Provenance", "Evaluation", "Known limits", "Verify", "Licence", "Citation"]
PROVENANCE = {
    "command": "celo-tasks meta-train --out run",
    "commit": "0123456789abcdef",
    "recipe": {"datasets": ["digits_8x8"], "min_length": 100, "max_length": 2000},
    "cost": {"update_rule": {"iteration": 10, "inner_steps": 1000, "seconds": 1234.5, "meta_loss": 1.5}},
    "seconds": 1234.5,
    "inner_steps": 1000,
    "hardware": "2 x cpu",
    "notes": ["A *note*."],
}


def document(**changes):
    return {"architecture": "celo", "config": {}, "provenance": PROVENANCE, **changes}


def headings(text):
    tokens = MarkdownIt("commonmark").enable("table").parse(ModelCard(text).text)
    pairs = itertools.pairwise(tokens)
    return [after.content for before, after in pairs if before.type == "heading_open"], tokens


def test_front_matter_and_text():
    text = card.write_card(document(), SHAPES)
    assert card.read_metadata(text) == {
        "license": "apache-2.0",
        "library_name": "celo",
        "tags": ["celo", "learned-optimizer", "meta-learning", "optax", "jax"],
        "model_name": "Celo",
    }
    assert headings(text)[0] == HEADINGS
    assert "18 meta-trained values of `float32` (`scheduler` 2, `update_rule` 16)" in text
    assert "100 to 2,000 steps" in text
    assert "Nothing was measured." in text
    assert "- A \\*note\\*." in text
    assert "10 meta-iterations, 1,000 inner training steps, 1,234 seconds, 1.5 meta-loss" in text
    assert card.write_card(json.loads(json.dumps(document())), dict(reversed(SHAPES.items()))) == text


def test_limits_are_those_of_the_recipe():
    lengths = {"type": "log_uniform", "minimum": 300, "maximum": 3000}
    recipe = {"problems": {"datasets": ["digits_8x8"]}, "estimator": {"type": "pes", "lengths": lengths}}
    text = card.write_card(document(provenance={**PROVENANCE, "recipe": recipe}), SHAPES)
    assert "longer than the 300 to 3,000 steps that it was meta-trained for" in text
    assert '`["digits_8x8"]`' in text.split("Sizes and kinds")[1]


def test_what_it_does_is_by_its_config():
    of = lambda config, **more: card.write_card(document(config=configs.to_json(config), **more), SHAPES)
    shipped = of(ORTHOGONAL)
    assert "Adam's direction with learned weights and for matrices an orthogonalised momentum. All" in shipped
    assert "scaled by a cosine decay, in which nothing is learned." in shipped
    adaptive = of(ADAPTIVE)
    assert (
        "scaled by a cosine decay times what a linear controller with an integral makes of the part of the training"
        in adaptive
    )
    assert "the actual over the predicted decrease of the loss" in adaptive
    paper = of(CeloConfig())
    assert "Steps are the step that a small network makes" in paper and "orthogonalised" not in paper
    assert "a constant times what an LSTM makes of the part of the training done and the loss." in paper
    assert "The direction is Adam's. All steps" in of(CeloAdamConfig(), architecture="celo_adam")
    assert "scaled by" not in of(CeloConfig(scheduler=None))
    assert "Steps are" not in card.write_card(document(config={"directions": 3, "scheduler": []}), SHAPES)


def test_nothing_recorded():
    text = card.write_card(document(provenance={}), SHAPES)
    assert headings(text)[0] == HEADINGS
    assert "Nothing was recorded about it." in text


def test_repository():
    text = card.write_card(document(repository="owner/repo"), SHAPES)
    assert 'celo_zoo.optimizer("owner/repo", num_steps=50)' in text
    assert "`celo-zoo verify owner/repo`" in text
    assert "https://huggingface.co/owner/repo" in text
    assert card.read_metadata(text)["model_name"] == "owner/repo"
    for unfit in ("owner", 'a/b")\nprint("', "a/b@main", 5, "../b"):
        with pytest.raises(ValueError, match="is no repository"):
            card.write_card(document(repository=unfit), SHAPES)


def test_results_read_back():
    records = [evaluation.from_report(test_evaluation.REPORT), test_evaluation.record()]
    text = card.write_card(document(evaluation=records), SHAPES)
    card.read_metadata(text)
    results = ModelCard(text).data.eval_results
    found = {(one.dataset_config, one.metric_type): one.metric_value for one in results}
    assert len(found) == len(results) == (8 * 2 + 4) + (2 + 4)
    for record in records:
        where = f"{record['suite']}, {record['steps']} steps"
        for task in record["tasks"]:
            assert found.get((f"{task['task']} of {where}", "final_loss_ratio")) == task["ratio"]
            assert found.get((f"{task['task']} of {where}", "speedup")) == task["speedup"]
        for metric, score in (("final_loss_ratio", "ratio"), ("speedup", "speedup")):
            for name, interval in record["aggregates"][score].items():
                assert found[where, f"{metric}_{name}"] == interval["value"]
    bound = [one.dataset_config for one in results if one.metric_args == {"lower_bound": True}]
    assert bound == [
        f"{task['task']} of {record['suite']}, {record['steps']} steps"
        for record in records
        for task in record["tasks"]
        if task["speedup_is_lower_bound"]
    ]
    assert "one of tiny-2, 50 steps" in bound
    tasks = records[0]["tasks"]
    better, worse = (sum(sign * task["ratio"] > sign for task in tasks) for sign in (1, -1))
    slower = sum(task["speedup"] < 1 and not task["speedup_is_lower_bound"] for task in tasks)
    assert better > 0 and better + worse == 8
    assert f"better than tuned Adam (ratio above 1) on {better} of 8 tasks, and worse (below 1) on {worse}." in text
    assert f"faster one (speed-up below 1) on {slower} of 8." in text
    assert "| `one` | `digits_8x8` | 100 | 1.5 | 0.75 | 0.75 | > 3 | 1 of 2 |" in text
    assert "| `two` | `digits_8x8` | 100 | 1.5 | - | - | - | 0 of 2 |" in text


def test_unfit_results_are_refused():
    with pytest.raises(ValueError, match="evaluation is not"):
        card.write_card(document(evaluation=[{}]), SHAPES)


def test_licences():
    read = lambda licence: yaml.safe_load(
        card.write_card(document(provenance={"license": licence}), SHAPES).split("---\n")[1]
    )
    assert read("MIT")["license"] == "mit"
    odd = read("mit: [really]\n---\n")
    assert (odd["license"], odd["license_name"]) == ("other", "mit-really")
    assert read({"a": 1})["license"] == "other"
    assert read("```")["license_name"] == "unknown"


MARKS = st.text(st.sampled_from("`~#-=>|<*_[]()!\\&\n\r\t\x85\u2028 1.:+{}$\"'a"), max_size=40)
TEXTS = st.one_of(
    MARKS,
    st.text(max_size=60),
    st.sampled_from(
        ["\n---\n", "\n```\n# x", "x\n===", "<script>", "<!--", "a\n\n# b", "1. x", "- # x", "\ud800", "|" * 9]
    ),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "source",
    "command",
    "commit",
    "recipe",
    "cost",
    "data",
    "seeds",
    "seconds",
    "inner_steps",
    "hardware",
    "versions",
]
KEYS += ["notes", "license", "converted_from", "networks", "commits"]
RECIPES = st.dictionaries(
    st.sampled_from(["min_length", "max_length", "lengths", "datasets", "networks"]) | TEXTS, VALUES
)
HOSTILE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(KEYS, VALUES) | {"recipe": RECIPES | VALUES, "notes": st.lists(TEXTS, max_size=3)}
)


@settings(deadline=None, max_examples=80)
@given(HOSTILE, TEXTS.filter(lambda text: text.strip()))
def test_hostile_provenance_stays_in_its_place(provenance, architecture):
    text = card.write_card(document(provenance=provenance), SHAPES)
    text.encode()
    assert card.read_metadata(text).keys() - {"license_name"} == {"license", "library_name", "tags", "model_name"}
    found, tokens = headings(text)
    assert found == HEADINGS
    assert [token.info for token in tokens if token.type == "fence"] == ["python", "bibtex"]
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "code_block", "hr", "blockquote_open", "ordered_list_open"}
    inline = {child.type for token in tokens for child in token.children or ()}
    assert not inline & {"html_inline", "image", "em_open", "strong_open"}
    links = [child.attrs["href"] for token in tokens for child in token.children or () if child.type == "link_open"]
    assert links == ["https://optax.readthedocs.io"]
    for line in re.findall(r"^\|.*\|$", text, flags=re.MULTILINE):
        assert line.count("|") == 3  # the recipe's table has two columns
    other = card.write_card(document(architecture=architecture), SHAPES)
    assert headings(other)[0][1:] == HEADINGS[1:]
    card.read_metadata(other)


def test_long_values_are_cut():
    many = ["x" * 10**5] * 10**3
    provenance = {"command": "`" * 10**6, "notes": many, "recipe": {str(key): "y" * 1000 for key in range(1000)}}
    assert len(card.write_card(document(provenance=provenance), SHAPES)) < 2**18


@pytest.mark.parametrize(
    "front",
    [
        "a: [",
        "- a",
        "1: 2",
        "text",
        "a: &x [1]\nb: *x",
        "ignore_metadata_errors: true",
        "model-index: 5",
        "model-index:\n- name: a",
        "model-index:\n- name: a\n  results: [x]",
        "a: !!python/object/apply:os.system [ls]",
        "model-index:\n- name: a\n  results:\n  - task: {type: t}\n    dataset: {type: d, name: d}\n"
        "    metrics: [{type: m, value: .nan}]",
        # Two results that only the name of their data tells apart, which is no part of a result's key.
        "model-index:\n- name: a\n  results:\n"
        "  - {task: {type: t}, dataset: {type: d, name: d}, metrics: [{type: m, value: 1}]}\n"
        "  - {task: {type: t}, dataset: {type: d, name: e}, metrics: [{type: m, value: 2}]}",
        "a: " + "[" * 300,
    ],
)
def test_invalid_front_matter(front):
    with pytest.raises(ValueError, match="^the model card's [^\n]*[.]$"):
        card.read_metadata(f"---\n{front}\n---\n\n# Card\n")


def test_no_front_matter():
    for text in ("", "# Mine\n", "---\n---\n# Mine\n"):
        with pytest.raises(ValueError, match="has no front matter"):
            card.read_metadata(text)
    with pytest.raises(ValueError, match="bytes"):
        card.read_metadata("x" * 2**21)


def example(text):
    return re.search(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)[1]


def run(folder, monkeypatch, capsys):
    """The losses that the example in the folder's card prints when it is run there."""
    monkeypatch.chdir(folder)
    exec(compile(example((folder / "README.md").read_text()), "README.md", "exec"), {})
    return [
        float(loss) for loss in re.fullmatch(r"first loss (\S+), last loss (\S+)\n", capsys.readouterr().out).groups()
    ]


@pytest.mark.slow
def test_example_runs_in_the_folder(model_folder, monkeypatch, capsys):
    assert all(0 <= loss < 1e6 for loss in run(model_folder, monkeypatch, capsys))


def test_example_with_task_embedding(tmp_path, monkeypatch):
    config = CeloConfig(scheduler=SchedulerConfig(inputs=(Time(), Loss(), TaskEmbedding())))
    theta = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.01), schema.expected_shapes(get_architecture("celo", config))
    )
    folder = celo_zoo.save(theta, config, tmp_path / "model")
    monkeypatch.chdir(folder)
    names = {}
    exec(example((folder / "README.md").read_text()).split("\n@jax.jit")[0], names)
    assert names["embedding"].shape == (16,)
    assert jax.tree.leaves(names["state"])
