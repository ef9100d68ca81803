"""What a command line may say: refused by name where it is nothing, and what it says where it is something."""

import json

import pytest
from monai.bundle import ConfigParser
from workflows import LA, TINY, make_workflow, refusal, training_options

from aps_components.configuration import check_options, lay_over
from aps_components.options import refuse_cut_values

FILES = {
    "training": ["train.json"],
    "pretraining": ["train.json", "pretrain.json"],
    "evaluating": ["train.json", "evaluate.json"],
    "inference": ["inference.json"],
}


def configuration(run, **options):
    parser = ConfigParser()
    parser.read_config([str(LA / "configs" / file) for file in FILES[run]])
    parser["bundle_root"] = str(LA)
    if run in ("evaluating", "inference"):
        parser["checkpoint"] = str(LA / "models" / "model.pt")
    for key, value in options.items():
        parser[key] = value
    return parser


def refused(run, **options):
    with pytest.raises(ValueError, match=r"\w") as error:
        check_options(configuration(run, **options))
    return str(error.value)


@pytest.mark.parametrize("run", FILES)
def test_what_the_bundles_say_is_all_right(run):
    check_options(configuration(run))


@pytest.mark.parametrize(
    ("run", "key", "meant"),
    [
        ("training", "labelled_count", "labeled_count"),
        ("training", "learning_rte", "learning_rate"),
        ("training", "Epochs", "epochs"),
        ("training", "label_batch", "labeled_batch"),
        ("training", "copy_paste", "objective#copy_paste"),
        ("training", "sam_variant", "network_def#sam_variant"),
        ("training", "objective#copy_past", "objective#copy_paste"),
        ("training", "network_def#filter", "network_def#filters"),
        ("training", "optimizer#weight_decy", "optimizer#weight_decay"),
        ("training", "train#dataloader#sed", "train#dataloader#seed"),
        ("training", "train#preprocess", "train#preprocessing"),
        ("training", "validate#evaluator#networks", "validate#evaluator#network"),
        ("training", "train#handlers#2#ckpt_dirs", "train#handlers#2#ckpt_dir"),
        ("training", "datalist#unlabelled_count", "datalist#unlabeled_count"),
        ("training", "inferer#sw_batch", "inferer#sw_batch_size"),
        ("pretraining", "objective#trainb", "objective#train_b"),
        ("evaluating", "splt", "split"),
        ("evaluating", "evaluation#label", "evaluation#labels"),
        ("evaluating", "network_def#fine_feature", "network_def#fine_features"),
        ("inference", "overlp", "overlap"),
        ("inference", "postprocessing#transform", "postprocessing#transforms"),
        ("inference", "postprocessing#transforms#1#largest_componen", "postprocessing#transforms#1#largest_component"),
        ("inference", "preprocessing#transforms#2#spacin", "preprocessing#transforms#2#spacing"),
        ("training", "train#random_transforms#0#spatial_sizes", "train#random_transforms#0#spatial_size"),
        ("training", "train#random_transforms#16#transform#sigmax", "train#random_transforms#16#transform#sigma_x"),
        ("training", "train#random_transforms#5#_disabeld_", "train#random_transforms#5#_disabled_"),
        (
            "training",
            "validate#postprocessing#transforms#0#largest_componen",
            "validate#postprocessing#transforms#0#largest_component",
        ),
        ("training", "validate#additional_metric", "validate#additional_metrics"),
    ],
)
def test_an_option_that_there_is_not_is_refused_with_what_was_meant(run, key, meant):
    assert f"no option --{key}" in (said := refused(run, **{key: 1}))
    assert f"did you mean --{meant}?" in said


@pytest.mark.parametrize(
    ("run", "key"),
    [
        ("training", "split"),
        ("training", "checkpoint"),
        ("training", "image"),
        ("training", "sw_batch_size"),
        ("inference", "epochs"),
        ("inference", "class_weights"),
        ("inference", "labeled_count"),
    ],
)
def test_an_option_of_another_workflow_is_without_effect_and_refused(run, key):
    assert refused(run, **{key: "validation"}).startswith(f"no option --{key}")


