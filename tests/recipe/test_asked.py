import json

import pytest

from aps_components.recipe.asked import checked_options, parse_time, set_options


@pytest.mark.parametrize(
    ("text", "seconds"), [("4h", 14_400), ("1h30m", 5_400), ("90 min", 5_400), ("45s", 45), ("0.5d", 43_200)]
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["4", 4, "", "h", "4 hours or so", "0m", "-1h"])
def test_other_times_are_refused(text):
    with pytest.raises(ValueError, match="time "):
        parse_time(text)


def test_options_of_the_dataset_are_told_from_those_of_the_training():
    given = {"augmentation": "affine", "network_def#filters": 4, "overlap": 0.25}
    of_dataset, of_training = checked_options(given)
    assert of_dataset == {"augmentation": "affine"}
    assert of_training == {"network_def#filters": 4, "overlap": 0.25}


def test_options_stand_in_the_bundle(tmp_path):
    (tmp_path / "configs").mkdir()
    files = {"train.json": {"overlap": 0.5, "network_def": {"a": 1}}, "inference.json": {"overlap": 0.5}}
    for name, content in files.items():
        (tmp_path / "configs" / name).write_text(json.dumps(content))
    set_options(tmp_path, {"network_def#filters": 4, "overlap": 0.25})
    train, inference = (json.loads((tmp_path / "configs" / name).read_text()) for name in files)
    assert train == {"overlap": 0.25, "network_def": {"a": 1, "filters": 4}}
    assert inference == {"overlap": 0.25}
    with pytest.raises(ValueError, match="no option --overlap#x: overlap has nothing inside"):
        set_options(tmp_path, {"overlap#x": 1})


@pytest.mark.parametrize("option", ["mirror_axes", "predictor", "train_a", "objective#train_b"])
def test_what_the_rounds_decide_is_no_option(option):
    with pytest.raises(ValueError, match=rf"--{option} is not for aps train: (held-out scans|Model A is trained)"):
        checked_options({option: [0]})
