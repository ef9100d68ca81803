from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scans, which are not part of the project and may be missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real scans at {SHARED_DATA}")
    return SHARED_DATA
