"""pandas, which groups and joins the tables of a comparison; the extra ``studies`` installs it."""

from __future__ import annotations

try:
    import pandas
except ImportError as error:
    raise RuntimeError('pandas is not installed; run: pip install "aps-components[studies]"') from error

__all__ = ["pandas"]
