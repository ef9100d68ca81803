"""A model knows what it is: what it was trained with is taken from it, and what contradicts it is refused."""

import gzip
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import load
from nibabel.processing import resample_to_output
from workflows import BUNDLES, LA, evaluate, infer, refusal, train, training_options

from aps_components.data.phantoms import write_phantoms
from aps_components.evaluation.calibrate import calibrate
from aps_components.evaluation.pseudo_labels import pseudo_label
from aps_components.evaluation.trained import load_trained
from aps_components.models import read_settings, trained_network
from aps_components.networks.sam3d.position_tables import resized_position_tables

NETWORK = {"network_def#norm": "batch", "network_def#fine_features": "false"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six labelled phantoms in one list: two are labelled, two lose their label, two validate."""
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder, labeled=6, unlabeled=0, validation=0, test=0, shape=(40, 36, 32), progress=False)
    return folder


def options(data, folder, **changes):
    short = {"epochs": 1, "epoch_length": 1, "warmup_epochs": 0, "labeled_count": 2, "validation_count": 2}
    return training_options(data, folder, **NETWORK | short | {"mc_samples": 3, "cache_rate": 0.0} | changes)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(options(data, folder))
    return folder


@pytest.fixture
def reversed_data(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "reversed")
    return rewritten(folder, lambda listing: listing | {"training": listing["training"][::-1]})


def rewritten(folder, change):
    listing = json.loads((folder / "datalist.json").read_text())
    (folder / "datalist.json").write_text(json.dumps(change(listing)))
    return folder


def answering(trained, folder, file="model.pt", **changes):
    """Nothing is typed twice."""
    short = {"bundle_root": str(LA), "device": "cpu", "overlap": 0.0, "output_dir": str(folder)}
    return short | {"checkpoint": str(trained / "models" / file)} | changes


def evaluation(data, trained, folder, **changes):
    return answering(trained, folder, dataset_dir=str(data), **changes)


def refused(*files, **given):
    kind = "infer" if files == ("inference.json",) else "train"
    return refusal(*files, kind=kind, options=given)


EVALUATE = ("train.json", "evaluate.json")


def test_a_model_says_what_it_is(trained):
    said = read_settings(trained / "models" / "model.pt")
    assert said["network_def"]["norm"] == "batch"
    assert said["network_def"]["fine_features"] is False
    assert said["network_def"]["dropout"] == 0.5  # which nobody gave
    assert said["objective"]["iou_weight"] == 0.1
    assert (said["mc_samples"], said["in_channels"], said["roi_size"]) == (3, 1, [32, 32, 32])
    assert [len(said["cases"][part]) for part in ("labeled", "unlabeled", "validation")] == [2, 2, 2]
    assert said["code"]
    assert read_settings(trained / "models" / "checkpoint.pt") == said


class TestGoingOn:
    def test_the_same_scans_elsewhere_are_the_same(self, data, trained, tmp_path):
        elsewhere = shutil.copytree(data, tmp_path / "elsewhere")
        train(options(elsewhere, trained))

    @pytest.mark.parametrize(
        "changes",
        [
            {"objective#iou_weight": 0.3},
            {"objective#dice_weight": 1.0},
            {"objective#teacher_weight": 0.1},
            {"network_def#dropout": 0.2},
            {"network_def#uncertainty_form": "variance"},
            {"network_def#prompts": {"strategy": "random"}},
            {"optimizer#betas": [0.8, 0.99]},
            {"lr_scheduler#power": 1.0},
            {"gradient_clip": 5.0},
            {"largest_component": False},
            {"train#trainer#max_epochs": 2},
        ],
    )
    def test_another_value_is_noticed(self, data, trained, changes):
        said = refused("train.json", **options(data, trained, **changes))
        key = next(iter(changes)).rpartition("#")[2]
        assert "belongs to a run with other settings" in said
        assert ("epochs" if key == "max_epochs" else key) in said

    def test_what_has_no_effect_is_not(self, data, trained):
        train(options(data, trained, cache_rate=1.0, val_interval=1, overlap=0.5, num_workers=0))

    def test_another_fold_of_the_same_name_is_refused(self, trained, reversed_data):
        said = refused("train.json", **options(reversed_data, trained))
        assert "the labeled scans are now without phantom_000, phantom_001 and with phantom_005, phantom_004" in said

    def test_another_label_is_refused(self, data, trained, tmp_path):
        folder = shutil.copytree(data, tmp_path / "relabelled")
        shutil.copy(folder / "labels" / "phantom_003.nii.gz", folder / "labels" / "phantom_001.nii.gz")
        assert "with phantom_001" in refused("train.json", **options(folder, trained))

    def test_a_copy_that_validates_is_refused(self, data, tmp_path):
        folder = shutil.copytree(data, tmp_path / "copied")
        (folder / "images" / "new.nii").write_bytes(
            gzip.decompress((data / "images" / "phantom_000.nii.gz").read_bytes())
        )
        shutil.copy(folder / "labels" / "phantom_000.nii.gz", folder / "labels" / "new.nii.gz")
        added = {"validation": [{"image": "images/new.nii", "label": "labels/new.nii.gz"}]}
        said = refused("train.json", **options(rewritten(folder, lambda listing: listing | added), tmp_path / "out"))
        assert "new.nii (validation)" in said
        assert "phantom_000.nii.gz (labeled) are one scan" in said


class TestEvaluation:
    def test_takes_everything_from_the_model(self, data, trained, tmp_path):
        evaluate(evaluation(data, trained, tmp_path))
        figures = json.loads((tmp_path / "metrics.json").read_text())
        assert {case["case"] for case in figures["cases"]} == {"phantom_004", "phantom_005"}
        assert figures["context"]["labeled_count"] == 2

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"labeled_count": 3}, "labeled_count 2 there, 3 now"),
            ({"validation_count": 1}, "validation_count 2 there, 1 now"),
            ({"spacing": [2.0, 2.0, 2.0]}, "spacing [1.25, 1.25, 1.25] there"),
            ({"intensity": "zscore_nonzero"}, "intensity 'zscore' there"),
            ({"fusion": "none"}, "fusion 'cafa' there"),
            ({"network_def#norm": "instance"}, "norm 'batch' there, 'instance' now"),
            ({"network_def#filters": 8}, "filters 2 there, 8 now"),
            ({"in_channels": 2}, "in_channels"),
        ],
    )
    def test_what_contradicts_the_model_is_refused(self, data, trained, tmp_path, changes, message):
        assert message in refused(*EVALUATE, **evaluation(data, trained, tmp_path, **changes))

    def test_scans_that_it_was_trained_on_are_refused(self, trained, reversed_data, tmp_path):
        said = refused(*EVALUATE, **evaluation(reversed_data, trained, tmp_path / "out"))
        assert "was trained on 2 of the 2 validation scans (phantom_001, phantom_000)" in said
        with pytest.raises(ValueError, match="was trained on 2 of the 2 validation scans"):
            load_trained(LA, dataset_dir=reversed_data, checkpoint=trained / "models" / "model.pt")

    def test_also_in_disguise(self, data, trained, tmp_path):
        folder = shutil.copytree(data, tmp_path / "disguised")
        os.rename(folder / "images" / "phantom_000.nii.gz", folder / "images" / "stranger.nii.gz")
        test = [{"image": "images/stranger.nii.gz", "label": "labels/phantom_000.nii.gz"}]
        listing = {"training": [], "validation": [], "test": test}
        rewritten(folder, lambda given: given | listing)
        said = refused(*EVALUATE, **evaluation(folder, trained, tmp_path / "out", validation_count=2))
        assert "stranger.nii.gz was its labeled scan 'phantom_000'" in said

    def test_adjusting_on_another_fold_is_refused(self, trained, reversed_data, tmp_path):
        """What is adjusted is measured on the validation scans, and a second round would learn from them."""
        model = trained / "models" / "model.pt"
        with pytest.raises(ValueError, match="was trained on 2 of the 2 validation scans"):
            calibrate(bundle=LA, dataset_dir=reversed_data, checkpoint=model, target=tmp_path / "model.pt")
        with pytest.raises(ValueError, match="was trained on 2 of the 2 validation scans"):
            pseudo_label(bundle=LA, dataset_dir=reversed_data, checkpoints=[model], target=tmp_path / "labels")

    def test_training_scans_by_name(self, data, trained, tmp_path):
        evaluate(evaluation(data, trained, tmp_path, split="training"))
        figures = json.loads((tmp_path / "metrics.json").read_text())
        assert {case["case"] for case in figures["cases"]} == {"phantom_000", "phantom_001"}


class TestInference:
    def scan(self, data):
        return str(data / "images" / "phantom_004.nii.gz")

    def test_a_scan_of_another_voxel_size_is_answered_in_that_of_the_training(self, data, trained, tmp_path):
        """Nobody named a size: the scans agreed on one, and the model knows it."""
        assert read_settings(trained / "models" / "model.pt")["spacing"] == [1.25, 1.25, 1.25]
        scan = nib.load(self.scan(data))
        finer = resample_to_output(scan, (0.625, 0.625, 0.625), order=1)
        nib.save(finer, tmp_path / "finer.nii.gz")
        for image, out in ((self.scan(data), tmp_path / "own"), (tmp_path / "finer.nii.gz", tmp_path / "other")):
            infer(answering(trained, out, image=str(image), largest_component=False))
        own = np.asarray(nib.load(tmp_path / "own" / "phantom_004_seg.nii.gz").dataobj)
        other = np.asarray(nib.load(tmp_path / "other" / "finer_seg.nii.gz").dataobj)
        assert other.shape == finer.shape
        seen = other[::2, ::2, ::2][tuple(slice(size) for size in own.shape)]
        assert np.mean(seen == own) > 0.97

    def test_a_whole_state_and_its_model_answer_alike(self, data, trained, tmp_path):
        for file in ("model.pt", "checkpoint.pt"):
            infer(answering(trained, tmp_path / file, file, image=self.scan(data)))
        maps = [(tmp_path / file / "phantom_004_seg.nii.gz").read_bytes() for file in ("model.pt", "checkpoint.pt")]
        assert gzip.decompress(maps[0]) == gzip.decompress(maps[1])

    @pytest.mark.parametrize("file", ["model.pt", "checkpoint.pt"])
    def test_what_contradicts_it_is_refused(self, data, trained, tmp_path, file):
        given = answering(trained, tmp_path, file, image=self.scan(data), spacing=[2.0, 2.0, 2.0])
        assert f"{file} was trained with other settings: spacing [1.25, 1.25, 1.25] there" in refused(
            "inference.json", **given
        )
        given = answering(trained, tmp_path, file, image=self.scan(data), **{"network_def#norm": "instance"})
        assert "norm 'batch' there, 'instance' now" in refused("inference.json", **given)


def test_training_on_from_another_network_is_refused(data, trained, tmp_path):
    given = options(data, tmp_path, pretrained=str(trained / "models" / "model.pt"), pretrained_part="all")
    said = refused("train.json", **given | {"network_def#fine_features": True})
    assert "fine_features False there, True now" in said


class TestPretrained:
    """What a model learned from before it knows, too."""

    def test_scans_of_the_pretraining_do_not_validate(self, trained, reversed_data, tmp_path):
        given = options(reversed_data, tmp_path / "out", pretrained=str(trained / "models" / "model.pt"))
        said = refused("train.json", **given)
        assert "validates, but the pretrained model learned from it, as 'phantom_00" in said

    def test_nor_are_they_evaluated_afterwards(self, data, trained, tmp_path):
        listing = json.loads((data / "datalist.json").read_text())
        later = shutil.copytree(data, tmp_path / "later")
        first, *others = listing["training"]
        rewritten(later, lambda given: given | {"training": others})
        model = str(trained / "models" / "model.pt")
        train(options(later, tmp_path / "out", pretrained=model, unlabeled_batch=1))
        said = read_settings(tmp_path / "out" / "models" / "model.pt")["cases"]
        assert "phantom_000" in [case["name"] for case in said["earlier"]]
        rewritten(later, lambda given: given | {"test": [first]})
        said = refused(*EVALUATE, **evaluation(later, tmp_path / "out", tmp_path / "evaluation"))
        assert "was its earlier scan 'phantom_000'" in said


def test_monai_loads_every_tensor(tmp_path, monkeypatch):
    """Although train.json has another patch than the weights, whose position tables are as large as theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", None)
    network = load("la", bundle_dir=str(BUNDLES))
    weights = torch.load(LA / "models" / "model.pt", weights_only=True)
    loaded = network.state_dict()
    sizes = {name for name, value in weights.items() if value.shape != loaded[name].shape}
    assert sizes
    for name, value in resized_position_tables(weights, like=loaded).items():
        torch.testing.assert_close(loaded[name].float(), value.float(), msg=name)


def test_the_shipped_model_says_how_it_is_built():
    assert trained_network(LA / "models" / "model.pt")["sam_variant"] == "compact"
