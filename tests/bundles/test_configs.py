"""What holds for the files of every bundle: they agree with the package, with each other and with the template."""

import inspect
import json
import re
import shutil
from dataclasses import asdict, fields
from pydoc import locate

import monai
import pytest
import torch
from ignite.handlers import ProgressBar
from monai.bundle import ConfigComponent, ConfigParser, verify_metadata
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from tqdm import tqdm
from workflows import BUNDLES, OURS

from aps_components.bundle import BundleMetadata, DatasetBlock, render_configs, render_metadata
from aps_components.bundle.block import EVALUATION_KEYS, INFERENCE_KEYS
from aps_components.bundle.writer import template
from aps_components.configuration import network_options
from aps_components.data.preparation.amos import Amos
from aps_components.data.preparation.brats import MODALITIES, Brats
from aps_components.inference import PromptedEvaluator, PromptedSlidingWindowInferer
from aps_components.models import build_auto_prompt_seg, build_trained
from aps_components.training import SemiSupervisedObjective, build_objective

COMBINATIONS = {
    "train": ["train.json"],
    "pretrain": ["train.json", "pretrain.json"],
    "multi_gpu": ["train.json", "multi_gpu_train.json"],
    "evaluate": ["train.json", "evaluate.json"],
    "inference": ["inference.json"],
}
SETTINGS = {entry.name for entry in fields(DatasetBlock)}
NOT_OVERRIDES = {*render_configs(DatasetBlock(labels={"0": "background", "1": "a"})), "metadata.json", "datalist.json"}
OVERRIDES = [
    (name, file.name)
    for name in OURS
    for file in sorted((BUNDLES / name / "configs").iterdir())
    if file.name not in NOT_OVERRIDES
]
# Who takes the further keyword arguments of these.
HANDED_ON = {
    PromptedEvaluator: SupervisedEvaluator,
    PromptedSlidingWindowInferer: SlidingWindowInferer,
    build_objective: SemiSupervisedObjective,
    build_trained: build_auto_prompt_seg,
    ProgressBar: tqdm.__init__,
    monai.data.DataLoader: torch.utils.data.DataLoader,
}


def merged(name, combination, *more):
    """The config as a user's command reads it."""
    first, *rest = COMBINATIONS[combination]
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / name / "configs" / file) for file in (first, *more, *rest)])
    return parser


def content(name, file):
    return json.loads((BUNDLES / name / "configs" / file).read_text(encoding="utf-8"))


def walk(node, path=""):
    """Every node of a config with its id."""
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from walk(child, f"{path}#{key}" if path else str(key))


def _parameters(function):
    parameters = inspect.signature(function).parameters.values()
    names = {parameter.name for parameter in parameters}
    takes_more = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return names | _parameters(HANDED_ON[function]) if takes_more and function in HANDED_ON else names


def test_all_overrides_are_looked_at():
    assert OVERRIDES == [
        ("amos", "cpu.json"),
        ("amos", "gpu16.json"),
        ("amos", "mr.json"),
        ("brats", "cpu.json"),
        ("brats", "flair_whole_tumour.json"),
    ]


# The files of all bundles come from one template, so one bundle stands for all in these.
@pytest.mark.parametrize("combination", COMBINATIONS)
class TestTemplate:
    def test_every_target_exists_and_takes_its_arguments(self, combination):
        found = 0
        for path, node in walk(merged("la", combination).get()):
            if not isinstance(node, dict) or "_target_" not in node:
                continue
            found += 1
            target = ConfigComponent(node).resolve_module_name()
            function = locate(target) if isinstance(target, str) else target
            assert callable(function), f"{combination}: {path}: {target} does not exist"
            unknown = {key for key in node if not key.startswith("_")} - _parameters(function)
            assert not unknown, f"{combination}: {path}: {target} does not take {unknown}"
        assert found >= 8

    def test_every_reference_exists(self, combination):
        parser = merged("la", combination)
        for path, node in walk(parser.get()):
            if isinstance(node, str) and node.startswith(("@", "$")):
                for reference in re.findall(r"@([\w#]+)", node):
                    assert reference in parser, f"{combination}: {path}: nothing is called {reference}"

    def test_every_setting_is_used(self, combination):
        """Settings of train.json may be there for evaluate.json, and all of inference.json's for itself."""
        files = ["inference.json"] if combination == "inference" else ["train.json", "evaluate.json"]
        text = "".join(template(file) for file in files)
        unused = {
            key
            for key, value in merged("la", combination).get().items()
            if (key in SETTINGS or not isinstance(value, (dict, list))) and f"@{key}" not in text
        }
        assert unused <= {
            "training",
            "inference",
            "evaluating",
            "trained_with",
            *network_options(merged("la", "train")),
        }


