"""Threads hold back warnings at the same time, and leave them as they were."""

import logging
import warnings

import pytest

from aps_components.segmentation.quiet import quiet


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_what_was_before_comes_back_with_the_last_one(order):
    before, disabled = list(warnings.filters), logging.root.manager.disable
    holding = {"first": quiet(), "second": quiet(complete=True)}
    for each in holding.values():
        each.__enter__()
    holding[order[0]].__exit__(None, None, None)
    with warnings.catch_warnings(record=True) as heard:
        warnings.warn_explicit("of a library", UserWarning, "array.py", 1, module="torch.utils")
    assert not heard
    holding[order[1]].__exit__(None, None, None)
    assert list(warnings.filters) == before
    assert logging.root.manager.disable == disabled


def test_only_the_complete_one_holds_back_everybodys():
    with pytest.warns(UserWarning, match="mine"), quiet():
        warnings.warn("mine", stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet(complete=True):
            warnings.warn("anybody's", stacklevel=1)
