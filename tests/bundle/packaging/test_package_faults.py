"""A bundle that does not fit is refused, and each fault is a line with its mend."""

import json
import shutil

import pytest
import torch
from bundle_copies import copy_bundle, edit, edit_json, state_dict, write_model

from aps_components.bundle.packaging import PackageError, package_bundle

METADATA = "configs/metadata.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return copy_bundle(tmp_path_factory.mktemp("whole") / "small")


@pytest.fixture
def bundle(whole, tmp_path):
    """A bundle that fits, to be spoilt."""
    return shutil.copytree(whole, tmp_path / "small")


@pytest.fixture
def unrun(monkeypatch):
    """For faults that show without the workflows, which take half a second."""
    monkeypatch.setattr("aps_components.bundle.packaging.package.run_faults", lambda *_: [])


def faults(bundle, **options):
    out = bundle.parent / "dist"
    with pytest.raises(PackageError) as error:
        package_bundle(bundle, out=out, **options)
    assert not out.exists()
    assert str(error.value).count("\n- ") == len(error.value.faults)
    return error.value.faults


def the_fault(bundle, **options):
    (fault,) = faults(bundle, **options)
    return fault


def in_metadata(**changes):
    return lambda bundle: edit_json(bundle / METADATA, **changes)


def in_format(path, value):
    """Change one value of the network_data_format."""

    def change(bundle):
        content = json.loads((bundle / METADATA).read_text())
        *way, last = path.split("#")
        place = content["network_data_format"]
        for key in way:
            place = place[key]
        place[last] = value
        (bundle / METADATA).write_text(json.dumps(content))

    return change


def removed(name):
    return lambda bundle: (bundle / name).unlink()


def written(name, text):
    return lambda bundle: (bundle / name).write_text(text)


def edited(name, before, after):
    return lambda bundle: edit(bundle / name, before, after)


def test_the_bundle_that_these_tests_spoil_fits(bundle, tmp_path):
    package_bundle(bundle, out=tmp_path / "dist")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (removed("LICENSE"), "LICENSE: missing; copy the project's LICENSE"),
        (written("LICENSE", " \n"), "LICENSE: empty; copy"),
        (removed("docs/data_license.txt"), "docs/data_license.txt: missing; say there where the data come from"),
        (
            in_metadata(to_fill_in=["docs/data_license.txt"]),
            "docs/data_license.txt: not filled in yet; do it, and take it out of to_fill_in in configs/metadata.json",
        ),
        (
            written("docs/data_license.txt", 'Data of the bundle "tiny"\n\nTO FILL IN:\nWhere the scans come from'),
            "docs/data_license.txt: still says 'TO FILL IN'; write the terms of the data there",
        ),
        (removed("docs/README.md"), "docs/README.md: missing; write one with the sections Model Overview, Data"),
        (edited("docs/README.md", "\n## Output\n", "\n### Output\n"), 'no section "Output"; add "## Output"'),
        (
            edited("docs/README.md", "\n## Input\n", "\n## Input\n\n## More\n"),
            'the section "Input" is empty; fill it in',
        ),
        (
            edited("docs/README.md", "## Data\n", "## Data\n\n[figure](../figure.png)\n"),
            "docs/README.md: links to ../figure.png, which is not there; mend the link",
        ),
        (
            edited("docs/README.md", "## Data\n", "## Data\n\n[page](../../../docs/no-page.md)\n"),
            "docs/README.md: links to ../../../docs/no-page.md, which is not there; mend the link",
        ),
    ],
)
@pytest.mark.usefixtures("unrun")
def test_papers(bundle, spoil, message):
    spoil(bundle)
    assert message in the_fault(bundle)


@pytest.mark.usefixtures("unrun")
def test_a_link_to_a_file_that_stays_behind(bundle):
    (bundle / "eval").mkdir()
    (bundle / "eval" / "figure.png").touch()
    edit(bundle / "docs" / "README.md", "## Data\n", "## Data\n\n![figure](../eval/figure.png)\n")
    assert the_fault(bundle).startswith("docs/README.md: links to ../eval/figure.png, which is not packaged; move it")