@pytest.mark.parametrize("name", OURS)
class TestBundle:
    def test_the_template_with_the_block_gives_the_files(self, name):
        """So bundles differ in their dataset block, and nowhere else."""
        block = DatasetBlock.read(BUNDLES / name / "configs" / "train.json")
        for file, text in render_configs(block).items():
            assert (BUNDLES / name / "configs" / file).read_text(encoding="utf-8") == text, file
        assert (BUNDLES / name / "LICENSE").read_text(encoding="utf-8") == template("LICENSE")
        assert (BUNDLES / name / "models" / "README.md").read_text(encoding="utf-8") == template("models.md")

    def test_metadata_says_what_the_block_says(self, name):
        configs = BUNDLES / name / "configs"
        metadata, block = BundleMetadata.read(configs / "metadata.json"), DatasetBlock.read(configs / "train.json")
        assert (configs / "metadata.json").read_text(encoding="utf-8") == render_metadata(metadata, block)

    def test_metadata_fits_the_shipped_schema_without_the_network(self, name, tmp_path, monkeypatch):
        configs = BUNDLES / name / "configs"
        schema = shutil.copy(configs / "meta_schema_20240725.json", tmp_path)
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it asked the network"))
        monkeypatch.setattr("monai.apps.utils._download_with_progress", lambda *_, **__: pytest.fail("it downloads"))
        verify_metadata(meta_file=str(configs / "metadata.json"), filepath=schema)
        metadata = content(name, "metadata.json")
        del metadata["network_data_format"]
        (tmp_path / "metadata.json").write_text(json.dumps(metadata))
        with pytest.raises(ValueError, match="network_data_format"):
            verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=schema)

    def test_training_and_inference_see_scans_alike(self, name):
        training, inference = merged(name, "train"), merged(name, "inference")
        inference["checkpoint"] = "no/model.pt"  # whose settings would come first
        for key in (*INFERENCE_KEYS, "predictor", "mc_samples", "overlap", "precision"):
            assert training.get(key) == inference.get_parsed_content(key), key
        of_training = ("_target_", "sam_checkpoint", "recompute")
        network = {key for key in training.get("network_def") if key not in of_training}
        built = {**network_options(inference), **inference.get("network_def")}
        assert network == set(built) - {"_target_", "checkpoint", "otherwise"}

    def test_model_b_is_trained_with_a_user(self, name):
        parser = merged(name, "train")
        assert parser.get("objective")["user"] == "@simulated_user"
        assert build_objective(user=parser.get("simulated_user")).user is not None

    def test_labels_agree_everywhere(self, name):
        labels = content(name, "train.json")["labels"]
        inference = merged(name, "inference")
        inference["checkpoint"] = "no/model.pt"
        assert inference.get_parsed_content("labels") == labels
        assert content(name, "metadata.json")["network_data_format"]["outputs"]["pred"]["channel_def"] == labels
        if (BUNDLES / name / "configs" / "datalist.json").exists():
            assert content(name, "datalist.json")["labels"] == labels


@pytest.mark.parametrize("name", OURS)
def test_a_pretraining_asks_of_its_objective_what_a_training_asks_of_model_a(name):
    training, pretraining = (merged(name, combination).get("objective") for combination in ("train", "pretrain"))
    kept = {key: training[key] for key in ("class_weights", "largest_component", "warmup_iterations")}
    assert pretraining == {"_target_": training["_target_"], "train_b": False, **kept}


