"""What a package holds, byte for byte; what is refused is in test_package_faults.py."""

import ast
import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import monai.bundle
import pytest
import torch
from bundle_copies import SETTINGS, VERSION, copy_bundle, edit, state_dict, write_model
from monai.apps.utils import HashCheckError
from serving import serve
from workflows import BUNDLES

from aps_components import cli
from aps_components.bundle import BundleMetadata, render_metadata
from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.packaging import package_bundle
from aps_components.bundle.packaging.archive import write_archive
from aps_components.bundle.packaging.contents import PACKAGE_DATA, bundle_files, code_files
from aps_components.bundle.packaging.docs import PackagedPages, headings
from aps_components.files import sha256_of
from aps_components.models import SETTINGS_OF_BEFORE

ROOT = Path(__file__).parents[3]
OF_THE_BLOCK = ("labels", "in_channels", "modalities", "spacing", "roi_size", "intensity", "fusion")
NAMES = sorted(folder.name for folder in BUNDLES.iterdir() if (folder / "configs").is_dir())
# An editable installation answers for each module of the clone, whatever lies first on the path.
RUN_WITHOUT_THE_CLONE = """
import runpy, sys
ours = lambda finder: str(getattr(finder, "__module__", "")).startswith("__editable__")
sys.meta_path[:] = [finder for finder in sys.meta_path if not ours(finder)]
runpy.run_module("aps_components", run_name="__main__", alter_sys=True)
"""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def content(archive):
    with zipfile.ZipFile(archive) as stream:
        return {name: stream.read(name) for name in stream.namelist()}


