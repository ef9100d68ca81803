import json
import re
import shutil
from pathlib import Path

import pytest
from monai.bundle import verify_metadata

from aps_components.bundle import BundleMetadata, DatasetBlock, render_bundle, render_configs, write_bundle
from aps_components.bundle.writer import CONFIGS, MARKER, template

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "aps_components" / "bundle" / "template"
BLOCK = DatasetBlock(labels={"0": "background", "1": "anterior", "2": "posterior"}, roi_size=[48, 64, 48])
METADATA = BundleMetadata(
    name="Brain parts $1",
    task="Segmentation of two parts",
    modality="MR",
    image_classes="single channel MRI",
    data_source="our own scans",
    references=["Somebody et al., Something, 2024"],
)
DATALIST = {
    "name": "parts",
    "labels": BLOCK.labels,
    "training": [{"image": "é.nii.gz", "label": "l.nii.gz"}],
    "test": [],
}
FILES = [
    *(f"configs/{name}" for name in CONFIGS),
    "configs/metadata.json",
    "LICENSE",
    "docs/README.md",
    "docs/data_license.txt",
    "models/README.md",
]


def write(folder, **changes):
    return write_bundle(folder, **{"block": BLOCK, "metadata": METADATA} | changes)


def files(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_a_bundle_has_all_its_files(tmp_path):
    folder = write(tmp_path / "new" / "parts")
    assert folder == tmp_path / "new" / "parts"
    assert files(folder) == set(FILES)
    assert DatasetBlock.read(folder / "configs" / "train.json") == BLOCK
    schema = shutil.copy(folder / "configs" / "meta_schema_20240725.json", tmp_path)
    verify_metadata(meta_file=str(folder / "configs" / "metadata.json"), filepath=schema)


def test_what_is_not_said_here_is_the_templates():
    texts = render_configs(BLOCK)
    assert texts["train.json"].replace(BLOCK.text(), MARKER) == template("train.json")
    for name in ("pretrain.json", "multi_gpu_train.json", "logging.conf"):
        assert texts[name] == template(name)
    assert texts["inference.json"].replace(BLOCK.inference_text(), MARKER) == template("inference.json")
    assert texts["evaluate.json"].replace(BLOCK.evaluation_text(), MARKER) == template("evaluate.json")


def test_the_marker_stands_once_where_the_block_belongs():
    assert {name: template(name).count(MARKER) for name in CONFIGS if MARKER in template(name)} == {
        "train.json": 1,
        "inference.json": 1,
        "evaluate.json": 1,
    }


def test_a_datalist_has_a_line_for_each_case(tmp_path):
    folder = write(tmp_path / "parts", datalist=DATALIST)
    text = (folder / "configs" / "datalist.json").read_text(encoding="utf-8")
    assert json.loads(text) == DATALIST
    assert '        {"image": "é.nii.gz", "label": "l.nii.gz"}\n' in text


def test_docs_take_the_place_of_the_pages(tmp_path):
    folder = write(tmp_path / "parts", docs={"README.md": "mine\n", "plan.md": "why\n"})
    assert (folder / "docs" / "README.md").read_text() == "mine\n"
    assert files(folder) == {*FILES, "docs/plan.md"}


@pytest.mark.parametrize("name", ["../README.md", "a/b.md", "/tmp/x.md", "..", "", "a\\b.md"])
def test_docs_stay_in_their_folder(tmp_path, name):
    with pytest.raises(ValueError, match="give a plain file name"):
        write(tmp_path / "parts", docs={name: ""})
    assert not list(tmp_path.iterdir())


def test_the_page_says_what_the_block_says():
    page = render_bundle(block=BLOCK, metadata=METADATA)["docs/README.md"]
    assert page.startswith("# Brain parts $1\n")
    assert "| 2 | posterior |" in page
    assert "48 x 64 x 48 voxels" in page
    assert "- Somebody et al., Something, 2024" in page
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    zoo = re.findall(r"^## (.+)$", (ROOT / "bundles" / "la" / "docs" / "README.md").read_text(), re.MULTILINE)
    assert headings == zoo
    options = set(re.findall(r"--(\w+)", page)) - {"config_file", "nproc_per_node", "standalone"}
    texts = render_configs(BLOCK)
    known = json.loads(texts["train.json"]) | json.loads(texts["evaluate.json"]) | json.loads(texts["inference.json"])
    assert options <= known.keys()


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "parts").mkdir()
    assert files(write(tmp_path / "parts")) == set(FILES)


def test_a_folder_with_anything_in_it_is_refused(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / ".hidden").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{folder} is not an empty folder: name a new one, or empty it"):
        write(folder)
    assert [file.name for file in folder.iterdir()] == [".hidden"]
    assert [file.name for file in tmp_path.iterdir()] == ["parts"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "parts").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        write(tmp_path / "parts")
    assert (tmp_path / "parts").read_text() == "mine"


def test_all_of_it_or_nothing(tmp_path, monkeypatch):
    original = Path.write_text

    def full(self, *arguments, **options):
        if self.name == "LICENSE":
            raise OSError("no space left")
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "parts")
    assert not list(tmp_path.iterdir())


def test_the_template_is_installed_with_the_package():
    (patterns,) = re.findall(r"^aps_components = (\[.+\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    installed = {file for pattern in json.loads(patterns) for file in (ROOT / "aps_components").glob(pattern)}
    assert {file for file in TEMPLATE.iterdir() if file.is_file()} <= installed


def test_the_licence_is_the_projects():
    assert template("LICENSE") == (ROOT / "LICENSE").read_text()
