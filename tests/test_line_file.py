import pytest

from aps_components.line_file import LineFile


def test_what_a_kill_cut_short_is_gone_and_the_next_line_stands_by_itself(tmp_path):
    file = LineFile(tmp_path / "a.jsonl")
    assert file.whole() == []
    file.append({"case": "ä", "dice": 0.5})
    with open(file.path, "a", encoding="utf-8") as stream:
        stream.write('{"case": "b", "di')
    whole = LineFile(file.path).whole(keys=["case"])
    assert whole == [{"case": "ä", "dice": 0.5}]
    file.keep(whole)
    file.append({"case": "c"})
    assert LineFile(file.path).whole() == [{"case": "ä", "dice": 0.5}, {"case": "c"}]


@pytest.mark.parametrize(("finite", "count"), [(True, 0), (False, 1)])
def test_a_number_that_json_has_not(tmp_path, finite, count):
    file = LineFile(tmp_path / "a.jsonl")
    file.append({"dice": float("nan")})
    assert len(file.whole(finite=finite)) == count
