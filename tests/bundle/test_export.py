import json
import math
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise, product
from unittest.mock import patch

import pytest
import torch
from monai.bundle import ckpt_export
from monai.data import load_net_with_metadata
from torch.nn import functional as F
from workflows import LA, run_python, untrained_copy

from aps_components import cli
from aps_components.bundle.export import OPSET, export_network, largest_of, trial_images
from aps_components.convolution import plain_convolutions
from aps_components.models import build_auto_prompt_seg, save_settings

SIZE = (32, 48, 16)  # sizes that cannot be confused
FOUR_CLASSES = {"labels": {str(value): f"class {value}" for value in range(4)}, "in_channels": 2}
TINY = {"filters": 4, "sam_variant": "tiny", "prompts": {"min_probability": 0.1}}

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")


def make_bundle(folder, *, size=SIZE, network=TINY, **changes):
    """The left-atrium bundle with another network, and weights that were drawn for it; and that network."""
    untrained_copy(LA, folder, "*.png")
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text()) | changes
    config["network_def"] |= network
    file.write_text(json.dumps(config))
    said = json.loads((folder / "configs" / "train.json").read_text()) | changes
    torch.manual_seed(0)
    model = build_auto_prompt_seg(
        num_classes=len(said["labels"]), in_channels=said["in_channels"], roi_size=size, **network
    )
    torch.save(model.state_dict(), folder / "models" / "model.pt")
    save_settings({"roi_size": list(size), "spacing": [1.0, 1.0, 2.5]}, folder / "models" / "model.json")
    return folder, model.eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "several", **FOUR_CLASSES)


@pytest.fixture(scope="module")
def script(bundle, tmp_path_factory):
    """The tiny network as TorchScript, from the disk."""
    file = tmp_path_factory.mktemp("exported") / "model.ts"
    export_network(bundle[0], format="torchscript", out=file)
    return torch.jit.load(file)


def leave_a_class_without_points(folder, model):
    """The last class never reaches the probability that a prompt needs."""
    model.model_a.logits_head.bias.data[-1] = -50
    torch.save(model.state_dict(), folder / "models" / "model.pt")


