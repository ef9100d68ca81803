"""What pyproject.toml cannot say: a wheel and a source archive carry the bundles that are shipped, weights included."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

BUNDLES = Path(__file__).resolve().parent / "bundles"
IN_WHEEL = Path("aps_components") / "shipped_bundles"  # SHIPPED_BUNDLES of aps_components/bundle/locate.py
# What a user made in these folders stays behind: bundles and weights of their own, results and logs.
PARTS = ("LICENSE", "configs/*.json", "configs/*.conf", "docs/**/*", "models/README.md")
WEIGHTS = ("models/model.json", "models/model.pt")
SHIPPED = {"amos": PARTS, "brats": PARTS, "la": (*PARTS, *WEIGHTS)}


def copy_shipped(target: Path) -> None:
    """Copy the bundles that are shipped, and of each what belongs to it.

    Args:
        target: receives a folder for each bundle; what was there before is removed.
    """
    shutil.rmtree(target, ignore_errors=True)
    found = {file for name, parts in SHIPPED.items() for part in parts for file in (BUNDLES / name).glob(part)}
    for file in sorted(filter(Path.is_file, found)):
        inside = file.relative_to(BUNDLES)
        if not any(part.startswith(".") for part in inside.parts):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / inside)


class BuildWithBundles(build_py):
    """Also copies the bundles; an editable installation finds them where they are."""

    def run(self) -> None:
        """Build the package, then the bundles into it."""
        super().run()
        if not self.editable_mode:
            copy_shipped(Path(self.build_lib) / IN_WHEEL)


class SourcesWithBundles(sdist):
    """Also copies the bundles, of which MANIFEST.in takes none."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Lay out the sources, then the bundles among them."""
        super().make_release_tree(base_dir, files)
        copy_shipped(Path(base_dir) / BUNDLES.name)


setup(cmdclass={"build_py": BuildWithBundles, "sdist": SourcesWithBundles})