def anchors(page):
    """Those that GitHub gives a page's headings."""
    found = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken_links(files):
    """Of all pages of some files; a folder counts as there if something lies in it."""
    for name, text in files.items():
        if not name.endswith(".md") or "/template/" in name:
            continue
        for link in LINK.findall(text.decode()):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if not any(other == target or other.startswith(f"{target}/") for other in files):
                yield f"{name}: {link}"
            elif anchor and anchor not in anchors(files[target].decode()):
                yield f"{name}: {link} (heading)"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return copy_bundle(tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture(scope="module")
def package(bundle, tmp_path_factory):
    return package_bundle(bundle, out=tmp_path_factory.mktemp("dist") / "new")


@pytest.fixture(scope="module")
def files(package):
    return content(package.archive)


class TestContents:
    def test_it_holds_what_the_zoo_wants_below_one_folder(self, files):
        assert {name.split("/")[0] for name in files} == {"small"}
        inner = {name.removeprefix("small/") for name in files}
        wanted = {"LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt", "models/model.json"}
        wanted |= {f"configs/{name}.json" for name in ("metadata", "train", "evaluate", "inference")}
        assert wanted <= inner
        assert {name.split("/")[0] for name in inner} == {"LICENSE", "configs", "docs", "models", "aps_components"}

    def test_the_weights_are_as_they_were(self, files, bundle):
        assert files["small/models/model.pt"] == (bundle / "models" / "model.pt").read_bytes()
        assert json.loads(files["small/models/model.json"]) == SETTINGS_OF_BEFORE | SETTINGS
        page = files["small/models/README.md"].decode()
        assert hashlib.sha256(files["small/models/model.pt"]).hexdigest() in page
        assert "spacing [1.5, 1.5, 2.0], roi_size [32, 48, 32]" in page

    def test_the_checksum_is_that_of_sha256sum(self, package):
        line = package.archive.with_name(f"{package.archive.name}.sha256").read_text()
        assert line == f"{hashlib.sha256(package.archive.read_bytes()).hexdigest()}  small_v{VERSION}.zip\n"
        assert line.startswith(package.sha256)

    def test_the_code_is_what_an_installation_holds_but_for_the_studies(self):
        named = re.search(r"^aps_components = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        installed = [name for name in ast.literal_eval(named[1]) if not name.startswith("studies/")]
        assert sorted(PACKAGE_DATA) == sorted(installed)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "aps_components"], cwd=ROOT, capture_output=True, text=True
        )
        if listed.returncode:
            pytest.skip("no git, or not a clone")
        product = [name for name in listed.stdout.splitlines() if not name.startswith("aps_components/studies/")]
        there = [name for name in product if (ROOT / name).is_file()]
        assert sorted(code_files()) == sorted(there)

    def test_the_command_of_the_packaged_code_runs_and_offers_no_study(self, tmp_path):
        for name, content in code_files().items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        said = subprocess.run(
            [sys.executable, "-c", RUN_WITHOUT_THE_CLONE, "--", "--help"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        page = said.stdout + said.stderr
        assert said.returncode == 0, page
        offered = {name for name in (*cli.COMMANDS, *cli.STUDIES) if re.search(rf"^ +{name}$", page, re.MULTILINE)}
        assert offered == set(cli.COMMANDS) - set(cli.STUDIES)

    def test_the_configurations_say_what_the_checkpoint_was_trained_with(self, files, package, bundle, tmp_path):
        assert package.adapted == {"spacing": [1.5, 1.5, 2.0], "roi_size": [32, 48, 32]}
        for name in ("train.json", "inference.json"):
            path = tmp_path / name
            path.write_bytes(files[f"small/configs/{name}"])
            before = json.loads((bundle / "configs" / name).read_text())
            changed = {key for key, value in json.loads(path.read_text()).items() if before[key] != value}
            assert changed == {"spacing", "roi_size"}
        assert DatasetBlock.read(tmp_path / "train.json").roi_size == [32, 48, 32]
        assert "[32, 48, 32]" in json.loads((tmp_path / "inference.json").read_text())["roi_size"]

    def test_a_network_with_fusion_stays_one(self, bundle, tmp_path):
        """MONAI's `bundle.load` would pass over weights that have no place in the network of the configurations."""
        model = write_model(tmp_path / "model.pt", state_dict(fusion="concatenation"), fusion="concatenation")
        package = package_bundle(bundle, out=tmp_path, checkpoint=model)
        assert package.adapted["fusion"] == "concatenation"
        written = content(package.archive)
        assert json.loads(written["small/configs/train.json"])["fusion"] == "concatenation"
        assert "'concatenation'" in json.loads(written["small/configs/inference.json"])["fusion"]

    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("brats", json.loads((BUNDLES / "brats" / "configs" / "flair_whole_tumour.json").read_text())),
            ("amos", {"labels": {"0": "background", "1": "liver"}}),  # in place of 16, a line each
        ],
    )
    def test_a_checkpoint_of_other_classes_and_channels_than_the_bundles(self, name, changes, tmp_path):
        bundle = copy_bundle(tmp_path / name, of=name, trained=False)
        model = write_model(tmp_path / "model.pt", **changes)
        block = replace(
            DatasetBlock.read(bundle / "configs" / "train.json"),
            **{key: SETTINGS[key] for key in OF_THE_BLOCK} | changes,
        )
        file = bundle / "configs" / "metadata.json"
        metadata = replace(BundleMetadata.read(file), segment_codes={})
        file.write_text(render_metadata(metadata, block), encoding="utf-8")  # as the faults ask for it
        package = package_bundle(bundle, out=tmp_path / "dist", checkpoint=model)
        assert changes.items() <= package.adapted.items()
        train, evaluate, inference = (
            json.loads(content(package.archive)[f"{name}/configs/{workflow}.json"])
            for workflow in ("train", "evaluate", "inference")
        )
        assert changes.items() <= train.items()
        defaults = {key: f"$trained_setting(@checkpoint, {key!r}, {value!r})" for key, value in changes.items()}
        assert defaults.items() <= evaluate.items()
        assert {key: text for key, text in defaults.items() if key in inference}.items() <= inference.items()

    def test_where_the_training_kept_its_files_stays_at_home(self, bundle, tmp_path):
        model = write_model(tmp_path / "model.pt", pretrained=str(tmp_path / "secret" / "model_a.pt"))
        written = content(package_bundle(bundle, out=tmp_path, checkpoint=model).archive)
        assert json.loads(written["small/models/model.json"])["pretrained"] == "model_a.pt"
        assert not any(b"secret" in text for text in written.values())


