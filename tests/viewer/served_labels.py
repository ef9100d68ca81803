"""What the server made of a viewer's labels, and how long to wait for it."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np

PATIENCE_MS = 1000 * int(os.environ.get("VIEWER_PATIENCE", "180"))


def label_file(server, series) -> Path:
    """The server's copy of the label, which training reads."""
    return next((server.app / "dicom").glob(f"*/labels/final/{series}.nii.gz"))


def label_of(server, series):
    """The label that training reads, [X, Y, Z]."""
    return np.asanyarray(nib.load(label_file(server, series)).dataobj)