def test_what_else_users_and_monai_lay_over_is_let_pass(tmp_path):
    """Their own component with keys that it refers to, a comment, and what MONAI's tracking and MONAI Label set."""
    own = tmp_path / "own.json"
    own.write_text(
        json.dumps(
            {
                "momentum": 0.9,
                "_why": "as in the publication",
                "optimizer": {
                    "_target_": "torch.optim.SGD",
                    "params": "$@network.parameters()",
                    "lr": "@learning_rate",
                    "momentum": "@momentum",
                },
                "tracking_uri": "somewhere",
                "experiment_name": "mine",
            }
        )
    )
    parser = ConfigParser()
    parser.read_config([str(LA / "configs" / "train.json"), str(own)])
    served = {
        "bundle_root": str(LA),
        "device": "cpu",
        "train#trainer#max_epochs": 7,
        "train#dataset#data": [{"image": "a.nii.gz", "label": "b.nii.gz"}],
        "validate#dataset#data": [],
        "train#handlers": [*parser["train#handlers"], {"_target_": "TensorBoardImageHandler", "log_dir": "x"}],
    }
    for key, value in served.items():
        parser[key] = value
    check_options(parser)
    assert parser["weight_decay"] == 0.01  # which nothing refers to any more
    parser["momentun"] = 0.8
    with pytest.raises(ValueError, match=r"no option --momentun.*did you mean --momentum"):
        check_options(parser)


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("objective#copy_paste", "false", False),
        ("objective#train_b", "True", True),
        ("objective#largest_component", "FALSE", False),
        ("objective#largest_component", "joined", "joined"),
        ("largest_component", "joined", "joined"),
        ("largest_component", "foreground", "foreground"),
        ("largest_component", "false", False),
        ("cuda_graphs", "true", True),
        ("network_def#fine_features", "false", False),
        ("network_def#recompute", "False", False),
        ("validate#evaluator#everything", "false", False),
        ("learning_rate", "1e-3", 0.001),
        ("objective#iou_weight", "2.5e-1", 0.25),
        ("epochs", "12", 12),
        ("epochs", 12.0, 12),
        ("network_def#filters", "8", 8),
        ("roi_size", (32, 48, 64), [32, 48, 64]),
        ("spacing", (1, 1, 2.5), [1, 1, 2.5]),
        ("flip_axes", ([0, 1], 2), [[0, 1], 2]),
        ("labels", {0: "background", 1: "tumour"}, {"0": "background", "1": "tumour"}),
        ("label_values", {7: 1}, {"7": 1}),
        ("strides", ((2, 2, 1),) * 3 + ((2, 2, 2),), [[2, 2, 1]] * 3 + [[2, 2, 2]]),
        ("train_a", "false", False),
        ("simulated_user#rounds", "2", 2),
        ("simulated_user", {"flipped": "0.2", "targets": {"cut": "0"}}, {"flipped": 0.2, "targets": {"cut": 0.0}}),
        ("simulated_user", None, None),
    ],
)
def test_a_value_is_what_it_means(key, value, meant):
    parser = configuration("training", **{key: value})
    check_options(parser)
    assert parser[key] == meant
    assert type(parser[key]) is type(meant)


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("RandGausianNoised", "'RandGaussianNoised'"),
        ("aps_components.data.BalancedCrop", "'aps_components.data.BalancedCropd'"),
        ("nobody.knows.It", "the full name"),
    ],
)
def test_a_transform_that_there_is_not_is_refused(target, meant):
    said = refused("training", **{"train#random_transforms#0": {"_target_": target, "keys": "image"}})
    assert said.startswith(f"train#random_transforms#0#_target_: there is no {target!r}; ")
    assert meant in said


def test_a_transform_without_a_class_is_refused():
    said = refused("training", **{"train#random_transforms#0": {"_taget_": "RandFlipd", "keys": "image"}})
    assert "no option --train#random_transforms#0#_taget_; did you mean" in said


