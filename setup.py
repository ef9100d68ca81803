"""What pyproject.toml cannot say: a wheel carries the bundles of the repository, weights included."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLES = Path(__file__).resolve().parent / "bundles"
IN_WHEEL = Path("aps_components") / "shipped_bundles"  # SHIPPED_BUNDLES of aps_components/bundle/locate.py
PARTS = (
    *("LICENSE", "configs/*.json", "configs/*.conf", "docs/*"),
    *("models/README.md", "models/model.json", "models/model.pt"),
)


class BuildWithBundles(build_py):
    """Also copies what belongs to each bundle; an editable installation finds them where they are."""

    def run(self) -> None:
        """Build the package, then the bundles into it."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / IN_WHEEL
        shutil.rmtree(target, ignore_errors=True)
        for bundle in sorted(path.parent.parent for path in BUNDLES.glob("*/configs/inference.json")):
            for file in sorted(found for part in PARTS for found in bundle.glob(part)):
                copy = target / file.relative_to(BUNDLES)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


setup(cmdclass={"build_py": BuildWithBundles})
