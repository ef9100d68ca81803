"""``aps package``."""

from __future__ import annotations


def package(
    bundle: str,
    out: str = "dist",
    checkpoint: str | None = None,
    untrained: bool = False,
    weights_url: str | None = None,
    limit_mb: float = 25.0,
) -> None:
    """Make the zip file of a bundle for MONAI's model zoo; every fault of one that does not fit is named.

    Args:
        bundle: its folder, such as bundles/NAME, or what aps train left.
        out: receives NAME_vVERSION.zip and its sha256.
        checkpoint: the weights, with their .json beside them; by default models/model.pt of the bundle.
        untrained: package without weights, and say so in it.
        weights_url: address of the folder from which a checkpoint over the limit can be fetched.
        limit_mb: a checkpoint of more megabytes is written beside the zip file, and fetched by large_files.yml.
    """
    from aps_components.bundle.packaging import package_bundle
    from aps_components.options import truth

    written = package_bundle(
        str(bundle),
        out=str(out),
        checkpoint=checkpoint,
        untrained=truth("untrained", untrained),
        weights_url=weights_url,
        limit_mb=limit_mb,
    )
    for key, value in written.adapted.items():
        print(f"{key} of the configurations: {value}, as the checkpoint was trained")
    if written.weights is not None:
        print(f"{written.weights}: make it available at {written.url}")
    print(f"{written.archive}: sha256 {written.sha256}")
