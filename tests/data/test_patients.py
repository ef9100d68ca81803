import pytest

from aps_components.data.patients import MANY, patients_of


def test_scans_of_one_patient_are_told_by_their_names():
    names = ["p1_visit1", "p1_visit2", "p2_visit1", "hippocampus_001", "sub-01_ses-02_T1w"]
    assert list(patients_of(names).values()) == ["p1", "p1", "p2", "hippocampus_001", "sub-01"]


@pytest.mark.parametrize("start", ["site2_scan_", "2019_scan_"])
def test_what_all_of_many_names_share_is_no_patient(start):
    names = [f"{start}{number:03d}" for number in range(1, MANY + 1)]
    assert MANY == 6
    assert patients_of(names) == {name: name for name in names}
    assert set(patients_of(names[1:]).values()) == {names[0].partition("_")[0]}  # five may be of one


@pytest.mark.parametrize(("start", "patient"), [("sub-01_ses-", "sub-01"), ("BraTS-GLI-00005-", "BraTS-GLI-00005")])
def test_what_a_standard_calls_a_patient_is_one(start, patient):
    assert set(patients_of(f"{start}{number:03d}" for number in range(2 * MANY)).values()) == {patient}


def test_one_other_name_is_enough_to_believe_the_others():
    names = [f"p1_visit{number}" for number in range(7)]
    assert set(patients_of([*names, "p2_visit1"]).values()) == {"p1", "p2"}
    assert patients_of([]) == {}
