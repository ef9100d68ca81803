import pytest

from aps_components.data.patients import patient_of
from aps_components.recipe.folds import make_folds, most_even


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient061_frame01", "patient061"),
        ("patient061_frame10", "patient061"),
        ("sub-01_ses-02_T1w", "sub-01"),
        ("BraTS-GLI-00000-001", "BraTS-GLI-00000"),
        ("p7_visit2_t1", "p7"),
        ("liver_12_baseline", "liver_12"),
        ("case3-ED", "case3"),
        ("hippocampus_001", "hippocampus_001"),
        ("scan_01", "scan_01"),  # else all scans of a dataset would be one patient's
        ("case_t_1", "case_t_1"),
        ("a", "a"),
        ("p01_edge", "p01_edge"),
    ],
)
def test_patients_by_name(name, patient):
    assert patient_of(name) == patient


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_scan_is_held_out_once_and_patients_stay_together(count, seed):
    scans = {f"p{index}_frame{frame:02d}": f"p{index}" for index in range(7) for frame in range(1 + index % 3)}
    folds = make_folds(scans, count, seed=seed)
    assert sorted(name for fold in folds for name in fold) == sorted(scans)
    of_patient = {
        patient: {i for i, fold in enumerate(folds) for s in fold if scans[s] == patient} for patient in scans.values()
    }
    assert all(len(found) == 1 for found in of_patient.values())
    assert max(map(len, folds)) - min(map(len, folds)) <= 1  # patients of 3, 2 and 1 scans, the largest dealt first


def test_folds_depend_on_names_and_seed_alone():
    names = {f"c{index}": f"c{index}" for index in range(11)}
    turned = dict(reversed(names.items()))
    assert make_folds(names, 3) == make_folds(turned, 3)
    assert make_folds(names, 3) != make_folds(names, 3, seed=1)
    assert [len(fold) for fold in make_folds(names, 4)] == [3, 3, 3, 2]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_patients_are_refused(count):
    with pytest.raises(ValueError, match=rf"2 patient\(s\) cannot be divided into {count} folds"):
        make_folds({"a_1": "a", "a_2": "a", "b": "b"}, count)


def test_of_some_folds_those_of_about_the_mean_size_are_taken_in_their_order():
    folds = [["a"], ["b", "c"], ["d"], ["e", "f", "g", "h"]]
    assert most_even(folds, 1) == [["b", "c"]]
    assert most_even(folds, 2) == [["a"], ["b", "c"]]
    assert most_even(folds, 3) == [["a"], ["b", "c"], ["d"]]
    assert most_even(folds, 4) == folds
