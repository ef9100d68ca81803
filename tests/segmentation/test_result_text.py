from pathlib import Path

from aps_components.segmentation import Segmentation, summary
from aps_components.segmentation.expected import worst_first
from aps_components.segmentation.outputs import Outputs


def scan(name, *channels, classes=2):
    entries = [
        {
            "name": f"class {label}",
            "volume_ml": 100.0 * (label - 1),
            "intensity": {channel: {"mean": None if label == 1 else -1.5} for channel in channels},
        }
        for label in range(1, classes + 1)
    ]
    return {"scan": name, "classes": entries}


def test_a_table_then_places_then_what_it_is_for():
    result = Segmentation(
        Outputs(Path("out")), [scan("a", "image"), scan("long", "image")], ["a"], ["long"], {"b": "?"}
    )
    assert summary(result).splitlines() == [
        "scan  class       ml  mean",
        "a     class 1    0.0     -",
        "      class 2  100.0  -1.5",
        "long  class 1    0.0     -",
        "      class 2  100.0  -1.5",
        "",
        "1 segmented, 1 there already, 1 failed",
        "label maps  out",
        "statistics  out/statistics.csv",
        "For research only. Not a medical device; not for diagnosis or treatment.",
    ]


def test_each_channel_has_a_column_and_a_file_its_name():
    lines = summary(Segmentation(Outputs(Path("out"), "mine"), [scan("a", "t1n", "t2f")], ["a"])).splitlines()
    assert lines[0] == "scan  class       ml  mean t1n  mean t2f"
    assert lines[2] == "      class 2  100.0      -1.5      -1.5"
    assert lines[5:7] == ["label map   out/mine.nii.gz", "statistics  out/mine_statistics.csv"]


def test_a_long_table_is_cut_and_an_empty_one_left_out():
    lines = summary(Segmentation(Outputs(Path("out")), [scan("a", "image", classes=50)], ["a"])).splitlines()
    assert lines[46] == "... and 5 more lines in the statistics"
    assert summary(Segmentation(Outputs(Path("out")), failed={"b": "?"})).startswith("0 segmented, 0 there")


def expected(name, value, *, unlike=False):
    """A scan whose second class is predicted."""
    content = scan(name, "image") | {"unlike_training": unlike}
    content["classes"][0]["predicted_dice"] = None
    content["classes"][1]["predicted_dice"] = {"value": value, "low": value - 0.125, "high": value + 0.05}
    return content


def test_the_scans_with_the_lowest_predicted_dice_come_first():
    scans = [expected("good", 0.9), expected("poor", 0.5), expected("odd", 0.7, unlike=True), scan("old", "image")]
    lines = summary(Segmentation(Outputs(Path("out")), scans, ["good"])).splitlines()
    names = [line.split()[0] for line in lines[1:9:2]]
    assert names == ["odd", "poor", "good", "old"]
    nothing = scan("nothing", "image")
    for entry in nothing["classes"]:
        entry["predicted_dice"] = None
    assert [each["scan"] for each in worst_first([*scans, nothing])] == ["odd", "nothing", "poor", "good", "old"]
    assert worst_first([scans[0], nothing, nothing])[0]["scan"] == "good"
    assert lines[0].split()[-3:] == ["predicted", "Dice", "(90", "%)"][-3:]
    assert lines[4].endswith("0.50 (0.38-0.55)")
    assert lines[8].endswith("-")
    assert any("unlike" in line and line.endswith("odd") for line in lines)
