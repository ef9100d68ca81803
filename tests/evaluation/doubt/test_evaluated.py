import json

from aps_components.evaluation.doubt.evaluated import read_answers


def test_a_region_of_several_classes_is_no_class_whatever_its_name(tmp_path):
    """As an evaluation of before wrote it, which measured regions alone: class 1 is "core", too."""
    rows = [
        {"case": "a", "predictor": predictor, "variant": variant, "class": name, "label": label, "dice": dice}
        for predictor, variant, name, label, dice in (
            ("a", "raw", "core", "1+3", 0.5),
            ("a", "raw", "rim", 3, 0.7),
            ("a", "largest_component", "rim", 3, 0.8),
            ("b", "raw", "rim", 3, 0.9),
        )
    ]
    record = {"soft_dice": [[0.5], [0.6], [0.7]]}
    scans = [{"case": "a", "held_out": {"look": [[0.1]], "answers": {"a": record}}}]
    (tmp_path / "metrics.json").write_text(json.dumps({"cases": rows, "scans": scans}))
    (answer,) = read_answers(tmp_path, predictor="a", largest_component=False)
    assert answer.dice == {3: 0.7}
