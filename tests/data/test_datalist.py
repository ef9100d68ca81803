import json
import os
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from scans import write_json

from aps_components.data import DataError, case_name, data_error_behind, inference_items, load_datalist

LA_DATALIST = Path(__file__).parents[2] / "bundles" / "la" / "configs" / "datalist.json"
LABELS = {"0": "background", "1": "left atrium"}


def entry(name: str) -> dict[str, str]:
    return {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}


def content(cases: str = "abcde", **parts) -> dict:
    return {"name": "toy", "labels": LABELS, "training": [entry(name) for name in cases], **parts}


def load(folder: Path, listing: object, **options):
    write_json(folder / "datalist.json", listing)
    return load_datalist(folder, **options)


def names(items) -> str:
    return "".join(case_name(item) for item in items)


def touch(folder: Path, *files: str) -> None:
    folder.mkdir(exist_ok=True)
    for file in files:
        (folder / file).touch()


def test_first_training_cases_stay_labelled_and_the_rest_lose_their_label_path(tmp_path):
    datalist = load(tmp_path, content(unlabeled=[{"image": "images/u.nii.gz"}, entry("v")]), labeled_count=2)
    assert names(datalist.labeled) == "ab"
    assert names(datalist.unlabeled) == "cdeuv"
    assert datalist.labeled[0] == {key: str(tmp_path / file) for key, file in entry("a").items()}
    assert all(set(item) == {"image"} for item in datalist.unlabeled)
    assert datalist.training_items == datalist.part("training") == datalist.labeled + datalist.unlabeled
    assert datalist.labels == {0: "background", 1: "left atrium"}
    assert datalist.num_classes == 2


def test_without_a_count_every_label_is_kept(tmp_path):
    listing = content()
    del listing["training"][1]["label"]
    datalist = load(tmp_path, listing)
    assert names(datalist.labeled) == "acde"
    assert names(datalist.unlabeled) == "b"


def test_validation_is_taken_from_the_end_before_the_cut(tmp_path):
    datalist = load(tmp_path, content(), labeled_count=2, validation_count=2)
    assert (names(datalist.labeled), names(datalist.unlabeled), names(datalist.validation)) == ("ab", "c", "de")
    assert datalist.evaluation_split == "validation"
    assert all("label" in item for item in datalist.part("validation"))


def test_a_validation_list_of_its_own_comes_first(tmp_path):
    datalist = load(tmp_path, content(validation=[entry("v")], test=[entry("t")]), validation_count=2)
    assert names(datalist.labeled) == "abcde"
    assert names(datalist.validation) == "v"
    assert datalist.evaluation_split == "test"
    assert names(datalist.part("test")) == "t"


def test_remaining_takes_every_labelled_scan_that_is_not_named(tmp_path):
    touch(tmp_path / "images", *(f"{name}.nii.gz" for name in "abuxyz"), "._y.nii.gz", "notes.txt")
    touch(tmp_path / "labels", *(f"{name}.nii.gz" for name in "abuxz"))
    datalist = load(tmp_path, content("ab", unlabeled=[{"image": "images/u.nii.gz"}], test="remaining"))
    assert datalist.test == [{key: str(tmp_path / file) for key, file in entry(name).items()} for name in "xz"]


def test_an_image_may_be_one_file_per_modality(tmp_path):
    case = {"image": ["t1/a.nii.gz", "t2/a.nii"], "label": "seg/a.nii.gz"}
    (item,) = load(tmp_path, content(training=[case])).labeled
    assert item["image"] == [str(tmp_path / "t1/a.nii.gz"), str(tmp_path / "t2/a.nii")]
    assert case_name(item) == "a"


def test_labels_that_models_made_are_told_from_those_by_hand(tmp_path):
    made = [entry("d") | {"label_by": "models"}, entry("e") | {"label_by": "models"}]
    datalist = load(tmp_path, content(training=[entry("a"), entry("b") | {"label_by": "hand"}, *made]))
    assert names(datalist.labeled) == "abde"
    assert datalist.labeled_by_hand == 2
    assert datalist.labels_by_models == {str(tmp_path / f"labels/{name}.nii.gz") for name in "de"}
    assert load(tmp_path, content()).labeled_by_hand is None
    with pytest.raises(DataError, match=r"validation_count 1: the label of .*e.nii.gz was made by models"):
        load(tmp_path, content(training=[entry("a"), *made]), validation_count=1)


def test_own_datalist_comes_before_the_default(tmp_path):
    default = write_json(tmp_path / "shipped.json", content("ab"))
    assert names(load_datalist(tmp_path, default=default).labeled) == "ab"
    assert names(load(tmp_path, content("abc"), default=default).labeled) == "abc"


