"""A bundle as one zip file for a model zoo: what goes in, what is checked, and how it is written."""

from aps_components.bundle.packaging.package import Package, PackageError, package_bundle

__all__ = ["Package", "PackageError", "package_bundle"]