class TestReproducible:
    def test_place_time_permissions_and_litter_change_nothing(self, bundle, package, tmp_path):
        other = copy_bundle(tmp_path / "elsewhere" / "small")
        for path in other.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
            path.chmod(0o700)
        for litter in (
            "eval/metrics.csv",
            "models/checkpoint.pt",
            ".DS_Store",
            "docs/.README.md.swp",
            "configs/a.json~",
        ):
            (other / litter).parent.mkdir(exist_ok=True)
            (other / litter).write_text("litter")
        before = os.umask(0o077)
        try:
            again = package_bundle(other, out=tmp_path / "dist")
        finally:
            os.umask(before)
        assert again.sha256 == package.sha256
        assert again.archive.read_bytes() == package.archive.read_bytes()

    def test_every_entry_has_the_same_date_and_permissions(self, package):
        with zipfile.ZipFile(package.archive) as stream:
            entries = stream.infolist()
        assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
        assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
        assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)

    def test_the_order_of_the_files_does_not_matter(self, tmp_path):
        files = {"b": b"2", "a/c": b"1", "a": b"3"}
        first = write_archive(tmp_path / "first.zip", files).read_bytes()
        assert write_archive(tmp_path / "second.zip", dict(reversed(files.items()))).read_bytes() == first

    @pytest.mark.parametrize("source", ["package", "untrained"])
    def test_a_package_of_an_unpacked_package_is_the_same(self, request, bundle, package, tmp_path, source):
        """Also of one that was trained since: nothing is left in it of having been untrained."""
        with zipfile.ZipFile(request.getfixturevalue(source).archive) as stream:
            stream.extractall(tmp_path)
        again = package_bundle(tmp_path / "small", out=tmp_path, checkpoint=bundle / "models" / "model.pt")
        assert again.sha256 == package.sha256

    def test_another_checkpoint_is_another_package(self, bundle, package, tmp_path):
        model = write_model(tmp_path / "model.pt", seed=4)
        assert package_bundle(bundle, out=tmp_path, checkpoint=model).sha256 != package.sha256


def test_what_a_training_left_gives_its_name(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "hearts" / "bundle")
    package = package_bundle(tmp_path / "hearts", out=tmp_path / "dist")
    assert package.archive.name.startswith("hearts_v")
    assert {name.partition("/")[0] for name in content(package.archive)} == {"hearts"}


class TestPages:
    def test_every_link_leads_to_a_file_of_the_package(self, files):
        assert not list(broken_links(files))
        assert "small/docs/project/explanation/method.md" in files

    @pytest.mark.parametrize("name", NAMES)
    def test_of_every_bundle(self, name):
        own = bundle_files(BUNDLES / name) | code_files()
        pages = PackagedPages(BUNDLES / name, project=ROOT, names=own)
        assert pages.faults == []
        assert not list(broken_links(own | pages.files))

    def test_links_that_leave_the_package_become_text(self, files):
        """The configuration's page links to the other bundles, and to this one under the name of the repository."""
        page = files["small/docs/project/reference/config.md"].decode()
        assert "bundles/amos" not in re.sub(r"`[^`]*`", "", page)

    def test_a_broken_link_is_found(self):
        files = {"a/b.md": b"[x](c.md) [y](../a/b.md#two)", "a/d.md": b"# One\n[y](#one) [z](https://x.org) [w](../a)"}
        assert list(broken_links(files)) == ["a/b.md: c.md", "a/b.md: ../a/b.md#two (heading)"]

    def test_headings_in_code_are_none(self):
        page = "# A\n\n## One\n\n```bash\n## Two\nls\n```\n\n## Three\ntext\n"
        assert headings(page) == {"One": "```bash\n## Two\nls\n```", "Three": "text"}


@pytest.fixture(scope="module")
def untrained(bundle, tmp_path_factory):
    return package_bundle(bundle, out=tmp_path_factory.mktemp("untrained"), untrained=True)


class TestUntrained:
    def test_name_metadata_and_pages_say_so(self, untrained):
        assert untrained.archive.name == f"small_v{VERSION}_untrained.zip"
        files = content(untrained.archive)
        said = "Untrained: no weights come with it; train first."
        assert json.loads(files["small/configs/metadata.json"])["untrained"] is True
        for page in ("docs", "models"):
            lines = files[f"small/{page}/README.md"].decode().splitlines()
            assert (lines[0][:2], lines[4]) == ("# ", f"**{said}**")
        assert [name for name in files if name.startswith("small/models/")] == ["small/models/README.md"]

    def test_the_configurations_keep_their_values(self, untrained, bundle):
        files = content(untrained.archive)
        assert untrained.adapted == {}
        for name in ("train.json", "inference.json"):
            assert files[f"small/configs/{name}"] == (bundle / "configs" / name).read_bytes()

    def test_a_trained_package_says_nothing_of_the_kind(self, files):
        for name in ("docs/README.md", "models/README.md", "configs/metadata.json"):
            assert b"Untrained:" not in files[f"small/{name}"]
        assert "untrained" not in json.loads(files["small/configs/metadata.json"])


