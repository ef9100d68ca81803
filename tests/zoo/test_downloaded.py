"""A package as somebody uses it who has nothing else: downloaded, in an environment without this project.

The network has its true sizes, and the commands are those of the documentation.
"""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bare_environment import make_environment, run
from serving import serve
from workflows import LA, evaluate, infer, run_python, train

from aps_components.bundle.packaging import package_bundle
from aps_components.files import sha256_of

pytestmark = pytest.mark.slow

TEST_SCANS = ("phantom_007", "phantom_008")
EVALUATING = ("run", "evaluating", "--config_file", "['configs/train.json','configs/evaluate.json']")
INFERENCE = ("run", "inference", "--config_file", "configs/inference.json")
# All that a program does with a bundle of the zoo, in the bundle's folder and in one process.
PROGRAM = """
import json, sys, torch
import aps_components
from monai.bundle import create_workflow, load, verify_metadata, verify_net_in_out
data, out = sys.argv[1:]
given = torch.load("models/model.pt", weights_only=True)
answer = {"code": aps_components.__file__, "fits": {}, "lacks": {}}
for kind in ("train", "inference"):
    network = load("la", bundle_dir="..", workflow_type=kind, device="cpu")
    weights = network.state_dict()
    same = [torch.equal(weights[key], given[key]) for key in given]
    answer["fits"][kind] = all(same) and weights.keys() == given.keys()
options = {"train": {"ckpt_dir": f"{out}/models", "labeled_count": 3, "validation_count": 1}, "infer": {}}
for kind, file in (("train", "train"), ("infer", "inference")):
    workflow = create_workflow(
        config_file=f"configs/{file}.json", workflow_type=kind, dataset_dir=data, output_dir=out, **options[kind]
    )
    answer["lacks"][kind] = workflow.check_properties()
verify_metadata(meta_file="configs/metadata.json", filepath="configs/meta_schema_20240725.json")
verify_net_in_out(
    net_id="network_def", meta_file="configs/metadata.json", config_file="configs/inference.json", n=2, device="cpu"
)
print("ANSWER", json.dumps(answer))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def model(labelled_phantoms, folder) -> Path:
    """A checkpoint of the network as it is, trained for seconds."""
    options = {"bundle_root": str(LA), "dataset_dir": str(labelled_phantoms), "output_dir": str(folder / "training")}
    options |= {"ckpt_dir": str(folder / "models"), "roi_size": [32, 32, 32], "device": "cpu"}
    options |= {"epochs": 1, "epoch_length": 12, "warmup_epochs": 1, "labeled_count": 3, "validation_count": 1}
    train(options | {"val_interval": 2})
    return folder / "models" / "model.pt"


@pytest.fixture(scope="module")
def dist(model, folder) -> Path:
    """The package with its weights in it, made by the command line."""
    command = ["-m", "aps_components", "package", LA, "--checkpoint", model, "--out", folder / "dist"]
    done = run_python([*map(str, command), "--limit_mb", "100"], cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def python(folder) -> Path:
    """Of an environment with what metadata.json names, and jsonschema, which MONAI's verify_metadata needs."""
    metadata = json.loads((LA / "configs" / "metadata.json").read_text())
    needed = ["torch", "monai", "numpy", *metadata["required_packages_version"], "jsonschema"]
    python = make_environment(folder / "environment", needed)
    missing = run(python, "-c", "import aps_components", cwd=folder)
    assert "No module named 'aps_components'" in missing.stderr
    return python