def images(channels, size=SIZE):
    """Noise, smooth fields, a half-empty and an empty window, and three windows at once."""
    torch.manual_seed(1)
    coarse = [extent // 8 for extent in size]
    yield torch.randn(1, channels, *size)
    yield 3 * F.interpolate(torch.randn(1, channels, *coarse), size=size, mode="trilinear")
    yield torch.rand(1, channels, *size) * (torch.arange(size[2]) > size[2] // 2)
    yield torch.zeros(1, channels, *size)
    yield torch.randn(3, channels, *size)


def points(model, image):
    return {tuple(point) for point in model.predict(image).prompts.point_coords.flatten(0, 1).tolist()}


def assert_same_function(exported, model, channels, size=SIZE):
    """Bit for bit, on images whose prompts differ."""
    seen = []
    for image in images(channels, size):
        assert torch.equal(exported(image), model(image))
        seen.append(points(model, image))
    assert all(one != other for one, other in pairwise(seen))


@pytest.fixture
def plain():
    """Small volumes go through torch's own convolution, as in an export; their last digits are the same then."""
    with plain_convolutions():
        yield


@pytest.mark.usefixtures("plain")
class TestTorchScript:
    @torch.no_grad()
    def test_is_the_network_to_the_bit(self, bundle, script):
        assert_same_function(script, bundle[1], channels=1)

    @pytest.mark.parametrize(
        "network",
        [
            {"norm": "batch", "fusion": "none", "fine_features": False, "mc_samples": 1},
            {"norm": "group", "fusion": "concatenation", "prompts": {"points_per_class": 0}},
            {"uncertainty_form": "entropy", "mc_samples": 3, "prompts": {"radius": 2, "points_per_class": 500}},
        ],
    )
    @torch.no_grad()
    def test_of_every_kind_of_network(self, network):
        model = build_auto_prompt_seg(num_classes=3, roi_size=SIZE, **TINY | network).eval()
        traced = torch.jit.trace(model, torch.rand(1, 1, *SIZE), check_trace=False)
        for image in images(1):
            assert torch.equal(traced(image), model(image))

    @torch.no_grad()
    @pytest.mark.slow
    def test_of_several_classes_and_channels_where_one_class_has_no_point(self, tmp_path):
        folder, model = make_bundle(tmp_path / "bundle", **FOUR_CLASSES)
        leave_a_class_without_points(folder, model)
        labels = model.predict(next(images(2))).prompts.point_labels
        assert {-1, 0, 1, 2} >= set(labels.flatten().tolist()) > {-1}
        report = export_network(folder, format="torchscript", out=tmp_path / "model.ts")
        assert report.largest_difference == 0
        assert report.equal_labels == 1
        assert_same_function(torch.jit.load(report.path), model, channels=2)

    @pytest.mark.parametrize("predictor", ["a", "b"])
    @torch.no_grad()
    def test_of_one_model(self, bundle, tmp_path, predictor):
        folder, model = bundle
        report = export_network(folder, format="torchscript", out=tmp_path / "model.ts", predictor=predictor)
        assert report.settings["predictor"] == predictor
        exported, (image, *_) = torch.jit.load(report.path), images(1)
        assert torch.equal(exported(image), getattr(model.predict(image), f"logits_{predictor}"))
        assert any(name.startswith("model_b") for name, _ in exported.named_parameters())

    def test_another_size_is_refused_by_name(self, script):
        for size in [(48, 48, 16), (32, 48, 32)]:
            with pytest.raises(torch.jit.Error, match=r"\[1, 1, \d+, 48, \d+\] must be .* = \[1, 32, 48, 16\], as exp"):
                script(torch.zeros(1, 1, *size))

    @torch.no_grad()
    def test_knows_no_device_and_draws_nothing(self, script):
        """A device written down is the CPU, wherever it runs later; a number that is drawn is another each time."""
        (image, *_) = images(1)
        script(image)
        nodes = list(script.inlined_graph.nodes())
        devices = {value.debugName() for node in nodes for value in node.outputs() if str(value.type()) == "Device"}
        assert not [node.kind() for node in nodes for value in node.inputs() if value.debugName() in devices]
        assert not [node.kind() for node in nodes if "rand" in node.kind() or "dropout" in node.kind()]
        factories = {"aten::arange", "aten::eye", "aten::zeros", "aten::ones", "aten::full", "aten::empty"}
        assert not factories.intersection(node.kind() for node in nodes)

    @torch.no_grad()
    def test_under_autocast_it_is_near(self, bundle, script):
        for image in list(images(1))[:2]:
            with torch.autocast("cpu", torch.bfloat16):
                near = script(image)
            torch.testing.assert_close(near.softmax(1), bundle[1](image).softmax(1), atol=0.05, rtol=0)

    @torch.no_grad()
    def test_runs_without_the_package(self, bundle, script, tmp_path):
        image = next(images(1))
        torch.jit.save(script, tmp_path / "model.ts")
        torch.save(image, tmp_path / "image.pt")
        code = (
            "import sys\n"
            "sys.modules.update(dict.fromkeys(['aps_components', 'monai', 'segment_anything']))\n"
            "import torch\n"
            "torch.set_num_threads(1)\n"
            "with torch.no_grad(): answer = torch.jit.load('model.ts')(torch.load('image.pt'))\n"
            "torch.save(answer, 'answer.pt')\n"
        )
        result = subprocess.run(
            [sys.executable, "-I", "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert torch.equal(torch.load(tmp_path / "answer.pt", weights_only=True), bundle[1](image))

    def test_says_what_it_is(self, bundle, tmp_path):
        folder, _ = bundle
        report = export_network(folder, format="torchscript", out=tmp_path / "model.ts", options={"mc_samples": 3})
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        _, found, extra = load_net_with_metadata(str(report.path), more_extra_files=["inference.json", "export.json"])
        assert found == metadata
        assert json.loads(extra["inference.json"]) == json.loads((folder / "configs" / "inference.json").read_text())
        expected = {
            "name": metadata["name"],
            "version": metadata["version"],
            "labels": {"0": "background", "1": "left atrium"},
            "modalities": None,
            "in_channels": 1,
            "spacing": [1.0, 1.0, 2.5],
            "roi_size": list(SIZE),
            "intensity": "zscore",
            "predictor": "average",
            "mc_samples": 3,
            "overlap": 0.5,
            "mirror_axes": [],
            "largest_component": True,
            "temperature": 1.0,
        }
        settings = json.loads(extra["export.json"])
        assert settings == report.settings
        assert settings == expected | {"made_with": settings["made_with"]}


@contextmanager
def session(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    yield onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def assert_near(path, model, given, *, at_most=1e-3):
    """Probabilities within a thousandth; the same label wherever the two best are further apart than that."""
    with session(path) as runtime, torch.no_grad():
        for image in given:
            expected = model(image).softmax(1)
            found = torch.from_numpy(runtime.run(["pred"], {"image": image.numpy()})[0]).softmax(1)
            torch.testing.assert_close(found, expected, atol=at_most, rtol=0)
            first, second = expected.topk(2, dim=1).values.unbind(dim=1)
            clear = first - second > 2 * at_most
            assert torch.equal(found.argmax(1)[clear], expected.argmax(1)[clear])


def without_empty(given):
    """Of one constant value a window has no answer but rounding: normalisation divides it by its own deviation."""
    return [image for image in given if image.std() > 0]


class TestOnnx:
    def test_of_the_v_net(self, bundle, tmp_path):
        folder, model = bundle
        report = export_network(folder, format="onnx", out=tmp_path / "model.onnx", predictor="a")
        assert report.largest_difference <= 1e-3
        assert_near(report.path, lambda image: model.model_a(image).logits, without_empty(images(1)))
        with session(report.path) as runtime:
            with pytest.raises(Exception, match="Got: 32 Expected: 16"):
                runtime.run(None, {"image": torch.zeros(1, 1, 32, 48, 32).numpy()})
            properties = runtime.get_modelmeta().custom_metadata_map
        assert {key: json.loads(value) for key, value in properties.items()} == report.settings
        content = report.path.read_bytes()
        assert str(LA.parents[1]).encode() not in content

    @pytest.mark.slow
    def test_of_the_whole(self, tmp_path):
        """Prompts and SAM, with standard operators alone; also where a class has no point."""
        onnx = pytest.importorskip("onnx")
        folder, model = make_bundle(tmp_path / "bundle", **FOUR_CLASSES)
        leave_a_class_without_points(folder, model)
        report = export_network(folder, format="onnx", out=tmp_path / "model.onnx")
        assert_near(report.path, model, without_empty(images(2)))
        written = onnx.load(report.path)
        assert [(each.domain, each.version) for each in written.opset_import] == [("", OPSET)]
        assert {node.domain for node in written.graph.node} == {""}
        assert "TopK" in {node.op_type for node in written.graph.node}

    @pytest.mark.slow
    def test_of_the_default_network(self, tmp_path):
        size = (32, 64, 48)
        folder, model = make_bundle(tmp_path / "default", size=size, network={})
        report = export_network(folder, format="onnx", out=tmp_path / "model.onnx")
        assert_near(report.path, model, without_empty(images(1, size)), at_most=5e-3)

    def test_a_missing_package_is_named(self, bundle, tmp_path):
        with patch.dict(sys.modules, {"onnxruntime": None}), pytest.raises(RuntimeError, match=r"onnxruntime.*\[exp"):
            export_network(bundle[0], format="onnx", out=tmp_path / "model.onnx")
        assert not list(tmp_path.iterdir())

    def test_a_network_that_is_not_exported_says_why(self, tmp_path):
        pytest.importorskip("onnxscript")
        folder, _ = make_bundle(tmp_path / "random", network=TINY | {"prompts": {"strategy": "random"}})
        with pytest.raises(ValueError, match="strategy 'random' draws its numbers anew"):
            export_network(folder, format="torchscript", out=tmp_path / "model.ts")
        with pytest.raises(RuntimeError, match=r"no ONNX export .*strategy 'random' draws.*; try --predictor a"):
            export_network(folder, format="onnx", out=tmp_path / "model.onnx")


def monai_options(folder, size, channels=1):
    """Those of ``monai.bundle ckpt_export``."""
    return {
        "filepath": str(folder / "models" / "model.ts"),
        "ckpt_file": str(folder / "models" / "model.pt"),
        "meta_file": str(folder / "configs" / "metadata.json"),
        "config_file": str(folder / "configs" / "inference.json"),
        "input_shape": [1, channels, *size],
        "use_trace": True,
        "bundle_root": str(folder),
    }


@pytest.mark.usefixtures("plain")
class TestMonai:
    @pytest.mark.slow
    @pytest.mark.parametrize("made", ["bundle", "several"])
    @torch.no_grad()
    def test_ckpt_export_gives_the_same(self, made, request, monkeypatch):
        folder, model = request.getfixturevalue(made)
        channels = model.model_a.in_channels
        ckpt_export("network_def", **monai_options(folder, SIZE, channels))
        exported, metadata, _ = load_net_with_metadata(str(folder / "models" / "model.ts"))
        assert metadata == json.loads((folder / "configs" / "metadata.json").read_text())
        assert_same_function(exported, model, channels)

    @pytest.mark.slow
    @torch.no_grad()
    def test_from_the_command_line_with_the_default_network(self, tmp_path):
        size = (32, 64, 48)
        folder, model = make_bundle(tmp_path / "default", size=size, network={})
        options = [part for key, value in monai_options(folder, size).items() for part in (f"--{key}", str(value))]
        result = run_python(["-m", "monai.bundle", "ckpt_export", "network_def", *options], cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert_same_function(torch.jit.load(folder / "models" / "model.ts"), model, 1, size)


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": "tensorrt"}, "format 'tensorrt' must be one of torchscript, onnx"),
            ({"out": "model.onnx"}, "model.onnx does not name a torchscript file: give one such as model.ts"),
            ({"out": ""}, "is a folder: name another file"),
            ({"predictor": "c"}, "predictor 'c' must be 'a', 'b' or 'average'"),
            ({"options": {"roi": [1, 2, 3]}}, "no option --roi; "),
            ({"options": {"roi_size": [32, 32, 32]}}, r"trained with other settings: roi_size \[32, 48, 16\] there"),
            ({"checkpoint": "nowhere.pt"}, "no checkpoint at .*nowhere.pt"),
        ],
    )
    def test_is_named(self, bundle, tmp_path, changes, message):
        arguments = {"format": "torchscript", "out": "model.ts"} | changes
        with pytest.raises((ValueError, FileExistsError), match=message):
            export_network(bundle[0], **arguments | {"out": tmp_path / arguments["out"]})
        assert not list(tmp_path.iterdir())

    def test_a_bundle_without_weights_says_how_to_get_them(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="has no weights"):
            export_network(untrained_copy(LA, tmp_path / "la"), format="torchscript", out=tmp_path / "model.ts")

    @pytest.mark.parametrize("wrong", [0.01, torch.nan])
    def test_a_file_with_other_answers_is_not_kept(self, bundle, tmp_path, wrong):
        folder, model = bundle

        def spoilt(network, shape, path, **_):
            path.write_bytes(b"spoilt")
            return lambda image: model(image) + wrong * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)

        with patch("aps_components.bundle.export._to_torchscript", spoilt):
            with pytest.raises(RuntimeError, match=r"model.ts was not written: a probability differs by .* from PyTor"):
                export_network(folder, format="torchscript", out=tmp_path / "model.ts")
            assert not list(tmp_path.iterdir())
            if wrong == wrong:
                report = export_network(folder, format="torchscript", out=tmp_path / "model.ts", tolerance=0.01)
                assert 0.002 < report.largest_difference < 0.003  # the slope of the sigmoid is at most 1/4


def test_trial_images_are_several_and_of_the_shape():
    given = list(trial_images((2, *SIZE)))
    assert {image.shape[1:] for image in given} == {(2, *SIZE)}
    assert {len(image) for image in given} == {1, 2}
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in product(given, given) if a is not b)


def test_the_command(bundle, tmp_path, capsys):
    arguments = ["export", bundle[0], "--format", "torchscript", "--out", tmp_path / "new" / "model.ts"]
    arguments += ["--predictor=a", "--roi_size=[32,48,16]", "--mc_samples=3"]
    with patch.object(sys, "argv", ["aps", *map(str, arguments)]):
        cli.main()
    first, shapes, difference, seconds = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'new' / 'model.ts'}: torchscript, ")
    assert first.endswith(" MB, predictor a")
    assert shapes == "  image [B, 1, 32, 48, 16] -> pred [B, 2, 32, 48, 16], logits, float32"
    assert difference.startswith("  largest difference of a probability to PyTorch: 0 (at most 1e-05 allowed); ")
    assert "exported" in seconds
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.ts"]


@torch.no_grad()
def test_the_masks_are_no_part_of_a_checkpoint_and_follow_their_settings(bundle):
    folder, model = bundle
    assert not [key for key in model.state_dict() if "mask" in key.split(".")[0]]
    other = build_auto_prompt_seg(num_classes=2, roi_size=SIZE, mc_samples=3, **TINY).eval()
    other.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    image = next(images(1))
    assert not torch.equal(other.predict(image).epistemic, model.predict(image).epistemic)
    other.mc_samples = 2
    assert torch.equal(other.predict(image).epistemic, model.predict(image).epistemic)


@pytest.mark.parametrize("differences", [[1e-3, math.nan, 2e-3], [math.nan, 1e-3], [1e-3, math.nan]])
def test_a_difference_that_is_no_number_is_the_largest(differences):
    assert math.isnan(largest_of(differences))
    assert largest_of([1e-3, 5e-3, 2e-3]) == pytest.approx(5e-3)
