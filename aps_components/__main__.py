"""``python -m aps_components`` is ``aps``."""

from aps_components.cli import main

if __name__ == "__main__":
    main()
