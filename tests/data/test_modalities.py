import os

import pytest
from scans import SHAPE, random_image, random_label, write, write_json

from aps_components.data import DataError, case_name, inference_items, load_datalist, select_modalities
from aps_components.data.modalities import common_name, group_by_case, modality_of

FOUR = ["t1n", "t1c", "t2w", "t2f"]
NAME = "BraTS-GLI-00000-000"


def files(*tokens: str, name: str = NAME, separator: str = "-") -> list[str]:
    return [f"/scans/{name}{separator}{token}.nii.gz" for token in tokens]


def write_cases(folder, **cases: list[str]) -> None:
    """Cases of small scans, one file a modality, each in a folder of its own."""
    for number, (name, tokens) in enumerate(cases.items()):
        for token in tokens:
            write(folder / name / f"{name}-{token}.nii.gz", random_image(number))


@pytest.mark.parametrize(
    ("file", "modality"),
    [
        ("a/BraTS-GLI-00000-000-t2f.nii.gz", "t2f"),
        ("BraTS20_Training_001_flair.nii.gz", "t2f"),
        ("BraTS20_Training_001_t1ce.nii", "t1c"),
        ("p7.T1Gd.nii.gz", "t1c"),
        ("T1.nii.gz", "t1n"),
        ("p7_t2.nii.gz", "t2w"),
        ("p7_PET.nii.gz", "pet"),
        ("case_0001.nii.gz", "0001"),
    ],
)
def test_modality_is_the_last_part_of_the_name(file, modality):
    assert modality_of(file) == modality


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (files("t1n", "t1c"), NAME),
        (files("t1", "t1ce", "flair", name="BraTS20_Training_001", separator="_"), "BraTS20_Training_001"),
        (["x/p7.t1.nii.gz", "x/p7.t2.nii"], "p7"),
        (["x/p7/t1.nii.gz", "x/p7/t1ce.nii.gz"], "p7"),
        (["t1/p7.nii.gz", "t2/p7.nii.gz"], "p7"),
        (["x/p10_t1.nii.gz", "x/p10_t10.nii.gz"], "p10"),
    ],
)
def test_several_files_are_named_by_what_their_names_share(paths, name):
    assert common_name(paths) == case_name({"image": paths}) == name


def test_one_file_is_named_after_itself():
    assert case_name({"image": "x/p7-t1n.nii.gz"}) == case_name({"image": ["x/p7-t1n.nii.gz"]}) == "p7-t1n"


def test_files_come_in_the_order_of_the_modalities():
    case = files("seg", "t2f", "t1n", "t2w", "t1c")
    assert select_modalities(case, FOUR) == files(*FOUR)
    assert select_modalities(case, ["T2F", "t1ce"]) == files("t2f", "t1c")
    assert select_modalities(files("T1", "FLAIR"), ["t2f", "t1n"]) == files("FLAIR", "T1")
    assert select_modalities(files("pet", "ct"), ["CT", "PET"]) == files("ct", "pet")


@pytest.mark.parametrize(
    ("case", "modalities", "message"),
    [
        (
            files("t1n", "t2w"),
            FOUR,
            rf"/scans/{NAME}: no files of the modality t1c, .*-t1n.nii.gz, .*-t2w.nii.gz; each",
        ),
        (files("t1c", "t1ce"), ["t1c"], rf"{NAME}: 2 files of the modality t1c, .*-t1c.nii.gz, .*-t1ce.nii.gz; each"),
        ([], ["t1c"], "a case without files: no files of the modality t1c, the files are: none"),
        (files("t1n"), ["t1", "t1n"], r"modalities \['t1', 't1n'\] must be a list of different ones"),
        (files("t1n"), [], r"modalities \[\] must be a list"),
        (files("t1n"), "t1n", r"modalities 't1n' must be a list"),
    ],
)
def test_wrong_modalities_are_refused_by_case(case, modalities, message):
    with pytest.raises(DataError, match=message):
        select_modalities(case, modalities)


