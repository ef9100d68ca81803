"""The transforms that the bundles list: what they give, that training and inference see a scan alike, and one more."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from workflows import BUNDLES, LA, OURS, evaluate, infer, inference_options, refusal, train, training_options

from aps_components.configuration.described import image_lines, transform_lines
from aps_components.data import cropped_size, evaluation_transforms
from aps_components.interactive.model import PREPROCESSED, load_model
from aps_components.models import CheckpointError, read_settings, without_folders

SMALL = (17, 24, 40)
SPACING = (1.0, 1.25, 2.0)
NOISE = {"_target_": "RandGaussianNoised", "keys": "image", "std": 0.1, "prob": 0.5}
SMOOTH = {"_target_": "MedianSmoothd", "keys": "image", "radius": 1}
COUNTER = {
    "_target_": "StatsHandler",
    "iteration_print_logger": "$lambda engine: print('seen', engine.state.iteration)",
}


def parsed(name, *files, **options):
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / name / "configs" / file) for file in files])
    for key, value in {"bundle_root": str(BUNDLES / name), "checkpoint": "none", **options}.items():
        parser[key] = value
    parser.parse()
    return parser


@pytest.fixture
def scan(tmp_path):
    """Writes a small scan of some channels, with a label."""

    def write(channels, classes):
        rng, affine = np.random.default_rng(channels), np.diag([*SPACING, 1.0])
        files = [str(tmp_path / f"scan_{channel}.nii.gz") for channel in range(channels)]
        for file in files:
            nib.save(nib.Nifti1Image(rng.normal(40, 90, SMALL).astype(np.float32), affine), file)
        label = str(tmp_path / "label.nii.gz")
        nib.save(nib.Nifti1Image(rng.integers(0, classes, SMALL).astype(np.uint8), affine), label)
        return {"image": files if channels > 1 else files[0], "label": label}

    return write


@pytest.mark.parametrize("name", OURS)
class TestEveryBundle:
    """Small scans, patches larger than they are along two axes."""

    ROI = (32, 16, 48)

    def given(self, name, **options):
        return {"roi_size": list(self.ROI), "spacing": list(SPACING), **options}

    def test_training_and_inference_pad_alike(self, name, scan):
        training = parsed(name, "train.json", **self.given(name, augmentation="none", roi_size=[32, 32, 48]))
        inference = parsed(name, "inference.json", **self.given(name, roi_size=[32, 32, 48]))
        value = training.get_parsed_content
        item = scan(value("in_channels"), value("num_classes"))
        patch = value("train#preprocessing").set_random_state(seed=0)(item)
        seen = inference.get_parsed_content("preprocessing")({"image": item["image"]})["image"]
        assert seen.shape[1:] == SMALL
        padded = inference.get_parsed_content("inferer").padded(seen.as_tensor()[None])[0]
        assert torch.equal(patch["image"].as_tensor(), padded)
        inside = (slice(None), slice(7, 7 + 17), slice(4, 4 + 24), slice(4, 4 + 40))  # (32 - 17) // 2, ...
        assert torch.equal(padded[inside], seen.as_tensor())
        outside = torch.ones_like(padded, dtype=torch.bool)
        outside[inside] = False
        assert (padded[outside] == 0).all()
        assert (patch["label"].as_tensor()[outside[:1]] == 0).all()

    def test_all_workflows_see_a_scan_alike(self, name, scan):
        training, inference = (parsed(name, file, **self.given(name)) for file in ("train.json", "inference.json"))
        value = training.get_parsed_content
        item = scan(value("in_channels"), value("num_classes"))
        one = value("validate#preprocessing")(item)
        other = inference.get_parsed_content("preprocessing")({"image": item["image"]})
        known = evaluation_transforms(
            keys="image",
            **{key: value(key) for key in ("spacing", "intensity", "in_channels", "num_classes")},
        )({"image": item["image"]})
        assert torch.equal(one["image"].as_tensor(), other["image"].as_tensor())
        assert torch.equal(one["image"].as_tensor(), known["image"].as_tensor())
        assert (one["image"].dtype, one["label"].dtype) == (torch.float32, torch.uint8)
        lists = (
            image_lines(training, "validate#preprocessing#transforms"),
            image_lines(inference, "preprocessing#transforms"),
        )
        assert lists == (PREPROCESSED, PREPROCESSED)

    @pytest.mark.parametrize(
        ("augmentation", "classes"),
        [
            ("none", []),
            ("flips", ["flips_and_quarter_turns"]),
            ("full", ["flips_and_quarter_turns", *["RandScaleIntensityd", "RandShiftIntensityd"]]),
            ("affine", ["flips_and_quarter_turns", "RandAffined", "RandScaleIntensityd", "RandShiftIntensityd"]),
            ("strong", ["RandAffined", "flips_and_quarter_turns", "OfKeys", "RandScaleIntensityFixedMeand", "OfKeys"]),
            (
                "strong_in_plane",
                ["RandAffined", "flips_and_quarter_turns", "InPlane", "RandScaleIntensityFixedMeand", "InPlane"],
            ),
        ],
    )
    def test_an_augmentation_is_its_lines(self, name, augmentation, classes):
        parser = parsed(name, "train.json", augmentation=augmentation)
        lines = transform_lines(parser, "train#random_transforms")
        names = [line.partition("(")[0] for line in lines]
        assert [each for each in names if each in {"RandAffined", *classes}] == [
            each for each in names if each in classes
        ]
        found = iter(names)
        assert all(each in found for each in classes)
        crop = next(line for line in lines if line.startswith("BalancedCropd"))
        assert f"roi_size={cropped_size(parser['roi_size'], augmentation)}" in crop


def test_a_line_says_what_was_given():
    parser = ConfigParser(
        {
            "std": 0.25,
            "spacing": [1, 1, 2],
            "list": [
                {"_target_": "RandGaussianNoised", "keys": "image", "std": "@std", "prob": "$1 / 2"},
                {"_target_": "RandFlipd", "_disabled_": "$@std < 1", "keys": "image"},
                {"_target_": "RandFlipd", "_disabled_": "true", "keys": "image"},
                {"_target_": "aps_components.data.Resampled", "keys": ["image", "label"], "spacing": "@spacing"},
                {"_target_": "aps_components.data.OfKeys", "keys": "image", "transform": {"_target_": "RandFlip"}},
                "$monai.transforms.RandFlipd('image')",
            ],
            "imports": ["$import monai"],
        }
    )
    parser.parse()
    assert transform_lines(parser, "list") == [
        'RandGaussianNoised(keys="image", std=0.25, prob=0.5)',
        'Resampled(keys=["image", "label"])',
        'OfKeys(keys="image", transform=RandFlip())',
        "RandFlipd(...)",
    ]


def test_no_folder_is_published():
    settings = {"transforms": ['SaveImaged(keys="image", output_dir="/scans/of/out", note="a")'], "labels": {"0": "x"}}
    assert without_folders(settings)["transforms"] == ['SaveImaged(keys="image", output_dir="out", note="a")']


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The left atrium's, with one more line in each list."""
    folder = tmp_path_factory.mktemp("edited") / "la"
    shutil.copytree(LA, folder, ignore=shutil.ignore_patterns("models", "eval"))
    add(folder / "configs" / "train.json", '"random_transforms": [', NOISE)
    add(folder / "configs" / "train.json", '"deterministic_transforms": [\n', SMOOTH, behind="NormalizeScand")
    add(folder / "configs" / "train.json", '"handlers": [', COUNTER)
    return folder


