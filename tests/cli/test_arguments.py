import pytest

from aps_components.cli.arguments import several


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ((0, 1), [0, 1]),
        ([0.5], [0.5]),
        (3, [3]),
        (0.25, [0.25]),
        ("all", ["all"]),
        ("a/model.pt, b/model.pt,", ["a/model.pt", "b/model.pt"]),
    ],
)
def test_several_values_however_fire_read_them(given, meant):
    assert several(given) == meant
