"""A bundle's files are opened as one: what they say, what is laid over them, and the network with its weights."""

import sys

import pytest
import torch
from bundle_copies import copy_bundle, edit_json, state_dict, write_model
from workflows import BUNDLES

from aps_components.configuration import BundleConfig, BundleWorkflow
from aps_components.models import CheckpointError

LA = BUNDLES / "la"


@pytest.fixture
def bundle(tmp_path):
    """Of the smallest network, trained, in a folder whose name MONAI would read as a reference."""
    return copy_bundle(tmp_path / "b#undle")


def adapted(root):
    """Its inference, with the values that its weights were trained with."""
    config = BundleConfig.read(root, "inference.json")
    config.change({"bundle_root": str(root), "spacing": [1.5, 1.5, 2.0], "roi_size": [32, 48, 32], "fusion": "cafa"})
    return config


def test_a_later_file_lies_over_an_earlier_one(bundle):
    alone = BundleConfig.read(bundle, "train.json")
    both = BundleConfig.read(bundle, "train.json", "evaluate.json")
    assert "evaluation" in both.parser
    assert "evaluation" not in alone.parser
    (bundle / "configs" / "mine.json").write_text('{"overlap": 0.125}')
    assert BundleConfig.read(bundle, "inference.json", "mine.json").value("overlap") == 0.125


def test_a_file_that_is_missing_is_named(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"evaluate\.json: give the folder of a bundle"):
        BundleConfig.read(tmp_path, "train.json", "evaluate.json")


def test_a_path_is_taken_as_it_is_and_what_was_built_is_built_anew(bundle):
    config = adapted(bundle)
    first = config.value("network_def")
    assert config.value("network_def") is first
    config.change({"checkpoint": "/tmp/a#b/@model.pt"})
    assert config.value("checkpoint") == "/tmp/a#b/@model.pt"
    assert config.value("network_def") is not first


def test_a_users_option_must_be_known():
    config = BundleConfig.read(LA, "inference.json")
    config.lay_over({"overlap": 0.25})
    assert config.value("overlap") == 0.25
    with pytest.raises(ValueError, match="no option --overlapp"):
        config.lay_over({"overlapp": 0.25})


def test_the_network_has_the_weights_of_the_checkpoint(bundle):
    checkpoint = bundle / "models" / "model.pt"
    config = adapted(bundle)
    config.change({"checkpoint": str(checkpoint)})
    loaded, written = config.load_network(checkpoint).state_dict(), state_dict()
    assert loaded.keys() == written.keys()
    assert all(torch.equal(loaded[name], written[name]) for name in written)


def test_weights_of_another_spacing_are_refused(bundle, tmp_path):
    other = write_model(tmp_path / "other.pt", spacing=[3.0, 3.0, 3.0])
    config = adapted(bundle)
    config.change({"checkpoint": str(other)})
    with pytest.raises(CheckpointError, match="spacing"):
        config.load_network(other)


def test_a_workflow_reads_the_metadata_and_is_monais_own(bundle):
    edit_json(bundle / "configs" / "metadata.json", version="7.5.3")
    opened = BundleWorkflow(bundle, "inference.json", kind="infer", init_id="nothing")
    assert opened.workflow.parser is opened.parser
    assert opened.parser["_meta_"]["version"] == "7.5.3"
    opened.change({"bundle_root": str(bundle), "output_dir": "/tmp/out#1"})
    assert opened.value("output_dir") == "/tmp/out#1"


def test_opened_from_python_it_leaves_the_process_as_it_is(bundle, tmp_path, monkeypatch):
    kept, hook = [], sys.excepthook
    monkeypatch.setattr("aps_components.memory.keep_freed_memory", lambda: kept.append(True))
    opened = BundleWorkflow(bundle, "inference.json", kind="infer")
    opened.change({"bundle_root": str(bundle), "output_dir": str(tmp_path / "made"), "load_pretrain": False})
    opened.workflow.initialize()
    assert (tmp_path / "made").is_dir()  # its other steps were taken
    assert sys.excepthook is hook
    assert not kept
