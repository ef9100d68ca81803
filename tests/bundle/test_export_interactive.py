"""Encoder and decoder as two ONNX files, run by ONNX Runtime alone."""

import json
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch
from test_export import SIZE, make_bundle

from aps_components import cli
from aps_components.bundle.export_interactive import DECODER, ENCODER, export_interactive
from aps_components.models import as_tensors, copy_settings
from aps_components.models.interaction import together
from aps_components.prompts import Click, UserPrompts

PARTS = ("tokens", "quarter", "half")
OWN = ("own_coords", "own_labels", "own_weights")
SMALL = {"filters": 4, "sam_variant": "tiny", "prompts": {"points_per_class": 3, "min_probability": 0.2}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder, model = make_bundle(tmp_path_factory.mktemp("bundles") / "tiny", network=SMALL)
    weights = folder / "models" / "model.pt"
    copy_settings(weights, weights, more={"simulated_user": {}})
    return folder, model


@pytest.fixture(scope="module")
def exported(bundle, tmp_path_factory):
    return export_interactive(bundle[0], out=tmp_path_factory.mktemp("exported") / "new")


def by_torch(model, image, clicks, earlier):
    """Clicks in PyTorch, as training and inference give them."""
    seen = model.see(image)
    own = model.own_points(seen)
    said = as_tensors([UserPrompts([Click(label, voxel) for voxel, label in clicks], [], [])], device="cpu")
    prompts = together(said, own.point_coords, own.point_labels, own.scores)
    return model.answer(seen, prompts, mask_inputs=earlier).logits


@pytest.mark.slow
@torch.no_grad()
def test_clicks_through_onnx_runtime_are_those_of_pytorch(bundle, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder, decoder = (
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        for file in (exported.encoder, exported.decoder)
    )
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(3))
    names = [output.name for output in encoder.get_outputs()]
    assert names == [*PARTS, "logits_a", *OWN]
    seen = dict(zip(names, encoder.run(None, {"image": image.numpy()}), strict=True))
    earlier = None
    for clicks in ([((3, 5, 7), 1)], [((3, 5, 7), 1), ((20, 40, 9), 0), ((31, 0, 15), 1), ((8, 8, 8), 0)]):
        logits, iou = decoder.run(
            None,
            {
                "image": image.numpy(),
                **{name: seen[name] for name in (*PARTS, *OWN)},
                "point_coords": np.array([[voxel for voxel, _ in clicks]], dtype=np.float32),
                "point_labels": np.array([[label for _, label in clicks]], dtype=np.int64),
                "mask_inputs": np.zeros_like(seen["logits_a"]) if earlier is None else earlier,
                "has_mask": np.array([0.0 if earlier is None else 1.0], dtype=np.float32),
            },
        )
        expected = by_torch(bundle[1], image, clicks, None if earlier is None else torch.from_numpy(earlier))
        torch.testing.assert_close(torch.from_numpy(logits).softmax(1), expected.softmax(1), atol=1e-3, rtol=0)
        assert iou.shape == (1, 2)
        earlier = logits
    assert exported.largest_difference < exported.tolerance
    about = decoder.get_modelmeta().custom_metadata_map
    assert json.loads(about["roi_size"]) == list(SIZE)
    assert sorted(file.name for file in exported.encoder.parent.iterdir()) == [DECODER, ENCODER]


def test_what_does_not_fit_is_named_and_nothing_is_written(bundle, tmp_path):
    with pytest.raises(ValueError, match=r"model\.onnx: --interactive writes two files; give a folder"):
        export_interactive(bundle[0], out=tmp_path / "model.onnx")
    untaught, _ = make_bundle(tmp_path / "untaught", network=SMALL)
    with pytest.raises(ValueError, match="trained without prompts"):
        export_interactive(untaught, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(bundle, tmp_path, capsys):
    with patch("aps_components.bundle.export_interactive.export_interactive", return_value="done") as export:
        arguments = ["export", str(bundle[0]), "--interactive", f"--out={tmp_path / 'out'}"]
        with patch.object(sys, "argv", ["aps", *arguments]):
            cli.main()
    assert export.call_args.kwargs["out"] == str(tmp_path / "out")
    assert capsys.readouterr().out == "done\n"
    with patch.object(sys, "argv", ["aps", *arguments, "--format=torchscript"]), pytest.raises(SystemExit) as error:
        cli.main()
    assert str(error.value).startswith("ValueError: --interactive writes ONNX")


@pytest.mark.slow
def test_the_shipped_model_is_exported(tmp_path):
    """Its own points tie on a window that is no heart; which of them comes first is no difference."""
    pytest.importorskip("onnxruntime")
    done = export_interactive("la", out=tmp_path / "la")
    assert done.largest_difference < done.tolerance
