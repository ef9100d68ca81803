"""``aps export``."""

from __future__ import annotations

from typing import Any


def export(
    bundle: str,
    out: str,
    format: str = "onnx",
    interactive: bool = False,
    checkpoint: str | None = None,
    predictor: str | None = None,
    roi_size: list[int] | None = None,
    tolerance: float | None = None,
    **options: Any,
) -> None:
    """Write the network that inference uses as one file that runs without this package, and check it.

    Args:
        bundle: folder, zip or name of a bundle.
        out: the file to write, such as model.ts or model.onnx; with --interactive a folder.
        format: "torchscript" or "onnx".
        interactive: write two ONNX files for a viewer that takes clicks: encoder.onnx, run once a window, and
            decoder.onnx, run at every click.
        checkpoint: trained weights; the bundle's models/model.pt by default.
        predictor: "a" (the V-Net alone), "b" or "average"; the bundle's by default.
        roi_size: the window in voxels, such as "[112,112,80]"; the one trained with by default.
        tolerance: largest difference of a probability to PyTorch; 1e-5 for torchscript, 1e-2 for onnx by default.
        options: other keys of the bundle's inference.json, as in --in_channels 2.
    """
    from aps_components.bundle.export import export_network
    from aps_components.bundle.export_interactive import export_interactive
    from aps_components.options import switch

    if roi_size is not None:
        options["roi_size"] = roi_size
    if switch(interactive):
        if format != "onnx" or predictor is not None:
            raise ValueError("--interactive writes ONNX, and Model B's answers: leave out --format and --predictor")
        print(export_interactive(bundle, out=out, checkpoint=checkpoint, tolerance=tolerance, options=options))
        return
    report = export_network(
        bundle,
        format=format,  # type: ignore[arg-type]
        out=out,
        checkpoint=checkpoint,
        predictor=predictor,  # type: ignore[arg-type]
        tolerance=tolerance,
        options=options,
    )
    print(report)
