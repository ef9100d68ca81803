import hashlib
import stat
import zipfile
from pathlib import Path

import pytest

import aps_components
from aps_components.bundle import locate_bundle, require_weights, version_differences
from aps_components.bundle.locate import unpack_bundle

ROOT = Path(__file__).parents[2]
CONFIG = "configs/inference.json"


def write_bundle(folder, version=None):
    (folder / "configs").mkdir(parents=True)
    (folder / CONFIG).write_text("{}")
    if version is not None:
        (folder / "aps_components").mkdir()
        (folder / "aps_components" / "__init__.py").write_text(f'"""Vendored."""\n\n__version__ = "{version}"\n')
    return folder


def write_zip(path, entries):
    """Entries are names, with or without a content, or a ZipInfo."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return path


def sound_zip(path, **more):
    return write_zip(path, {f"mine/{CONFIG}": "{}", "mine/models/model.pt": b"weights", **more})


def test_a_folder_is_itself(tmp_path, monkeypatch):
    folder = write_bundle(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert (
        locate_bundle(str(folder))
        == locate_bundle(folder)
        == locate_bundle("mine")
        == locate_bundle("./mine")
        == folder
    )


def test_a_name_is_looked_for_here_then_in_the_repository_then_in_the_folders_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate_bundle("la", search=[tmp_path / "more"]) == ROOT / "bundles" / "la"
    own, more = write_bundle(tmp_path / "bundles" / "la"), write_bundle(tmp_path / "more" / "other")
    assert locate_bundle("la", search=[tmp_path / "more"]) == own
    assert locate_bundle("other", search=[tmp_path / "more"]) == more


def test_a_folder_that_is_no_bundle_does_not_hide_a_name(tmp_path, monkeypatch):
    (tmp_path / "la").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate_bundle("la") == ROOT / "bundles" / "la"
    with pytest.raises(ValueError, match=r"la: not a bundle, it has no configs/inference\.json"):
        locate_bundle("./la")


def test_an_unknown_name_says_which_are_there(tmp_path):
    write_bundle(tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match=r"no bundle 'nope': there are amos, brats, la, mine in .*; give"):
        locate_bundle("nope", search=[tmp_path])
    with pytest.raises(FileNotFoundError, match=r"nope/la: no such bundle; give the folder"):
        locate_bundle("nope/la")
    with pytest.raises(FileNotFoundError, match=r"la_v1\.zip: no such bundle; give the folder"):
        locate_bundle("la_v1.zip")


def test_a_zip_is_unpacked_once_under_the_hash_of_its_content(tmp_path):
    file, cache = sound_zip(tmp_path / "mine_v0.1.0.zip"), tmp_path / "cache"
    folder = locate_bundle(file, cache_dir=cache)
    assert folder == cache / hashlib.sha256(file.read_bytes()).hexdigest()[:16] / "mine"
    assert require_weights(folder).read_bytes() == b"weights"
    (folder / "mark").touch()
    assert (locate_bundle(str(file.rename(tmp_path / "renamed.zip")), cache_dir=cache) / "mark").is_file()
    assert [path.name for path in cache.iterdir()] == [folder.parent.name]
    other = sound_zip(tmp_path / "other.zip", **{"mine/LICENSE": "free"})
    assert locate_bundle(other, cache_dir=cache) != folder


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"../out.txt": "x"}, r"'\.\./out\.txt' leads out of its folder"),
        ({"mine/../../out.txt": "x"}, "leads out of its folder"),
        ({"/tmp/out.txt": "x"}, "leads out of its folder"),
        ({"mine\\..\\..\\out.txt": "x"}, "leads out of its folder"),
        ({"C:/out.txt": "x"}, "leads out of its folder"),
        ({link("mine/link"): "../../secret"}, "'mine/link' is a link or another special file"),
        ({"mine/zeros": bytes(20_000_000)}, "'mine/zeros' would unpack to 19 MiB from"),
        ({"mine/a": "1", "mine/A": "2"}, "two files of the same name"),
        ({"mine/a": "1", "mine/a/b": "2"}, "lies in what is a file"),
        ({"mine": "1"}, "lies in what is a file"),
        ({"mine//a": "1"}, "no plain name"),
        ({"mine/./a": "1"}, "no plain name"),
        ({"mine/\x1b[2J": "1"}, "no plain name"),
        ({f"mine/{'n' * 300}": "1"}, "no plain name"),
        ({"other/file": "x"}, r"holds one folder NAME/ .*; this one holds mine, other"),
    ],
)
def test_an_unsafe_zip_writes_nothing(tmp_path, entries, message):
    file = write_zip(tmp_path / "bad.zip", {f"mine/{CONFIG}": "{}", **entries})
    with pytest.raises(ValueError, match=rf"bad\.zip: .*{message}"):
        unpack_bundle(file, tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]


def test_many_small_entries_are_a_large_one(tmp_path):
    many = {f"mine/{number}": bytes(999_000) for number in range(150)}
    file = write_zip(tmp_path / "bad.zip", {f"mine/{CONFIG}": "{}", **many})
    with pytest.raises(ValueError, match=r"bad\.zip: not unpacked, it would become 142 MiB of 0 MiB"):
        unpack_bundle(file, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_is_no_bundle_zip_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"not a bundle's zip, .* this one holds data"):
        locate_bundle(write_zip(tmp_path / "data.zip", {"data/a.nii": "x"}), cache_dir=tmp_path)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ValueError, match="not a zip, or a damaged one"):
        locate_bundle(tmp_path / "text.zip", cache_dir=tmp_path)


def test_a_damaged_zip_leaves_nothing_behind(tmp_path):
    file = sound_zip(tmp_path / "mine.zip")
    content = bytearray(file.read_bytes())
    content[content.index(b"mine/models/model.pt") + len("mine/models/model.pt")] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a zip, or a damaged one .*; download it again"):
        locate_bundle(file, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_weights_name_the_bundle_and_how_to_get_them(tmp_path):
    folder = write_bundle(tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match=r"the bundle 'mine' has no weights .*--checkpoint") as error:
        require_weights(folder)
    assert f"--config_file {folder}/configs/train.json --bundle_root {folder}" in str(error.value)
    assert "download_large_files" not in str(error.value)
    (folder / "large_files.yml").touch()
    with pytest.raises(FileNotFoundError, match=f"download_large_files --bundle_path {folder}"):
        require_weights(folder)


def test_weights_of_a_training_that_has_not_ended_come_by_the_same_command(tmp_path):
    folder = write_bundle(tmp_path / "out" / "bundle")
    (tmp_path / "out" / "work").mkdir()
    with pytest.raises(FileNotFoundError, match=r"out has not ended, .* it goes on by the same aps train command"):
        require_weights(folder)


def test_a_bundle_that_brings_another_version_of_this_package_is_told(tmp_path):
    here = aps_components.__version__
    assert version_differences(write_bundle(tmp_path / "plain")) == []
    assert version_differences(write_bundle(tmp_path / "same", here)) == []
    assert version_differences(write_bundle(tmp_path / "other", "9.9.9")) == [
        f"the bundle ships aps_components 9.9.9, the installed {here} is used"
    ]


def test_what_a_training_leaves_holds_its_bundle(tmp_path):
    folder = write_bundle(tmp_path / "out" / "bundle")
    assert locate_bundle(tmp_path / "out") == folder