def test_only_the_atrium_brings_a_datalist():
    """Theirs depend on the download and are written beside the scans."""
    assert [name for name in OURS if (BUNDLES / name / "configs" / "datalist.json").exists()] == ["la"]


@pytest.mark.parametrize(("name", "file"), OVERRIDES)
class TestOverrides:
    def test_it_holds_settings_of_the_dataset_alone(self, name, file):
        assert content(name, file).keys() <= SETTINGS

    @pytest.mark.parametrize("combination", COMBINATIONS)
    def test_it_replaces_whole_values(self, name, file, combination):
        """An object such as label_values is not mixed with the one below it, and null stays null."""
        parser = merged(name, combination, file)
        below = merged(name, combination)
        asked_of_the_model = EVALUATION_KEYS if combination == "evaluate" else ()
        for key, value in content(name, file).items():
            assert parser.get(key) == value or key in asked_of_the_model
        untouched = below.get().keys() - content(name, file).keys()
        assert {key: parser.get(key) for key in untouched} == {key: below.get(key) for key in untouched}

    def test_the_settings_fit_each_other(self, name, file):
        block = DatasetBlock.read(BUNDLES / name / "configs" / "train.json")
        changed = DatasetBlock(**asdict(block) | content(name, file))
        assert changed != block

    def test_training_and_inference_still_see_scans_alike(self, name, file):
        training, inference = merged(name, "train", file), merged(name, "inference", file)
        inference["checkpoint"] = "no/model.pt"
        for key in INFERENCE_KEYS:
            assert training.get(key) == inference.get_parsed_content(key), key

    def test_the_bundles_page_names_it(self, name, file):
        assert f"| `{file}` |" in (BUNDLES / name / "docs" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "file"), [override for override in OVERRIDES if override[0] == "amos"])
def test_an_override_adds_nothing_to_inference(name, file):
    assert content(name, file).keys() <= content(name, "inference.json").keys()


@pytest.mark.parametrize("layout", [Amos, Brats], ids=lambda layout: layout.name)
def test_the_classes_are_those_of_the_preparation(layout):
    labels = DatasetBlock.read(BUNDLES / layout.name / "configs" / "train.json").labels
    assert {int(value): name for value, name in labels.items()} == layout.labels


def test_the_modalities_are_those_of_the_preparation():
    assert DatasetBlock.read(BUNDLES / "brats" / "configs" / "train.json").modalities == list(MODALITIES)


def test_sides_are_not_flipped_where_they_are_classes():
    for name in OURS:
        block = DatasetBlock.read(BUNDLES / name / "configs" / "train.json")
        sided = any(text.startswith(("left kidney", "right kidney")) for text in block.labels.values())
        assert (0 in block.flip_axes) != sided, name


@pytest.mark.parametrize(
    ("roi_size", "overlap", "stride"),
    [((160, 160, 80), 0.799, (32, 32, 16)), ((96, 96, 96), 0.83, (16,) * 3), ((96, 96, 96), 0.33, (64,) * 3)],
)
def test_the_documented_overlaps_move_the_window_as_published(roi_size, overlap, stride):
    from monai.inferers.utils import _get_scan_interval

    scan = tuple(3 * size for size in roi_size)
    assert _get_scan_interval(scan, roi_size, 3, (overlap,) * 3) == stride
    pages = [(BUNDLES / name / "docs" / "README.md").read_text(encoding="utf-8") for name in ("amos", "brats")]
    assert any(f"--overlap {overlap}`" in page for page in pages)


@pytest.mark.parametrize(("device", "recomputes"), [("cpu", False), ("cuda:1", True), ("$torch.device('cpu')", False)])
def test_only_a_gpu_computes_the_finest_level_again(device, recomputes):
    parser = merged("la", "train")
    parser["device"] = device
    assert parser.get_parsed_content("network_def#recompute") is recomputes