@pytest.mark.parametrize("name", ["small.v2", "small bundle", "-small"])
@pytest.mark.usefixtures("unrun")
def test_a_name_that_monai_cannot_unpack(bundle, name):
    assert the_fault(bundle.rename(bundle.with_name(name))).startswith(f"{name}: no name for a bundle; rename the")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (removed(METADATA), f"{METADATA}: missing; copy that of another bundle"),
        (written(METADATA, "{oops"), f"{METADATA}: not valid JSON (Expecting property name"),
        (written(METADATA, "[]"), f"{METADATA}: holds a list; write a JSON object"),
        (in_metadata(task=...), f"{METADATA}: 'task' is a required property; mend it as configs/meta_schema_20240725"),
        (in_metadata(authors=3), f"{METADATA}: authors: 3 is not of type 'string'"),
        (in_metadata(version="99.0.0"), f"{METADATA}: version 99.0.0 is not in the changelog; say there what is new"),
        (in_metadata(version="v1"), f"{METADATA}: version 'v1' is not MAJOR.MINOR.PATCH; write one such as"),
        (in_metadata(version="1.02.0"), f"{METADATA}: version '1.02.0' is not MAJOR.MINOR.PATCH"),
        (in_metadata(changelog=...), f"{METADATA}: changelog is None; map the version to what is new"),
        (
            in_metadata(version="0.9.0", changelog={"0.9.0": "a", "0.10.0": "b"}),
            f"{METADATA}: the changelog goes on to 0.10.0 but version is 0.9.0; raise version",
        ),
        (
            in_metadata(required_packages_version={"nibabel": "5.4.2"}),
            f"{METADATA}: required_packages_version lacks pytorch-ignite, which the bundle imports; add '0.5.5'",
        ),
        (in_metadata(**{"a::b": 1}), f"{METADATA}: MONAI cannot read one of its keys"),
        (in_metadata(**{"a#b": 1}), f"{METADATA}: MONAI cannot read one of its keys"),
        (removed("configs/inference.json"), "configs/inference.json: missing; copy it from another bundle"),
        (written("configs/evaluate.json", "{"), "configs/evaluate.json: not valid JSON"),
    ],
)
def test_configurations(bundle, spoil, message):
    spoil(bundle)
    assert faults(bundle)[0].startswith(message)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            in_format("outputs#pred#channel_def", {"0": "background", "1": "liver"}),
            "network_data_format#outputs#pred#channel_def is {'0': 'background', '1': 'liver'}; by train.json or the",
        ),
        (in_format("inputs#image#value_range", [0, 1]), "network_data_format#inputs#image#value_range is [0, 1]"),
        (in_format("inputs#image#spatial_shape", [96, 96, 96]), "spatial_shape [96, 96, 96] of the image is not the"),
        (in_format("inputs#image#spatial_shape", ["7*n"] * 3), "ValueError: "),
        (in_format("outputs#pred#dtype", "int64"), "ValueError: dtype of output data `torch.float32` doesn't match"),
    ],
)
def test_metadata_of_another_network(bundle, spoil, message):
    spoil(bundle)
    assert the_fault(bundle).startswith(f"{METADATA}: {message}")


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("train.json", '"labeled_batch": 2,', '"labeled_batch": 0,', "labeled_batch"),
        ("inference.json", '"evaluator": {', '"evaluater": {', "KeyError: \"Property 'evaluator' with config ID"),
        ("inference.json", "data.ScansToSegment", "data.ScansToSegmentt", "ScansToSegmentt"),
        ("train.json", '"labels": {"0": "background",', '"labels": {"0": "", ', "labels has the name ''"),
        (
            "inference.json",
            "'spacing', None)",
            "'spacing', 1)",
            'there is no entry "spacing": "$trained_setting(@checkpoi',
        ),
    ],
)
def test_workflows_that_monai_cannot_use(bundle, file, before, after, message):
    edit(bundle / "configs" / file, before, after)
    found = faults(bundle)
    assert f"configs/{file}: " in found[0]
    assert message in found[0]


@pytest.mark.parametrize("file", ["train.json", "inference.json"])
def test_a_network_that_is_not_the_checkpoints(bundle, file):
    """MONAI's bundle.load would build either, and leave out what does not fit without an error."""
    edit(bundle / "configs" / file, '"filters": 4', '"filters": 8')
    fault = faults(bundle)[0]
    assert fault.startswith(f"configs/{file}: CheckpointError: models/model.pt is a checkpoint of another architecture")
    assert "other shape: model_a." in fault