class TestLargeWeights:
    @pytest.fixture
    def dist(self, tmp_path):
        (tmp_path / "dist").mkdir()
        return tmp_path / "dist"

    def test_they_are_fetched_and_checked(self, bundle, dist, tmp_path):
        model = bundle / "models" / "model.pt"
        limit = model.stat().st_size / 1e6 - 1e-6  # one byte too few
        with serve(dist) as address:
            written = package_bundle(bundle, out=dist, weights_url=f"{address}/", limit_mb=limit)
            files = content(written.archive)
            assert "small/models/model.pt" not in files
            assert "small/models/model.json" in files
            assert "download_large_files" in files["small/docs/README.md"].decode()
            assert written.weights.name == f"small_v{VERSION}_model.pt"
            monai.bundle.download(name="small", url=f"{address}/{written.archive.name}", bundle_dir=str(tmp_path))
            root = tmp_path / "small"
            monai.bundle.download_large_files(bundle_path=str(root))
            assert sha256_of(root / "models" / "model.pt") == sha256_of(model)

            (root / "models" / "model.pt").unlink()
            digest = sha256_of(model)
            edit(root / "large_files.yml", digest, f"{int(digest[0] == '0')}{digest[1:]}")
            with pytest.raises(HashCheckError, match="sha256 hash check of downloaded file failed"):
                monai.bundle.download_large_files(bundle_path=str(root))
            assert not (root / "models" / "model.pt").exists()

    def test_at_the_limit_they_go_into_the_package(self, bundle, package, dist):
        limit = (bundle / "models" / "model.pt").stat().st_size / 1e6
        written = package_bundle(bundle, out=dist, weights_url="https://example.org", limit_mb=limit)
        assert written.weights is None
        assert written.sha256 == package.sha256


class TestCommandLine:
    def aps(self, *arguments):
        with patch.object(sys, "argv", ["aps", "package", *map(str, arguments)]):
            cli.main()

    def test_it_says_what_it_wrote(self, bundle, package, tmp_path, capsys):
        self.aps(bundle, "--out", tmp_path / "dist", "--limit_mb", "0.1", "--weights_url", "https://example.org/w")
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "spacing of the configurations: [1.5, 1.5, 2.0], as the checkpoint was trained"
        place = tmp_path / "dist"
        assert said[2] == (
            f"{place}/small_v{VERSION}_model.pt: make it available at https://example.org/w/small_v{VERSION}_model.pt"
        )
        archive = place / f"small_v{VERSION}.zip"
        assert said[3] == f"{archive}: sha256 {sha256_of(archive)}"

    def test_its_options_are_those_of_the_function_behind_it(self):
        inner, outer = (
            inspect.signature(function).parameters for function in (package_bundle, cli.COMMANDS["package"])
        )
        assert {name: entry.default for name, entry in inner.items()} == {
            name: entry.default for name, entry in outer.items()
        }

    def test_faults_are_listed_without_a_traceback(self, tmp_path):
        bundle = copy_bundle(tmp_path / "small", trained=False)
        (bundle / "LICENSE").unlink()
        with pytest.raises(SystemExit) as error:
            self.aps(bundle, "--out", tmp_path / "dist")
        first, *faults = str(error.value).splitlines()
        assert first == f"PackageError: {bundle} cannot be packaged, 2 faults:"
        assert [line[:2] for line in faults] == ["- ", "- "]
        assert not (tmp_path / "dist").exists()


def test_packaging_writes_nothing_into_the_bundle_and_changes_nothing_of_the_process(bundle, tmp_path):
    def state():
        files = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
        return files, sys.excepthook, torch.are_deterministic_algorithms_enabled(), torch.initial_seed()

    before = state()
    package_bundle(bundle, out=tmp_path)
    assert state() == before
