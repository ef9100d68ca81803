"""The benchmark of partly labelled scans makes datasets that are what it says, for us and for nnU-Net."""

import json
import sys

import numpy as np
import pytest
from case_folders import box, write_cases

from aps_components.data import check_cases, load_datalist

SHAPE = (17, 24, 40)
BOXES = {1: box((2, 12), (3, 20), (10, 30)), 2: box((12, 15), (3, 20), (10, 30))}


@pytest.fixture
def benchmark(benchmark):
    return benchmark("partial_labels")


def test_scribbles_are_of_their_class_and_few(benchmark):
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[2:12, 3:20, 10:30], label[12:15, 3:20, 10:30] = 1, 2
    drawn = benchmark.scribbles(label, np.random.default_rng(0), voxels=25)
    said = drawn != benchmark.NOT_LABELED
    np.testing.assert_array_equal(drawn[said], label[said])
    assert all(10 <= np.count_nonzero(drawn == value) <= 25 for value in range(3))


def test_every_third_slice_is_as_it_was(benchmark):
    label = np.arange(3 * 5 * 11).reshape(3, 5, 11) % 3
    drawn = benchmark.third_of_slices(label, np.random.default_rng(4))
    numbers = np.flatnonzero((drawn != benchmark.NOT_LABELED).all(axis=(0, 1)))
    assert set(np.diff(numbers)) == {3}
    np.testing.assert_array_equal(drawn[..., numbers], label[..., numbers])
    assert (np.delete(drawn, numbers, axis=2) == benchmark.NOT_LABELED).all()


def test_datasets_and_commands(benchmark, monkeypatch, tmp_path, capsys):
    write_cases(tmp_path / "data", labelled=7, unlabelled=0, shape=SHAPE, boxes=BOXES)
    counts = ["--pool", "5", "--validation", "2", "--whole", "1", "--slices", "3", "--scribbles", "4"]
    monkeypatch.setattr(sys, "argv", ["partial_labels.py", str(tmp_path / "data"), str(tmp_path / "out"), *counts])
    benchmark.main()
    assert capsys.readouterr().out.count("benchmarks/peer_nnunet.py") == 3
    judged = set()
    for arm, labelled in {"whole": 1, "slices": 3, "scribbles": 4}.items():
        datalist = load_datalist(tmp_path / "out" / arm)
        assert (len(datalist.labeled), len(datalist.unlabeled), len(datalist.validation)) == (labelled, 5 - labelled, 2)
        check_cases(datalist.training_items, num_classes=3, progress=False)
        judged.add(json.dumps(datalist.validation))
    assert len(judged) == 1


def test_what_was_evaluated_is_gathered_into_one_table(benchmark, tmp_path):
    header = "case,predictor,variant,class,dice,hd95_mm,volume_ratio\n"
    for arm, dice in (("whole", (0.5, 0.75)), ("slices", (0.75, 1.0))):
        (tmp_path / arm / "evaluation").mkdir(parents=True)
        rows = [f"c{number},a,{{}},x,{value},1,1\n" for number, value in enumerate(dice)]
        text = header + "".join(row.format("raw") + row.format("largest_component") for row in rows)
        (tmp_path / arm / "evaluation" / "metrics.csv").write_text(text)
    lines = benchmark.gather(tmp_path, 3).split("\n")
    assert [line.split() for line in lines] == [["whole", "a", "Dice", "62.50"], ["slices", "a", "Dice", "87.50"]]
    table = (tmp_path / "figures.csv").read_text().split()
    assert table[1:3] == ["whole,3,a,c0,x,0.5,1,1", "whole,3,a,c1,x,0.75,1,1"]
    assert table[3:] == ["slices,3,a,c0,x,0.75,1,1", "slices,3,a,c1,x,1.0,1,1"]
    with pytest.raises(SystemExit, match="run the printed commands first"):
        benchmark.gather(tmp_path / "whole", 3)
