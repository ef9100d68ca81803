"""``aps overview``."""

from __future__ import annotations


def overview(image: str, output_dir: str, path: str = "overview.png", truth: str | None = None) -> None:
    """Draw a segmented scan: image, truth, prediction, uncertainty maps, prompt points.

    Args:
        image: the scan.
        output_dir: folder with the files of inference (--save_maps true).
        path: PNG file to write.
        truth: label map, if there is one.
    """
    from aps_components.evaluation import overview_from_files

    print(overview_from_files(path, image=image, output_dir=output_dir, truth=truth))
