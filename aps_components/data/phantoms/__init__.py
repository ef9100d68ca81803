"""Phantom cardiac MR scans: a left atrium among neighbours of the same brightness.

`draw_phantom` draws every random number and `render_phantom` draws none (as in TorchIO, Perez-Garcia et al.
2021, arXiv:2003.04696), so a scan can be rendered again at any size from its parameters.

Anatomy is laid out in millimetres of a reference field of view of 90 x 80 x 60 mm around its centre, the first
axis towards the patient's right, the second forwards and the third upwards (RAS+). Every other field of view
scales it as a whole, so that the atrium's share of the voxels does not depend on the field of view.
"""

from aps_components.data.phantoms.anatomy import PhantomParameters, draw_phantom
from aps_components.data.phantoms.dataset import write_phantoms
from aps_components.data.phantoms.rendering import REFERENCE_FIELD, render_phantom
from aps_components.data.phantoms.solids import Ellipsoid, Structure, Tube

__all__ = [
    "REFERENCE_FIELD",
    "Ellipsoid",
    "PhantomParameters",
    "Structure",
    "Tube",
    "draw_phantom",
    "render_phantom",
    "write_phantoms",
]
