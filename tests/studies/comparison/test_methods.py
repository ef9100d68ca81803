import json
import math

import pytest
import torch
from workflows import LA, TINY, make_workflow, train, training_options

from aps_components.models.vnet_pair import VNetPair
from aps_components.studies.comparison import choose_methods, load_methods
from aps_components.studies.comparison.methods import in_equal_budget, read_from_reference, refuse_contradictions

METHODS = load_methods()
TRAINED = [method for method in METHODS.values() if method.trained_as == method.name]
SEVEN = ["supervised", "mean_teacher", "ua_mt", "cps", "bcp", "autopromptseg", "ours"]


def parsed(method, phantoms, tmp_path):
    """What a method makes of la's train.json."""
    options = training_options(phantoms, tmp_path)
    options |= in_equal_budget(method.overrides, json.loads((LA / "configs" / "train.json").read_text()) | options)
    workflow = make_workflow("train.json", kind="train", options=options)
    workflow.parser.parse()
    return workflow.parser


@pytest.mark.parametrize("method", TRAINED, ids=lambda method: method.name)
def test_every_method_has_the_same_budget_and_builds(method, phantoms, tmp_path):
    if "datalist#unlabeled_count" in method.overrides:
        method.overrides["datalist#unlabeled_count"] = 2  # of the three phantoms
    parser = parsed(method, phantoms, tmp_path)
    assert parser.get_parsed_content("labeled_batch") + parser.get_parsed_content("unlabeled_batch") == 2
    assert parser.get_parsed_content("epochs") * parser.get_parsed_content("epoch_length") == 4
    objective = parser.get_parsed_content("objective")
    assert objective.train_b or method.predictor == "a"
    assert parser.get_parsed_content("network_def").predictor in ("a", "b", "average")


def test_labelled_patches_stand_in_the_place_of_unlabelled_ones():
    """A batch given for all is that of the supervised V-Net, too."""
    small = {"labeled_batch": 1, "unlabeled_batch": 2, "seed": 0}
    for name in ("supervised", "unlabeled/0", "rounds/second"):
        found = in_equal_budget(METHODS[name].overrides, small)
        assert (found["labeled_batch"], found["unlabeled_batch"]) == (3, 0)
    for name in ("ours", "bcp", "unlabeled/16"):
        assert in_equal_budget(METHODS[name].overrides, small) == METHODS[name].overrides


def test_a_method_is_what_its_paper_says(phantoms, tmp_path):
    objectives = {name: parsed(METHODS[name], phantoms, tmp_path).get_parsed_content("objective") for name in SEVEN}
    for name, objective in objectives.items():
        mixes = objective.copy_paste and METHODS[name].overrides.get("unlabeled_batch", 2) > 0
        assert mixes == (name in ("bcp", "ours")), name
        assert (objective.teacher_consistency.weight > 0) == (name in ("mean_teacher", "ua_mt")), name
        assert (objective.teacher_consistency.uncertainty_samples > 0) == (name == "ua_mt"), name
        assert (objective.cross_pseudo_weight > 0) == (name == "cps"), name
        assert objective.train_b == (name in ("cps", "autopromptseg", "ours")), name
        assert (objective.user is not None and objective.train_b) == (name == "ours"), name
    assert isinstance(parsed(METHODS["cps"], phantoms, tmp_path).get_parsed_content("network_def"), VNetPair)


def test_the_published_form_joins_a_and_b_by_the_fusion_alone(phantoms, tmp_path):
    published = parsed(METHODS["autopromptseg"], phantoms, tmp_path).get_parsed_content("network_def")
    assert published.model_b.mask_decoder.fine_path is None
    assert (published.fusion_detached, published.fusion_dropped) == (False, 0.0)
    output = published.train().training_forward(torch.randn(1, 1, 32, 32, 32))
    output.logits_b.square().mean().backward()
    assert published.model_a.encoder[0].layers[0].weight.grad.any()


@pytest.mark.parametrize("method", ["autopromptseg", "cps", "ours"])
def test_two_models_train_one_step(method, phantoms, tmp_path):
    overrides = METHODS[method].overrides
    options = training_options(phantoms, tmp_path, epochs=1, epoch_length=1, warmup_epochs=0, val_interval=2)
    workflow = train(options | overrides)
    terms = workflow.parser.get_parsed_content("train#trainer").state.output
    assert {"supervised_a", "supervised_b"} <= set(terms)
    assert ("interaction" in terms) == (method == "ours")
    assert all(math.isfinite(value) for value in terms.values())


def test_ours_is_the_bundle_as_it_is():
    assert METHODS["ours"].overrides == {}
    assert METHODS["prompts/both"].trained_as == METHODS["model/a"].trained_as == "ours"
    assert (METHODS["model/a"].predictor, METHODS["model/b"].predictor) == ("a", "b")


def test_an_override_that_changes_nothing_is_not_trained():
    ours = METHODS["ours"]
    values = {"fusion": "none", "mc_samples": 5}
    same = read_from_reference(METHODS["fusion/none"], values)
    assert (same.name, same.title, same.trained_as) == ("fusion/none", "No fusion", "ours")
    assert read_from_reference(METHODS["samples/5"], values).trained_as == "ours"
    for method in (ours, METHODS["fusion/cafa"], METHODS["samples/2"], METHODS["prompts/none"], METHODS["model/a"]):
        assert read_from_reference(method, values) == method
    assert read_from_reference(METHODS["fusion/none"], {"fusion": "cafa"}).trained_as == "fusion/none"


def test_an_option_must_not_contradict_a_name():
    for name, option in (
        ("decision/calibrated", "decision_interval"),
        ("copy_paste/bidirectional", "objective#copy_paste"),
        ("prompts/both", "network_def#prompts"),
    ):
        with pytest.raises(ValueError, match=f"{name} is ours as it is, and --{option}, given for all methods"):
            refuse_contradictions([METHODS["ours"], METHODS[name]], {option: 0})
    others = [METHODS[name] for name in ("ours", "bcp", "decision/uncalibrated", "model/a", "fusion/none")]
    refuse_contradictions([METHODS["rounds/first"]], {"labeled_batch": 1, "unlabeled_batch": 1})
    refuse_contradictions(others, {"decision_interval": 0, "predictor": "a", "fusion": "cafa"})


def test_methods_are_chosen_by_name_group_and_all():
    assert [method.name for method in choose_methods(["all"])] == SEVEN
    assert [method.name for method in choose_methods(["fusion", "ours", "fusion/none"])] == [
        "fusion/none",
        "fusion/concatenation",
        "fusion/cafa",
        "ours",
    ]
    with pytest.raises(ValueError, match=r"no method 'fusions': choose among \['supervised', .*'prompts'"):
        choose_methods(["bcp", "fusions"])


def test_tiny_is_tiny():
    """These tests build twenty networks."""
    assert TINY["network_def#sam_variant"] == "tiny"