@pytest.mark.parametrize(
    ("listing", "options", "message"),
    [
        ([], {}, r"datalist.json: holds a list"),
        ({"name": "toy", "labels": LABELS}, {}, r"datalist.json: key 'training' is missing"),
        (content(labels={"1": "heart"}), {}, r"labels is .*without a gap"),
        (content(labels=["heart"]), {}, r"labels is .*without a gap"),
        (content(labels={"0": "background", "1": None}), {}, r"labels is .*'1': None.* to its name, a text"),
        (content(labels={"0": "background", "1": " "}), {}, r"labels is .* to its name, a text"),
        (content(name=""), {}, r"name is ''"),
        (content(validaton=[]), {}, r"datalist.json: no key 'validaton' is known; did you mean 'validation'"),
        (content(unlabelled=[]), {}, r"did you mean 'unlabeled'"),
        (content(training=[{"image": "a.nii.gz", "lable": "a.nii.gz"}]), {}, r"training\[0\]: .*'lable'.*'label'"),
        (content(training=[entry("a") | {"patient_id": 7}]), {}, r"training\[0\]: .*'patient_id'.*mean 'patient'"),
        (content(validation=[entry("v") | {"patients": 7}]), {}, r"validation\[0\]: .*'patients'.*mean 'patient'"),
        (content(labeled_slices=[3, 10]), {}, r"datalist.json: labeled_slices stands at the top.* beside each label"),
        (content(labeled_classes=[1]), {}, r"datalist.json: labeled_classes stands at the top.* beside each label"),
        (content(labeled_slice="drawn"), {}, r"no key 'labeled_slice' is known; did you mean 'labeled_slices'"),
        (content(training=[]), {}, r"datalist.json: empty label list"),
        (content(training=[{"image": "a.nii.gz"}]), {}, r"datalist.json: empty label list"),
        (content(training=[{"label": "a.nii.gz"}]), {}, r"training\[0\] is .* needs an \"image\""),
        (content(training=[{"image": 3}]), {}, r"training\[0\] is .* must be file names"),
        (content(unlabeled="all"), {}, r"unlabeled is 'all'; it must be a list"),
        (content(test="rest"), {}, r"test is 'rest'; it must be a list"),
        (content(validation=[{"image": "v.nii.gz"}]), {}, r"validation: .*v.nii.gz has no \"label\""),
        (content(test=[entry("b")]), {}, r"b.nii.gz is in training and again in test"),
        (content(training=[entry("a") | {"label_by": "me"}]), {}, r"training\[0\]: label_by is 'me'; it must be"),
        (content(training=[{"image": ["a.nii", 3]}]), {}, r"training\[0\] is .* must be file names"),
        (content("aba"), {}, r"a.nii.gz is in training and again in training"),
        (content(unlabeled=[{"image": "images/a.nii.gz"}]), {}, r"a.nii.gz is in training and again in unlabeled"),
        (content(), {"labeled_count": 6}, r"labeled_count 6 is outside 1 to 5"),
        (content(), {"labeled_count": 0}, r"labeled_count 0 is outside 1 to 5"),
        (content(), {"labeled_count": 4, "validation_count": 2}, r"labeled_count 4 is outside 1 to 3"),
        (content(), {"validation_count": 5}, r"validation_count 5 leaves none of the 5 training cases"),
        (content(), {"validation_count": -1}, r"validation_count -1 must not be negative"),
    ],
)
def test_faulty_datalists_are_refused_by_name(tmp_path, listing, options, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, listing, **options)


def test_what_others_say_besides_is_no_fault(tmp_path):
    """As the Medical Segmentation Decathlon does, and a case of one's own."""
    said = {"numTraining": 5, "numTest": 0, "licence": "x", "modality": {"0": "MRI"}, "tensorImageSize": "3D"}
    listing = content(**said)
    listing["training"][0] |= {"patient": 7, "fold": 1, "weight": 0.5}
    assert len(load(tmp_path, listing).labeled) == 5


def test_unparsable_json_is_refused_with_its_line(tmp_path):
    (tmp_path / "datalist.json").write_text('{"name": "toy",\n oops}')
    with pytest.raises(DataError, match=r"datalist.json: not valid JSON .*line 2"):
        load_datalist(tmp_path)


def test_the_fault_is_found_behind_an_error_of_monai(tmp_path):
    parser = ConfigParser({"x": {"_target_": "aps_components.data.load_datalist", "dataset_dir": str(tmp_path / "no")}})
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content("x")
    assert str(data_error_behind(error.value)).startswith(str(tmp_path / "no"))
    assert data_error_behind(RuntimeError("another")) is None


def test_missing_folder_and_missing_datalist_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such dataset folder"):
        load_datalist(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"datalist.json: no such file"):
        load_datalist(tmp_path)
    with pytest.raises(DataError, match=r"datalist.json: no such file, and no .*shipped.json either"):
        load_datalist(tmp_path, default=tmp_path / "shipped.json")


def test_unknown_part_is_refused(tmp_path):
    with pytest.raises(DataError, match="no part 'train'"):
        load(tmp_path, content()).part("train")


