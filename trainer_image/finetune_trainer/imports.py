"""Libraries that others import wherever they find them, at the cost of a part of a second, and that few runs need."""

import sys

_RARE = ("scipy", "sklearn")
"""transformers imports scipy for object detection alone (measured: 0.3 CPU-s), and scikit-learn when it assists
generation."""


def hide() -> None:
    """Has them look as if they were not installed, until :func:`show`."""
    sys.modules.update({name: None for name in _RARE if name not in sys.modules})  # type: ignore[misc]


def show() -> None:
    """Lets them be imported: for whoever is about to."""
    for name in _RARE:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]
