"""Emotional grades: changes of colour and light that hold at any resolution and move no edge.

grid   the grade itself, a bilateral grid of affine colour transforms
fit    the grade that makes an edit of its source, in closed form
align  where an edit lies on its source
edit   an edit brought back to its source's own pixels
surface  whether a change is made on pixels or on a grade
apply  a grade on a picture of any size
cube   3D lookup tables, which other programs read
transfer  the global sentiment transfer with a grade in place of pixels
"""

from .grid import Grid
from .surface import grade_of_change, some_frames

__all__ = ["FORMATS", "Grid", "grade_of_change", "some_frames"]

FORMATS = {"local": ".safetensors", "cube": ".cube"}
"""How a grade is saved -> the file's suffix: as it is, or as a 3D lookup table."""