def test_an_option_that_is_computed_is_let_be():
    parser = configuration("training", spacing="$None", warmup_epochs="$@epochs // 4", labeled_count="$2 + 3")
    check_options(parser)
    assert parser["spacing"] == "$None"
    assert refused("training", warmup_epochs="$@epochs - 500").startswith("warmup_epochs -380 must be")
    assert refused("training", roi_size="$[16 + 5] * 3").startswith("roi_size [21, 21, 21] must be")


NAN = float("nan")


@pytest.mark.parametrize(
    ("run", "key", "values"),
    [
        (
            "training",
            "spacing",
            [[5, 5], [0, 5, 5], [-5, 5, 5], [NAN, 1, 1], [float("inf")] * 3, "5,5,5", 5, [[1], 1, 1]],
        ),
        ("training", "roi_size", [64, [64, 64], [64, 64, 0], [64, 64, 60], [64, 64, -16], [16, 16, 16], ["a", 16, 32]]),
        ("training", "flip_axes", [0, "0", [3], [0, 0], None]),
        ("training", "class_weights", [[1], [1, 1, 1], [-1, 1], [0, 0], [NAN, 1], 1.0, "equal"]),
        ("training", "val_interval", [0, -1, 1.5, "often"]),
        ("training", "seed", [1.5, -1, 2**32, True, "zero"]),
        ("training", "epochs", [0, -3, 0.5, None, [3]]),
        ("training", "train#trainer#max_epochs", [0, -3, 0.5]),
        ("training", "epoch_length", [0, "x"]),
        ("training", "warmup_epochs", [-1, 0.3]),
        ("training", "learning_rate", [0, -1e-3, NAN, "fast", True]),
        ("training", "weight_decay", [-0.1, NAN]),
        ("training", "gradient_clip", [0, NAN]),
        ("training", "ema_decay", [1, 1.5, -0.1]),
        ("training", "labeled_batch", [0, 2.5]),
        ("training", "unlabeled_batch", [-1]),
        ("training", "labeled_count", [0, -2, 1.5]),
        ("training", "validation_count", [-1, "some"]),
        ("training", "datalist#unlabeled_count", [-1, 1.5]),
        ("training", "overlap", [1, 1.5, -0.25, NAN]),
        ("training", "mirror_axes", [0, [4]]),
        ("training", "mc_samples", [0, 2.5]),
        ("training", "decision_interval", [-1]),
        ("training", "cache_rate", [1.5, -1]),
        ("training", "num_workers", [-1, 0.5]),
        ("training", "balanced_crops", [-0.1, 2]),
        ("training", "swelling", [-0.1, 2, "often"]),
        ("training", "in_channels", [0, "two"]),
        ("training", "modalities", ["t1", ["t1", "t2"], []]),
        ("training", "intensity", ["zscores", {"window": [3, 1]}, {"window": [0, NAN]}, {"window": 3}, 5]),
        ("training", "label_values", [[4], {"four": 1}, {"4": 2}, {"4": -1}, {"4": 0.5}]),
        ("training", "regions", [{}, {"all": []}, {"all": [0]}, {"all": [2]}, {"all": 1}]),
        ("training", "precision", ["fp16", "FP32", 32]),
        ("training", "predictor", ["c", "avrage"]),
        ("training", "augmentation", ["ful", 1]),
        ("training", "backbone", ["unet", None]),
        ("training", "strides", [2, [[2, 2, 2]] * 3, [[2, 2]] * 4, "[2]"]),
        ("training", "kernel_sizes", [3, [[3, 3, 2]] * 5, [[3, 3, 3]] * 4]),
        ("training", "train_a", ["no", 2]),
        ("training", "simulated_user", ["me", {"rounds": 0}, {"flipped": 2}, {"targets": 3}, {"rounds": 1.5}]),
        ("training", "fusion", ["sum", None]),
        ("training", "pretrained_part", ["b"]),
        ("training", "cuda_graphs", ["yes", 2]),
        ("training", "device", [3.5, ["cpu"]]),
        ("training", "objective#copy_paste", ["no", 2]),
        ("training", "objective#pseudo_label_weight", ["much", NAN]),
        ("training", "network_def#norm", ["batched"]),
        ("training", "network_def#filters", [1.5]),
        ("evaluating", "split", ["tests", "train"]),
        ("inference", "save_maps", ["maybe"]),
        ("inference", "sw_batch_size", [0, 1.5]),
        ("inference", "load_pretrain", ["perhaps"]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_option(run, key, values):
    for value in values:
        said = refused(run, **{key: value})
        assert said.startswith(key), (value, said)
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("labels", "mend"),
    [
        ({"0": "background", "1": "anterior", "3": "posterior"}, "label_values"),
        ({"1": "anterior", "2": "posterior"}, "label_values"),
        ({"1": "anterior", "0": "background"}, "in order"),
        ("1:a,2:b", "--labels \"{'0':'background','1':'a','2':'b'}\""),
        ("0:nothing,1:a", "--labels \"{'0':'nothing','1':'a'}\""),
        ("liver, kidney", "--labels \"{'0':'background','1':'liver','2':'kidney'}\""),
        (["background", "a"], "must map"),
        ({"0": "background"}, "1 classes"),
        ({"0": "background", "1": "a", "2": "a"}, "twice"),
        ({"0": "background", "1": 7}, "take a text"),
        (3, "must map"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_the_mend(labels, mend):
    said = refused("training", labels=labels)
    assert said.startswith("labels")
    assert mend in said


def test_a_simulated_user_has_arguments_of_its_own():
    said = refused("training", simulated_user={"round": 2})
    assert "no option --simulated_user#round; did you mean --simulated_user#rounds?" in said
    said = refused("training", simulated_user={"targets": {"elipsoid": 1}})
    assert "did you mean --simulated_user#targets#ellipsoid?" in said


def test_a_patch_fits_the_strides():
    thick = [[2, 2, 1]] * 3 + [[2, 2, 2]]
    check_options(configuration("training", strides=thick, roi_size=[32, 48, 6]))
    assert "divisible by 16 x 16 x 2: try [32, 48, 8]" in refused("training", strides=thick, roi_size=[32, 48, 7])


def test_prompts_are_arguments_of_the_generator(phantoms, tmp_path):
    options = training_options(phantoms, tmp_path, **{"network_def#prompts": {"strategi": "random"}})
    said = refusal("train.json", kind="train", options=options)
    assert "prompts has no 'strategi'; did you mean --network_def#prompts#strategy?" in said


@pytest.mark.parametrize(
    "files", [["train.json"], ["train.json", "multi_gpu_train.json"], ["train.json", "pretrain.json"]]
)
def test_a_workflow_refuses_before_it_builds_anything(phantoms, tmp_path, files):
    said = refusal(*files, kind="train", options=training_options(phantoms, tmp_path, learning_rte=5))
    assert said.startswith("ValueError: no option --learning_rte")
    assert not list(tmp_path.iterdir())


def test_a_workflow_hands_on_what_is_meant(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.excepthook", None)
    options = training_options(phantoms, tmp_path, **{"objective#copy_paste": "false", "learning_rate": "2e-4"})
    workflow = make_workflow("train.json", kind="train", options=options)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("objective").copy_paste is False
    assert workflow.parser.get_parsed_content("optimizer").param_groups[0]["lr"] == 2e-4


def test_a_run_of_ones_own_is_no_unknown_option(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.excepthook", None)
    options = training_options(phantoms, tmp_path, count="$[len(@datalist.labeled)]")
    workflow = make_workflow("train.json", kind="train", options=options)
    workflow.run_id = "count"
    workflow.initialize()
    assert workflow.run() == [[3]]


class TestLayOver:
    def test_sets_what_there_is(self):
        parser = configuration("inference")
        lay_over(parser, {"overlap": "0.25", "network_def#filters": 4, **{"device": TINY["device"]}})
        assert parser["overlap"] == 0.25

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("overlp", "no option --overlp; did you mean --overlap?"),
            ("image", "no option --image"),
            ("imports", "no option --imports"),
            ("network_df#filters", "no option --network_df#filters; did you mean --network_def?"),
            ("evaluator#handlrs#0", "no option --evaluator#handlrs#0; "),
            ("overlap#x", "no option --overlap#x: overlap is 0.5, in which nothing lies"),
        ],
    )
    def test_refuses_by_name(self, key, message):
        with pytest.raises(ValueError, match="no option") as error:
            lay_over(configuration("inference"), {key: 1}, own=("image",))
        assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "training", "--output_dir", "results#2"], "--output_dir results#2: MONAI's command line reads no"),
        (["run", "--ckpt_dir=/data/a b#1", "--seed", "1"], "--ckpt_dir /data/a b#1: "),
        (["run", "inference", "--image", "scan#1.nii.gz"], "--image scan#1.nii.gz: "),
        (["run", "training", "--config_file", "['a.json','b.json']", "--objective#copy_paste", "False"], None),
        (["run", "training", "--dataset_dir", '"data#1"', "--labels", "{'0':'a#b'}"], None),
    ],
)
def test_a_value_that_fire_cuts_is_refused(arguments, said):
    if said is None:
        refuse_cut_values(arguments)
    else:
        with pytest.raises(ValueError, match="choose a name without it") as error:
            refuse_cut_values(arguments)
        assert str(error.value).startswith(said)


def test_monais_command_line_is_looked_at_before_anything_is_built(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/monai/bundle/__main__.py", "run", "training", "--output_dir", "results#2"])
    with pytest.raises(ValueError, match="--output_dir results#2"):
        check_options(ConfigParser({}))


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        (["train.json", "pretrain.json"], ["--train_a", "false"], "--train_a changes nothing in this training"),
        (["train.json", "pretrain.json"], ["--simulated-user#rounds=2"], "--simulated_user changes nothing in this"),
        (["train.json", "evaluate.json"], ["--pretrained", "a.pt"], "--pretrained is for a training to begin with"),
        (["train.json", "evaluate.json"], ["--sam_checkpoint=a.pt"], "--sam_checkpoint is for a training to begin"),
    ],
)
def test_an_option_that_is_typed_and_changes_nothing_is_refused(
    phantoms, tmp_path, monkeypatch, files, arguments, said
):
    monkeypatch.setattr("sys.argv", ["/x/monai/bundle/__main__.py", "run", "training", *arguments])
    told = refusal(*files, kind="train", options=training_options(phantoms, tmp_path))
    assert told.startswith(f"ValueError: {said}")
    assert len(told.splitlines()) == 1
    assert ("--checkpoint FILE" in told) == ("evaluate.json" in files)


@pytest.mark.parametrize(
    ("files", "arguments"),
    [
        (["train.json"], ["--train_a", "false", "--regions", "{'a':[1]}", "--train#trainer#max_epochs", "3"]),
        (["train.json", "pretrain.json"], ["--objective#copy_paste", "false", "--spacing", "[1,1,1]"]),
        (["train.json", "evaluate.json"], ["--epochs", "3", "--objective#copy_paste", "false", "--unlabeled_batch=0"]),
        (["train.json", "evaluate.json"], ["--checkpoint", "b.pt", "--pretrained", "a.pt"]),
    ],
)
def test_what_studies_and_tools_type_is_let_pass(phantoms, tmp_path, monkeypatch, files, arguments):
    """A study gives an evaluation all that its training had, and the model."""
    monkeypatch.setattr("sys.argv", ["/x/monai/bundle/__main__.py", "run", "training", *arguments])
    monkeypatch.setattr("sys.excepthook", None)
    options = training_options(phantoms, tmp_path)
    if "evaluate.json" in files:
        options |= {"checkpoint": str(LA / "models" / "model.pt")}
    workflow = make_workflow(*files, kind="train", options=options)
    workflow.initialize()
