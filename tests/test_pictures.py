import io
import sys

import pytest
from matplotlib.figure import Figure

from aps_components.errors import print_anything
from aps_components.options import has_comment, literal
from aps_components.pictures import figure_bytes, save_figure


@pytest.mark.parametrize("name", ["a$b__c$e", r"$\frac", "x\udcffy", "tab\there", "ก", "two\nlines"])
def test_no_name_stops_a_figure(tmp_path, name):
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 1000], [1, 1000], label=name)
    axes.set(title=name, xscale="log", yscale="log")
    axes.legend()
    save_figure(figure, tmp_path / "a.png", dpi=50)
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert b"AutoPromptSeg" in content[:400]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_ticks_of_a_log_scale_are_powers_and_no_formulas_source(tmp_path):
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    axes.plot([1, 2], [0.01, 10])
    axes.set(yscale="log", title="a$b__c$")
    save_figure(figure, tmp_path / "a.png", dpi=50)
    ticks = [tick for tick in axes.get_yticklabels() if "10^" in tick.get_text()]
    assert ticks
    assert all(tick.get_parse_math() for tick in ticks)
    assert not axes.title.get_parse_math()


def test_a_drawing_is_the_same_each_time_and_names_in_it_are_no_elements():
    def draw():
        figure = Figure()
        figure.add_subplot().set(title="<script>alert(1)</script>-->")
        return figure_bytes(figure, format="svg")

    assert draw() == draw()
    assert b"<script" not in draw()


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(ValueError, match="dpi"):
        save_figure(Figure(), tmp_path / "a.png", dpi=-1)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


def test_a_narrow_terminal_prints_what_it_can(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print_anything()
    print("öß \udcff", flush=True)
    assert stream.buffer.getvalue() == rb"\xf6\xdf \udcff" + b"\n"


@pytest.mark.parametrize(
    ("text", "cut"),
    [("results#2", True), ("/data/a b#1.nii.gz", True), ("it's#1", True), ("{'a#b': 1}", False), ("plain", False)],
)
def test_a_comment_is_told_from_a_text(text, cut):
    assert has_comment(text) == cut


@pytest.mark.parametrize("text", ["results#2", "#", "a@b#c@d", 'it\'s #1 "two"', "plain/path"])
def test_a_text_survives_monais_configurations(text):
    from monai.bundle import ConfigParser

    assert ConfigParser({"text": literal(text)}).get_parsed_content("text") == text
