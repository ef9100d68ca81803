import json


def test_dice_is_of_the_pieces_that_inference_keeps(benchmark, tmp_path):
    rows = [
        {"case": case, "class": name, "variant": variant, "dice": dice}
        for case, name, variant, dice in [
            ("a", "liver", "raw", 0.5),
            ("a", "liver", "largest_component", 0.75),
            ("b", "liver", "raw", 0.25),
            ("b", "spleen", "raw", None),
        ]
    ]
    content = {"context": {"inference_variant": "raw"}, "cases": rows}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert benchmark("answers").dice_by_class(tmp_path) == {"liver": [50.0, 25.0]}