def add(file, head, entry, *, behind=None):
    """Write a line into a list, at its head or behind another line, as a user's editor does."""
    text = file.read_text(encoding="utf-8")
    place = text.index(head) + len(head)
    if behind is not None:
        place = text.index("\n", text.index(behind, place))
    file.write_text(f"{text[:place]}\n{json.dumps(entry)},{text[place:]}", encoding="utf-8")


@pytest.fixture(scope="module")
def trained(bundle, phantoms, tmp_path_factory):
    """A model of the edited bundle."""
    folder = tmp_path_factory.mktemp("listed")
    train(options(bundle, phantoms, folder))
    return folder


def options(bundle, phantoms, folder, **changes):
    short = {"bundle_root": str(bundle), "epochs": 1, "warmup_epochs": 0, "val_interval": 1, "cache_rate": 0.0}
    return training_options(phantoms, folder, **{**short, **changes})


def test_one_more_line_is_trained_with_and_kept(trained):
    said = read_settings(trained / "models" / "model.pt")
    assert 'RandGaussianNoised(keys="image", std=0.1, prob=0.5)' in said["transforms"]
    assert said["preprocessing"] == [*PREPROCESSED[:4], "MedianSmoothd(radius=1)", PREPROCESSED[4]]
    history = [json.loads(line) for line in (trained / "eval" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 1
    assert set(history[0]["validation"]) == {"dice_average", "dice_a", "dice_b", "prompt_precision"}


def test_one_more_handler_is_called(bundle, phantoms, tmp_path, capsys):
    train(options(bundle, phantoms, tmp_path, unlabeled_batch=0, predictor="a", **{"objective#train_b": False}))
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("seen")] == ["seen 1", "seen 2"]
    assert read_settings(tmp_path / "models" / "model.pt")["inference_predictor"] == "a"


def test_another_list_does_not_go_on(trained, phantoms):
    said = refusal("train.json", kind="train", options=options(LA, phantoms, trained))
    assert 'transforms now without RandGaussianNoised(keys="image", std=0.1, prob=0.5)' in said
    assert "preprocessing now without MedianSmoothd(radius=1)" in said


def test_a_model_is_used_with_its_own_preprocessing(bundle, trained, phantoms, tmp_path):
    model = {"checkpoint": str(trained / "models" / "model.pt"), "device": "cpu", "overlap": 0.0}
    scan = str(next((phantoms / "images").glob("*.nii.gz")))
    kinds = {"network_def#filters": 2, "network_def#sam_variant": "tiny"}
    given = {**model, **kinds, "output_dir": str(tmp_path / "maps"), "image": scan}
    said = refusal("inference.json", kind="infer", options={"bundle_root": str(bundle), **given})
    assert "preprocessed otherwise: this configuration's list is now without MedianSmoothd(radius=1)" in said
    add(bundle / "configs" / "inference.json", '"transforms": [', SMOOTH | {"keys": "@image_key"}, behind="NormalizeS")
    infer({"bundle_root": str(bundle), **given})
    assert len(list((tmp_path / "maps").glob("*_seg.nii.gz"))) == 1
    figures = {**model, **kinds, "dataset_dir": str(phantoms), "split": "validation"}
    evaluate({"bundle_root": str(bundle), **figures, "output_dir": str(tmp_path / "figures")})
    said = refusal(
        *("train.json", "evaluate.json"),
        kind="train",
        options={"bundle_root": str(LA), **figures, "output_dir": str(tmp_path / "other")},
    )
    assert "preprocessed otherwise" in said
    with pytest.raises(CheckpointError, match=r"now with MedianSmoothd\(radius=1\).*segment with the bundle"):
        load_model(model["checkpoint"])


def test_the_shipped_model_is_of_before_and_loads(tmp_path):
    """Its settings say nothing of transforms: they were those that every bundle lists."""
    assert "transforms" not in read_settings(LA / "models" / "model.pt")
    options = inference_options(tmp_path, checkpoint=str(LA / "models" / "model.pt"))
    parser = parsed("la", "inference.json", checkpoint=options["checkpoint"], device="cpu")
    parser.get_parsed_content("checkpointloader")
