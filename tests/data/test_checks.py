import os
from pathlib import Path

import numpy as np
import pytest
from scans import AFFINE, HEADER_FAULTS, IMAGE_FAULTS, LABEL_FAULTS, SHAPE, random_image, random_label, truncate, write

from aps_components.data import DataError, LoadVolumed, check_cases, load_datalist
from aps_components.data.checks import label_faults, read_labels
from aps_components.data.partial import Partial


def test_sound_cases_come_back_unchanged(make_case):
    items = [make_case("a"), {"image": make_case("b")["image"]}]
    assert check_cases(items, in_channels=1, num_classes=3) is items


@pytest.mark.parametrize("fault", [*HEADER_FAULTS, *LABEL_FAULTS])
def test_faulty_case_is_refused_by_name(make_case, fault):
    arrays, message = (HEADER_FAULTS | LABEL_FAULTS)[fault]
    with pytest.raises(DataError, match=message):
        check_cases([make_case(**arrays)], num_classes=3)


@pytest.mark.parametrize("fault", [*LABEL_FAULTS, *IMAGE_FAULTS])
def test_voxels_are_not_read_unless_asked(make_case, fault):
    arrays, _ = (LABEL_FAULTS | IMAGE_FAULTS)[fault]
    check_cases([make_case(**arrays)])


def test_missing_file_is_refused(make_case):
    item = make_case()
    os.remove(item["label"])
    with pytest.raises(DataError, match=r"labels/a.nii.gz: no such file"):
        check_cases([item])


def test_file_of_another_format_is_refused(make_case):
    item = make_case()
    Path(item["image"]).write_text("not a scan")
    with pytest.raises(DataError, match=r"images/a.nii.gz: cannot be read as NIfTI"):
        check_cases([item])


def test_truncated_label_is_refused(make_case):
    item = make_case()
    truncate(item["label"])
    with pytest.raises(DataError, match=r"labels/a.nii.gz: cannot be read as NIfTI"):
        check_cases([item], num_classes=3)


@pytest.mark.parametrize("shape", [(*SHAPE, 1), SHAPE])
def test_one_channel_may_be_three_or_four_axes(make_case, shape):
    check_cases([make_case(image=random_image(shape=shape))])


def test_several_channels_may_be_one_file_or_several(make_case, tmp_path):
    item = make_case(image=random_image(shape=(*SHAPE, 2)))
    files = [write(tmp_path / f"t{i}.nii.gz", random_image(i)) for i in (1, 2)]
    check_cases([item, {**item, "image": files}], in_channels=2)
    with pytest.raises(DataError, match=r"t1.nii.gz: 2 channel\(s\) where 4 are wanted"):
        check_cases([{**item, "image": files}], in_channels=4)


def test_a_label_of_one_channel_may_have_four_axes(tmp_path):
    label = random_label()
    found = read_labels(write(tmp_path / "a.nii.gz", label[..., None]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)
    with pytest.raises(DataError, match=r"b\.nii\.gz: 2 channels; a label is one 3-D volume"):
        read_labels(write(tmp_path / "b.nii.gz", np.stack([label, label], axis=-1)))


class TestAValueToIgnoreThatIsAClass:
    """Class 2 would never be learned or measured."""

    MESSAGE = r"labels/a\.nii\.gz: ignore 2 is class 2 as well: take a value that no class has"

    def test_it_is_refused_before_training_and_when_it_is_loaded(self, make_case):
        item = make_case() | {"ignore": 2}
        with pytest.raises(DataError, match=self.MESSAGE):
            check_cases([item], num_classes=3)
        with pytest.raises(DataError, match=self.MESSAGE):
            LoadVolumed(num_classes=3)(item)
        check_cases([item], num_classes=3, label_values={"1": 1, "5": 2})  # class 2 has another value
        check_cases([item], num_classes=2)

    def test_what_was_found_right_without_this_rule_is_looked_at_again(self, make_case, tmp_path, monkeypatch):
        item, cache = make_case() | {"ignore": 2}, tmp_path / "cache"
        monkeypatch.setattr("aps_components.data.checks.RULES", 1)
        monkeypatch.setattr("aps_components.data.checks.ignore_faults", lambda *_, **__: [])
        check_cases([item], num_classes=3, cache_dir=cache)
        monkeypatch.undo()
        with pytest.raises(DataError, match=self.MESSAGE):
            check_cases([item], num_classes=3, cache_dir=cache)

    def test_a_class_that_was_not_drawn_leaves_its_number_free(self, make_case):
        check_cases([make_case() | {"ignore": 2, "labeled_classes": [1]}], num_classes=3)

    def test_before_the_classes_are_known_any_value_may_be_ignored(self):
        label = random_label(num_classes=4)
        assert list(label_faults("a.nii", label, None, partial=Partial(ignore=2))) == []
        (fault,) = label_faults("a.nii", label, None, partial=Partial(ignore=2, classes=(1,)))
        assert fault.startswith("a.nii: holds class 3, which its labeled_classes leave out")
        (fault,) = label_faults("a.nii", label.astype(np.int16) - 1, None)
        assert fault.startswith("a.nii: label values -1 are outside the classes 0, 1, ...; ")


def test_modalities_on_different_grids_are_refused(tmp_path):
    files = [write(tmp_path / f"t{i}.nii.gz", random_image(i), AFFINE * i) for i in (1, 2)]
    with pytest.raises(DataError, match=r"t2.nii.gz: its affine differs from that of .*t1.nii.gz"):
        check_cases([{"image": files}], in_channels=2)


def test_affines_may_differ_by_rounding(make_case):
    check_cases([make_case(label_affine=AFFINE + 9e-4 * np.eye(4)[3])])


def test_all_faults_are_reported_and_long_lists_are_cut(tmp_path):
    items = [{"image": str(tmp_path / f"{i}.nii.gz")} for i in range(13)]
    with pytest.raises(DataError) as error:
        check_cases(items)
    lines = str(error.value).splitlines()
    assert lines[0] == "13 fault(s) in 13 cases:"
    assert len(lines) == 12
    assert lines[-1] == "... and 3 more"


def test_many_cases_show_progress(make_case, capsys):
    items = [make_case()] * 21
    check_cases(items, progress=False)
    assert "Checking scans" not in capsys.readouterr().err
    check_cases(items)
    assert "Checking scans" in capsys.readouterr().err


def test_real_scans_are_sound(shared_data):
    la = Path(__file__).parents[2] / "bundles" / "la" / "configs" / "datalist.json"
    check_cases(load_datalist(shared_data / "la", default=la).training_items, num_classes=2)
