"""Generated CT bodies with lesions whose masks are known exactly.

Schematic but not easy: organs, vessels, bowel and bone at portal venous Hounsfield values with texture, correlated
noise and partial volume, and lesions that are irregular in all three directions and grow against walls and vessels.
"""

from segmentation.phantoms.body import body_phantom, random_lesion_specs
from segmentation.phantoms.canvas import LABELS
from segmentation.phantoms.types import (
    LesionKind,
    LesionSpec,
    Organ,
    OrganEntry,
    Phantom,
    PhantomError,
    PhantomLesion,
    Side,
    Touching,
    catalogue,
)

__all__ = [
    "LABELS",
    "LesionKind",
    "LesionSpec",
    "Organ",
    "OrganEntry",
    "Phantom",
    "PhantomError",
    "PhantomLesion",
    "Side",
    "Touching",
    "body_phantom",
    "catalogue",
    "random_lesion_specs",
]