@pytest.mark.usefixtures("unrun")
class TestWeights:
    def test_missing(self, bundle):
        (bundle / "models" / "model.pt").unlink()
        fault = the_fault(bundle)
        assert fault.startswith(f"no checkpoint at {bundle / 'models' / 'model.pt'}. Give one (--checkpoint FILE)")
        assert fault.endswith("without weights, package with --untrained")

    @pytest.mark.parametrize("content", [b"", b"no weights", None])
    def test_damaged(self, bundle, content):
        model = bundle / "models" / "model.pt"
        model.write_bytes(model.read_bytes()[:-1000] if content is None else content)
        assert the_fault(bundle).startswith(f"{model} is damaged or no checkpoint of weights alone")

    @pytest.mark.parametrize(
        ("wrap", "named"),
        [
            (lambda weights: {"model": weights}, "model"),
            (lambda weights: {"state_dict": weights, "epoch": 3}, "state_dict, epoch"),
            (lambda weights: weights | {"optimizer": {}}, "optimizer"),
        ],
    )
    def test_under_a_key_that_monai_passes_over(self, bundle, wrap, named):
        write_model(bundle / "models" / "model.pt", wrap(state_dict()))
        assert f"model.pt: holds more than weights ({named}); give the network's state dict itself" in the_fault(bundle)

    def test_empty(self, bundle):
        write_model(bundle / "models" / "model.pt", {})
        assert "model.pt: is empty; give the network's state dict" in the_fault(bundle)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, bundle, value):
        weights = state_dict()
        key = next(key for key, tensor in weights.items() if tensor.ndim == 5)
        weights[key].view(-1)[0] = value
        write_model(bundle / "models" / "model.pt", weights)
        assert f"weights that are not finite ({key}); take the checkpoint of an earlier epoch" in the_fault(bundle)

    def test_without_settings(self, bundle):
        settings = bundle / "models" / "model.json"
        settings.unlink()
        assert the_fault(bundle) == f"{settings}: missing; training writes it beside the checkpoint: copy both"
        settings.write_text('{"spacing": null, "labels": {}}')
        lacking = "in_channels, modalities, roi_size, intensity, fusion"
        assert the_fault(bundle) == f"{settings}: does not say {lacking}; copy it again from the training"
        settings.write_text("{")
        assert the_fault(bundle).startswith(f"{settings}: not valid JSON")

    def test_too_large_without_an_address(self, bundle):
        fault = the_fault(bundle, limit_mb=0.5)
        assert " MB, and a package takes 0.5 MB; write it at half the size" in fault


class TestWeightsOfThisBundle:
    def test_of_other_classes(self, bundle):
        write_model(bundle / "models" / "model.pt", labels={"0": "background", "1": "liver"})
        fault = the_fault(bundle)
        assert fault.startswith("configs/metadata.json: network_data_format#outputs#pred#channel_def is")
        assert "liver" in fault.partition("by train.json or the checkpoint's settings write")[2]

    def test_of_another_intensity_than_the_metadata_say(self, bundle):
        write_model(bundle / "models" / "model.pt", intensity={"window": [-125, 275]})
        assert "value_range is [-10, 30]; by train.json or the checkpoint's settings write [0, 1]" in the_fault(bundle)

    def test_of_a_patch_that_no_network_takes(self, bundle):
        model = write_model(bundle / "models" / "model.pt", roi_size=[33, 48, 32])
        fault = f"{model.with_suffix('.json')}: roi_size [33, 48, 32] must be three sizes divisible by 16"
        assert the_fault(bundle).startswith(fault)

    def test_of_classes_that_its_settings_do_not_agree_on(self, bundle):
        model = write_model(bundle / "models" / "model.pt", label_values={"4": 3}, regions={"all": [1, 2]})
        file, fault = model.with_suffix(".json"), the_fault(bundle)
        assert fault.startswith(f"{file}: label_values maps '4' to class 3: take one of 0 to 1, or add it to labels; ")
        assert "regions 'all' is [1, 2]: list foreground classes" in fault

    def test_half_precision_fits(self, bundle, tmp_path):
        halved = {key: value.half() if value.is_floating_point() else value for key, value in state_dict().items()}
        model = write_model(bundle / "models" / "model.pt", halved)
        assert all(value.dtype != torch.float32 for value in torch.load(model, weights_only=True).values())
        package_bundle(bundle, out=tmp_path / "dist")


def test_all_faults_are_named_at_once(bundle):
    (bundle / "LICENSE").unlink()
    edit(bundle / "docs" / "README.md", "\n## References\n", "\n## Further reading\n")
    edit_json(bundle / METADATA, version="99.0.0", task=...)
    (bundle / "configs" / "evaluate.json").unlink()
    (bundle / "models" / "model.pt").write_bytes(b"")
    beginnings = ["LICENSE: ", "docs/README.md: ", "configs/evaluate.json: ", f"{METADATA}: ", f"{METADATA}: "]
    found = faults(bundle)
    for fault, beginning in zip(found, [*beginnings, str(bundle / "models" / "model.pt")], strict=True):
        assert fault.startswith(beginning)


def test_paper_and_network_faults_too(bundle):
    (bundle / "docs" / "data_license.txt").unlink()
    edit(bundle / "configs" / "inference.json", '"filters": 4', '"filters": 8')
    first, second = faults(bundle)
    assert first.startswith("docs/data_license.txt: ")
    assert second.startswith("configs/inference.json: CheckpointError: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"untrained": True, "checkpoint": "model.pt"}, r"untrained and a checkpoint \(model.pt\) exclude each other"),
        (
            {"weights_url": "example.org/weights"},
            "weights_url 'example.org/weights' must be an address such as https://",
        ),
    ],
)
def test_options_that_do_not_fit(bundle, options, message):
    with pytest.raises(ValueError, match=message):
        package_bundle(bundle, out=bundle.parent / "dist", **options)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no bundle at .*: give its folder"):
        package_bundle(tmp_path / "small")
