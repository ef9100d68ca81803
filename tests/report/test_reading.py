import pytest

from aps_components.report.reading import duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(40, "40 s"), (720, "12 min"), (7500, "2 h 05 min"), (5399, "1 h 30 min"), (None, "unknown"), (-1, "unknown")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said