@pytest.fixture(scope="module")
def bundle(dist, python, folder) -> Path:
    """Downloaded and unpacked by MONAI."""
    (archive,) = dist.glob("la_v*.zip")
    with serve(dist) as address:
        url = f"{address}/{archive.name}"
        arguments = ("download", "--name", "la", "--url", url, "--bundle_dir", folder / "downloaded")
        done = run(python, "-m", "monai.bundle", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "downloaded" / "la"


def bundle_run(python, bundle, *arguments):
    """On the CPU, as the workflows that it is compared with."""
    done = run(python, "-m", "monai.bundle", *arguments, "--device", "cpu", cwd=bundle)
    assert done.returncode == 0, done.stderr[-3000:]


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def test_inference_gives_the_same_voxels_as_the_repository(bundle, python, model, labelled_phantoms, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in TEST_SCANS:
        (scans / f"{name}.nii.gz").symlink_to(labelled_phantoms / "images" / f"{name}.nii.gz")
    bundle_run(python, bundle, *INFERENCE, "--image", scans, "--output_dir", tmp_path / "there", "--save_maps", "true")
    options = {"bundle_root": str(LA), "image": str(scans), "checkpoint": str(model), "save_maps": True}
    infer(options | {"output_dir": str(tmp_path / "here"), "device": "cpu"})
    names = sorted(file.name for file in (tmp_path / "here").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "there").iterdir())
    for name in names:
        if name.endswith(".nii.gz"):
            np.testing.assert_array_equal(voxels(tmp_path / "here" / name), voxels(tmp_path / "there" / name), name)
        else:
            assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    for name in TEST_SCANS:
        segmented = voxels(tmp_path / "there" / f"{name}_seg.nii.gz")
        assert 0 < segmented.mean() < 1  # both classes: nothing is equal because there is nothing


def test_evaluating_gives_the_same_figures_as_the_repository(bundle, python, model, labelled_phantoms, tmp_path):
    chosen = {"dataset_dir": str(labelled_phantoms), "labeled_count": 3, "validation_count": 1}
    given = [part for key, value in chosen.items() for part in (f"--{key}", value)]
    bundle_run(python, bundle, *EVALUATING, *given, "--output_dir", tmp_path / "there")
    options = {"bundle_root": str(LA), "checkpoint": str(model), "output_dir": str(tmp_path / "here"), "device": "cpu"}
    evaluate(options | chosen)
    here, there = ((tmp_path / place / "metrics.csv").read_bytes() for place in ("here", "there"))
    assert here == there
    rows = list(csv.DictReader(there.decode().splitlines()))
    assert {row["case"] for row in rows} == set(TEST_SCANS)
    assert any(float(row["dice"]) > 0 for row in rows)


def test_monai_loads_and_verifies_it(bundle, python, labelled_phantoms, tmp_path):
    done = run(python, "-c", PROGRAM, labelled_phantoms, tmp_path, cwd=bundle)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    answer = json.loads(line.removeprefix("ANSWER"))
    assert Path(answer["code"]) == bundle / "aps_components" / "__init__.py"
    assert answer["fits"] == {"train": True, "inference": True}
    assert answer["lacks"] == {"train": [], "infer": []}


def test_weights_over_the_limit_are_fetched_and_checked(model, python, folder, tmp_path):
    """The network's true checkpoint is over the zoo's 25 MB."""
    with serve(tmp_path / "dist") as address:
        written = package_bundle(LA, out=tmp_path / "dist", checkpoint=model, weights_url=address)
        assert written.archive.stat().st_size < 5_000_000
        arguments = ("download", "--name", "la", "--url", f"{address}/{written.archive.name}", "--bundle_dir", tmp_path)
        done = run(python, "-m", "monai.bundle", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        fetch = ("-m", "monai.bundle", "download_large_files", "--bundle_path", ".")
        content = written.weights.read_bytes()
        written.weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused = run(python, *fetch, cwd=tmp_path / "la")
        assert refused.returncode != 0
        assert "sha256 hash check of downloaded file failed" in refused.stderr
        assert not (tmp_path / "la" / "models" / "model.pt").exists()
        written.weights.write_bytes(content)
        fetched = run(python, *fetch, cwd=tmp_path / "la")
        assert fetched.returncode == 0, fetched.stderr
    assert sha256_of(tmp_path / "la" / "models" / "model.pt") == sha256_of(model)
