"""Emotional grades: changes of colour and light that hold at any resolution and move no edge.

grid   the grade itself, a bilateral grid of affine colour transforms
fit    the grade that makes an edit of its source, in closed form
align  where an edit lies on its source
apply  a grade on a picture of any size
cube   3D lookup tables, which other programs read
"""
