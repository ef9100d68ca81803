"""Weights in half precision."""

import json

import pytest
import torch

from aps_components import cli
from aps_components.models import CheckpointError, build_auto_prompt_seg, halve, load_weights


@pytest.fixture
def source(tmp_path):
    def write(weights, settings=True):
        torch.save(weights, tmp_path / "model.pt")
        if settings:
            (tmp_path / "model.json").write_text(
                json.dumps({"roi_size": [32, 32, 16], "pretrained": str(tmp_path / "a.pt")})
            )
        return tmp_path / "model.pt"

    return write


def test_weights_are_rounded_counters_and_settings_kept(source, tmp_path, capsys):
    third, counter = torch.full((5,), 1 / 3), torch.tensor(70_000)
    cli.halve(str(source({"weight": third, "counter": counter})), str(tmp_path / "new" / "model.pt"))
    written = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
    assert written["weight"].dtype == torch.float16
    assert written["weight"][0].item() == 0.333251953125  # 1365 / 4096
    assert written["counter"] == counter
    assert json.loads((tmp_path / "new" / "model.json").read_text()) == {
        "backbone": "vnet",  # what there was before there were others
        "strides": None,
        "kernel_sizes": None,
        "roi_size": [32, 32, 16],
        "pretrained": "a.pt",
    }
    assert f"{tmp_path / 'new' / 'model.pt'}: 0.0 MB" in capsys.readouterr().out


def test_a_network_computes_on_them_in_float32(source, tmp_path):
    def network(seed):
        torch.manual_seed(seed)
        return build_auto_prompt_seg(num_classes=2, roi_size=(32, 32, 16), filters=4, sam_variant="tiny").eval()

    image = torch.randn(1, 1, 32, 32, 16)
    one, other = network(0), network(1)
    load_weights(other, halve(source(one.state_dict()), tmp_path / "half.pt"))
    assert {value.dtype for value in other.parameters()} == {torch.float32}
    with torch.inference_mode():
        assert (one(image).softmax(1) - other(image).softmax(1)).abs().max() < 0.02


@pytest.mark.parametrize(
    ("weights", "settings", "message"),
    [
        ({"model": {"weight": torch.ones(2)}}, True, "holds more than weights"),
        ({"weight": torch.tensor([1e5])}, True, "weight has values beyond 65504"),
        ({"weight": torch.ones(2)}, False, r"model\.json: missing"),
    ],
)
def test_what_cannot_be_halved_is_named(source, tmp_path, weights, settings, message):
    with pytest.raises(CheckpointError, match=message):
        halve(source(weights, settings), tmp_path / "half.pt")
    assert not (tmp_path / "half.pt").exists()
