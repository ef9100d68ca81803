import pytest

from aps_components.options import differences, switch


@pytest.mark.parametrize(("value", "meant"), [(True, True), ("true", True), ("False", False), ("false", False)])
def test_a_switch_as_typed(value, meant):
    assert switch(value) is meant


@pytest.mark.parametrize("value", ["yes", 1, ""])
def test_anything_else_is_no_switch(value):
    with pytest.raises(ValueError, match="must be true or false"):
        switch(value)


def test_differences_are_named_in_order():
    found, given = {"seed": 0, "epochs": 2, "old": True}, {"epochs": 3, "seed": 0, "new": [1, 2]}
    assert differences(found, given) == ("epochs 2 there, 3 now; new None there, [1, 2] now; old True there, None now")
    assert differences(given, dict(given)) == ""
