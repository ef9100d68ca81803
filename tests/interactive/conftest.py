import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny_model import AFFINE, NETWORK, ROI, SETTINGS, SHAPE

from aps_components.interactive import load_model
from aps_components.models import build_auto_prompt_seg, save_settings


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """Weights of a tiny network, drawn at random, with the settings beside them that training writes."""
    file = tmp_path_factory.mktemp("model") / "model.pt"
    torch.manual_seed(0)
    network = build_auto_prompt_seg(num_classes=3, roi_size=ROI, **NETWORK)
    torch.save(network.state_dict(), file)
    save_settings(SETTINGS, file)
    return file


@pytest.fixture(scope="session")
def model(model_file):
    return load_model(model_file, "cpu", settings={"precision": "fp32"})


@pytest.fixture(scope="session")
def scan(tmp_path_factory):
    """A file whose axes are turned and mirrored, and whose voxels are neither cubes nor the network's."""
    file = tmp_path_factory.mktemp("scans") / "a.nii.gz"
    values = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 2).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), file)
    return file