def test_a_folder_is_put_together_by_case():
    one, other = files(*FOUR, "seg"), files("t1", "t1ce", "t2", "flair", name="P_1", separator="_")
    whole = "/scans/P_2.nii.gz"
    assert group_by_case(sorted([*one, *other, whole]), FOUR) == [files(*FOUR), other, [whole]]


def test_with_one_modality_only_its_files_are_cases():
    several = files(*FOUR, "seg")
    assert group_by_case(several, ["flair"]) == [files("t2f")]
    assert group_by_case(files("7", "8", "seg"), ["t2f"]) == [[file] for file in files("7", "8")]
    assert group_by_case(files("t1n"), ["t2f"]) == []


def test_names_of_mri_mean_nothing_where_none_is_wanted():
    visits = [*files("ct", "pet", name="p_t1"), "/scans/p_t2.nii.gz"]
    assert group_by_case(visits, ["ct", "pet"]) == [files("ct", "pet", name="p_t1"), ["/scans/p_t2.nii.gz"]]


class TestDatalist:
    def load(self, folder, *images, **options):
        cases = [{"image": image, "label": f"labels/{index}.nii.gz"} for index, image in enumerate(images)]
        write_json(
            folder / "datalist.json", {"name": "toy", "labels": {"0": "no", "1": "yes"}, "training": cases, **options}
        )
        return lambda **arguments: load_datalist(folder, **arguments)

    def test_the_wanted_files_stay_in_the_wanted_order(self, tmp_path):
        load = self.load(tmp_path, ["a-t1n.nii.gz", "a-t1c.nii.gz", "a-t2w.nii.gz"])
        (item,) = load(modalities=["t2w", "t1n"]).labeled
        assert item == {
            "image": [str(tmp_path / "a-t2w.nii.gz"), str(tmp_path / "a-t1n.nii.gz")],
            "label": str(tmp_path / "labels/0.nii.gz"),
        }
        assert case_name(item) == "a"
        assert load(modalities=["t1c"]).labeled[0]["image"] == str(tmp_path / "a-t1c.nii.gz")
        assert len(load().labeled[0]["image"]) == 3

    def test_an_image_with_all_its_channels_is_left_alone(self, tmp_path):
        load = self.load(tmp_path, "a.nii.gz", ["b-t1.nii.gz", "b-t2.nii.gz"])
        one, several = load(modalities=["t2", "t1"], labeled_count=1).training_items
        assert one["image"] == str(tmp_path / "a.nii.gz")
        assert several == {"image": [str(tmp_path / "b-t2.nii.gz"), str(tmp_path / "b-t1.nii.gz")]}

    def test_validation_and_test_cases_follow(self, tmp_path):
        case = {"image": ["v-t1.nii.gz", "v-t2.nii.gz"], "label": "labels/v.nii.gz"}
        other = {"image": ["u-t1.nii.gz", "u-t2.nii.gz"], "label": "labels/u.nii.gz"}
        datalist = self.load(tmp_path, "a.nii.gz", validation=[case], test=[other])(modalities=["t2"])
        assert datalist.validation[0]["image"] == str(tmp_path / "v-t2.nii.gz")
        assert datalist.test[0]["image"] == str(tmp_path / "u-t2.nii.gz")

    @pytest.mark.parametrize("image", [["a-t1n.nii.gz", "a-t2w.nii.gz"], "a-t1n.nii.gz"])
    def test_a_missing_modality_is_refused_by_case(self, tmp_path, image):
        with pytest.raises(DataError, match=r"no files of the modality t2f, the files are: a-t1n.nii.gz"):
            self.load(tmp_path, image)(modalities=["t1n", "t2f"])

    def test_a_file_in_two_cases_is_refused_even_if_it_is_not_wanted(self, tmp_path):
        load = self.load(tmp_path, ["a-t1.nii.gz", "a-t2.nii.gz"], ["a-t1.nii.gz", "b-t2.nii.gz"])
        with pytest.raises(DataError, match=r"a-t1.nii.gz is in training and again in training"):
            load(modalities=["t2"])


