"""What a notebook imports from the top of the package."""

import subprocess
import sys

import pytest
import torch
from workflows import LA, environment

import aps_components
from aps_components.models import CheckpointError

PUBLIC = ("Answer", "LoadedModel", "Predictor", "Segmentation", "TrainingResults", "load_model", "segment", "train")


def test_importing_the_package_loads_neither_torch_nor_monai():
    code = "import aps_components, sys; print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_with_its_documentation(name):
    assert name in dir(aps_components)
    assert getattr(aps_components, name).__doc__


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        aps_components.no_such_name  # noqa: B018


def test_a_model_is_loaded_by_the_name_of_its_bundle(tmp_path, monkeypatch):
    by_file = aps_components.load_model(LA / "models", "cpu")  # the folder of model.pt
    assert by_file.checkpoint == LA / "models" / "model.pt"
    monkeypatch.chdir(tmp_path)
    by_name = aps_components.load_model("la", "cpu")
    assert by_name.labels == by_file.labels
    assert all(
        torch.equal(one, other)
        for one, other in zip(by_name.network.parameters(), by_file.network.parameters(), strict=True)
    )


def test_a_model_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing\.pt"):
        aps_components.load_model(tmp_path / "missing.pt", "cpu")
    with pytest.raises(FileNotFoundError, match="no_bundle_of_this_name"):
        aps_components.load_model("no_bundle_of_this_name", "cpu")
    with pytest.raises(FileNotFoundError, match="has no weights"):
        aps_components.load_model("amos", "cpu")
