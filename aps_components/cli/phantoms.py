"""``aps phantoms``."""

from __future__ import annotations


def phantoms(
    output_dir: str,
    labeled: int = 8,
    unlabeled: int = 32,
    validation: int = 4,
    test: int = 8,
    seed: int = 0,
) -> None:
    """Write made-up scans of an atrium-like shape, with a datalist, to try things on.

    Args:
        output_dir: receives images/, labels/ and datalist.json.
        labeled: training scans with a label.
        unlabeled: training scans without.
        validation: scans to choose settings on.
        test: scans for the final figures.
        seed: the same seed writes the same bytes.
    """
    from aps_components.data.phantoms import write_phantoms

    print(write_phantoms(output_dir, labeled=labeled, unlabeled=unlabeled, validation=validation, test=test, seed=seed))
