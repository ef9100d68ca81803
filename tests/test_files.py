import hashlib

import pytest

from aps_components.files import BLOCK, replace_text, replacing, sha256_of


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_new_file_appears_when_all_of_it_is_there(tmp_path):
    file = tmp_path / "a.nii.gz"
    file.write_text("old")
    with replacing(file) as unfinished:
        assert unfinished.parent == tmp_path
        assert unfinished.name.endswith(".nii.gz")
        unfinished.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names(tmp_path) == ["a.nii.gz"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    replace_text(file, "old ü")

    def stopped():
        with replacing(file) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert file.read_text(encoding="utf-8") == "old ü"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK + 7])
def test_sha256_of_a_file(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()
