"""Methods side by side: each one a set of values of a bundle's configuration."""

from aps_components.studies.comparison.compare import compare
from aps_components.studies.comparison.methods import Method, choose_methods, load_methods
from aps_components.studies.comparison.runs import Run, RunError

__all__ = ["Method", "Run", "RunError", "choose_methods", "compare", "load_methods"]