def test_inference_takes_a_file_a_folder_or_the_dataset(tmp_path):
    touch(tmp_path, "z.nii", "notes.txt")
    scan = {"image": str(tmp_path / "z.nii")}
    assert inference_items(image=tmp_path / "z.nii") == [scan]
    assert inference_items(image=str(tmp_path)) == inference_items(dataset_dir=tmp_path) == [scan]
    touch(tmp_path / "images", "b.nii.gz", "a.nii.gz")
    assert names(inference_items(dataset_dir=tmp_path)) == "ab"
    assert inference_items(image=tmp_path / "z.nii", dataset_dir=tmp_path) == [scan]


def test_inference_without_scans_is_refused(tmp_path):
    touch(tmp_path, "notes.txt")
    for options, message in [
        ({}, "nothing to segment"),
        ({"image": tmp_path / "x.nii.gz"}, "x.nii.gz: no such file or folder"),
        ({"image": tmp_path / "notes.txt"}, r"notes.txt: not a .nii or .nii.gz file"),
        ({"image": tmp_path}, r"no .nii or .nii.gz file in this folder"),
        ({"dataset_dir": tmp_path / "nowhere"}, "no such dataset folder"),
    ]:
        with pytest.raises(DataError, match=message):
            inference_items(**options)


def test_shipped_la_list_has_the_published_order(shared_data):
    published = (shared_data / "la" / "train.list").read_text().split()
    datalist = load_datalist(shared_data / "la", default=LA_DATALIST, labeled_count=8)
    assert [case_name(item) for item in datalist.training_items] == published
    assert len(datalist.labeled) == 8
    assert datalist.test == []
    assert all(os.path.isfile(item["image"]) for item in datalist.training_items)


def test_shipped_la_list_names_eighty_scans():
    listing = json.loads(LA_DATALIST.read_text())
    assert len({case["image"] for case in listing["training"]}) == 80
    assert listing["test"] == "remaining"


@pytest.mark.parametrize("path", ["~nobody_of_this_name/a.nii.gz", "images/~/a.nii.gz"])
def test_a_home_of_nobody_is_a_name(tmp_path, path):
    content = {"name": "x", "labels": {"0": "background", "1": "a"}, "training": [{"image": path, "label": "l.nii.gz"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    assert load_datalist(tmp_path).labeled[0]["image"] == str(tmp_path / path)


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_path_that_no_system_takes_is_refused_by_its_place(tmp_path, key):
    case = {"image": "a.nii.gz", "label": "l.nii.gz"} | {key: "a\0.nii.gz"}
    content = {"name": "x", "labels": {"0": "background", "1": "a"}, "training": [case]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"datalist\.json: training\[0\].*must be file names"):
        load_datalist(tmp_path)


class TestPatientsOfTheLastCases:
    """Cases a to e of the patients 1, 1, 2, 3, 3."""

    @pytest.fixture
    def listing(self):
        cases = [entry(name) | {"patient": patient} for name, patient in zip("abcde", (1, 1, 2, "3", 3), strict=True)]
        return content(training=cases)

    def test_a_patient_is_not_cut_in_two(self, tmp_path, listing):
        with pytest.raises(DataError, match="validation_count 1 keeps e apart, and d of the same patient is learned"):
            load(tmp_path, listing, validation_count=1)
        with pytest.raises(DataError, match=r"validation_count 4 keeps b apart, and a of the same patient"):
            load(tmp_path, listing, validation_count=4)

    @pytest.mark.parametrize(("count", "kept"), [(0, ""), (2, "de"), (3, "cde")])
    def test_whole_patients_are_kept_apart(self, tmp_path, listing, count, kept):
        assert names(load(tmp_path, listing, validation_count=count).validation) == kept

    def test_unlabelled_scans_are_learned_from_as_well(self, tmp_path, listing):
        listing["unlabeled"] = [{"image": "images/u.nii.gz", "patient": "3"}]
        with pytest.raises(DataError, match=r"validation_count 2 keeps d apart, and u of the same patient"):
            load(tmp_path, listing, validation_count=2)

    def test_of_several_modalities_any_file_tells_the_patient(self, tmp_path):
        cases = [
            {"image": [f"{name}_t1.nii", f"{name}_t2.nii"], "label": f"l/{name}.nii", "patient": "7"} for name in "ab"
        ]
        with pytest.raises(DataError, match="validation_count 1 keeps b_t2 apart, and a_t2 of the same patient"):
            load(tmp_path, content(training=cases), validation_count=1, modalities=["t2"])

    def test_names_alone_do_not_refuse(self, tmp_path):
        cases = [entry(name) for name in ("x", "p7_visit1", "p7_visit2")]
        assert len(load(tmp_path, content(training=cases), validation_count=1).validation) == 1

    def test_a_model_that_learned_from_others_may_be_judged_on_them(self, tmp_path, listing):
        assert names(load(tmp_path, listing, validation_count=1, counts_at_most=True).validation) == "e"