class TestInference:
    def test_every_layout_of_the_same_cases_gives_the_same_items(self, tmp_path):
        write_cases(tmp_path / "deep", p1=[*FOUR, "seg"], p2=["t1", "t1ce", "t2", "flair"])
        paths = sorted((tmp_path / "deep").rglob("*.nii.gz"))
        (tmp_path / "flat").mkdir()
        for path in paths:
            os.link(path, tmp_path / "flat" / path.name)
        for folder in ("deep", "flat"):
            items = inference_items(image=tmp_path / folder, modalities=FOUR)
            assert [case_name(item) for item in items] == ["p1", "p2"]
            names = [[os.path.basename(file) for file in item["image"]] for item in items]
            assert names[0] == [f"p1-{token}.nii.gz" for token in FOUR]
            assert names[1] == [f"p2-{token}.nii.gz" for token in ("t1", "t1ce", "t2", "flair")]
        assert inference_items(dataset_dir=tmp_path / "flat", modalities=FOUR) == items

    def test_a_list_is_one_case(self, tmp_path):
        write_cases(tmp_path, p1=[*FOUR, "seg"])
        given = [str(tmp_path / "p1" / f"p1-{token}.nii.gz") for token in ("seg", *FOUR)]
        assert inference_items(image=given, modalities=["t2f", "t1n"]) == [{"image": [given[4], given[1]]}]
        assert inference_items(image=given, modalities=["t2f"]) == [{"image": given[4]}]
        assert inference_items(image=given[1:]) == [{"image": given[1:]}]
        assert inference_items(image=given[:1]) == [{"image": given[0]}]

    def test_one_modality_of_a_folder_of_cases(self, tmp_path):
        write_cases(tmp_path, p1=[*FOUR, "seg"], p2=["t1", "flair"])
        items = inference_items(image=tmp_path, modalities=["t2f"])
        assert [os.path.basename(item["image"]) for item in items] == ["p1-t2f.nii.gz", "p2-flair.nii.gz"]

    def test_a_file_with_all_channels_is_a_case(self, tmp_path):
        file = write(tmp_path / "p1.nii.gz", random_image(shape=(*SHAPE, 4)))
        assert inference_items(image=file, modalities=FOUR) == [{"image": file}]
        assert inference_items(image=tmp_path, modalities=FOUR) == [{"image": file}]

    def test_without_modalities_every_file_of_the_folder_alone_is_a_case(self, tmp_path):
        write_cases(tmp_path, p1=["t1", "t2"])
        assert [case_name(item) for item in inference_items(image=tmp_path / "p1")] == ["p1-t1", "p1-t2"]
        with pytest.raises(DataError, match=r"no .nii or .nii.gz file in this folder"):
            inference_items(image=tmp_path)

    def test_wrong_folders_are_refused_by_name(self, tmp_path):
        write_cases(tmp_path / "missing", p1=FOUR, p2=["t1n", "t2f"])
        write_cases(tmp_path / "other", p1=["t1n", "t1c"])
        for folder in "ab":
            write(tmp_path / "twice" / folder / "p1.nii.gz", random_label())
        for arguments, message in [
            ({"image": tmp_path / "missing", "modalities": FOUR}, "p2/p2: no files of the modality t1c, .*t1n.*t2f"),
            ({"image": tmp_path / "other", "modalities": ["t2f"]}, r"none of its 2 NIfTI files .*\['t2f'\]"),
            ({"image": tmp_path / "twice", "modalities": FOUR}, r"b/p1.nii.gz and .*a/p1.nii.gz are both named 'p1'"),
            ({"image": [tmp_path / "x.nii.gz", tmp_path / "y.nii.gz"]}, "x.nii.gz: no such file"),
        ]:
            with pytest.raises(DataError, match=message):
                inference_items(**arguments)


def test_the_real_case_by_its_modalities(shared_data):
    (item,) = inference_items(image=shared_data / "brats", modalities=["flair", "t1ce"])
    folder = shared_data / "brats" / NAME
    assert item == {"image": [str(folder / f"{NAME}-{token}.nii.gz") for token in ("t2f", "t1c")]}
    assert case_name(item) == NAME
