import pytest

from aps_components.options import axis_groups, differences, refuse_unknown, switch


@pytest.mark.parametrize(("value", "meant"), [(True, True), ("true", True), ("False", False), ("false", False)])
def test_a_switch_as_typed(value, meant):
    assert switch(value) is meant


@pytest.mark.parametrize("value", ["yes", 1, ""])
def test_anything_else_is_no_switch(value):
    with pytest.raises(ValueError, match="must be true or false"):
        switch(value)


def test_axes_in_a_list_of_their_own_go_together():
    assert axis_groups("flip_axes", []) == []
    assert axis_groups("flip_axes", (0, 2)) == [(0,), (2,)]
    assert axis_groups("flip_axes", [[0, 1], 2]) == [(0, 1), (2,)]


@pytest.mark.parametrize("axes", [[3], [-1], [0, 0], [[0, 1], 1], [[]], ["0"], [True], [0.0]])
def test_axes_that_there_are_not_are_named(axes):
    with pytest.raises(ValueError, match=r"^flip_axes .* must be some of 0"):
        axis_groups("flip_axes", axes)


def test_differences_are_named_in_order():
    found, given = {"seed": 0, "epochs": 2, "old": True}, {"epochs": 3, "seed": 0, "new": [1, 2]}
    assert differences(found, given) == ("epochs 2 there, 3 now; new None there, [1, 2] now; old True there, None now")
    assert differences(given, dict(given)) == ""


def test_an_unknown_option_is_refused_with_what_was_meant():
    refuse_unknown({"overlap": 0.5, "network_def#filters": 4}, ["overlap", "network_def"])
    with pytest.raises(ValueError, match="no option --overlp; did you mean --overlap\\?"):
        refuse_unknown({"overlp": 0.5}, {"overlap", "seed"})
    with pytest.raises(ValueError, match="no option --x#y; there are: overlap, seed"):
        refuse_unknown({"x#y": 0.5}, {"seed", "overlap"})
