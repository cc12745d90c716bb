"""Reference retrieval: a gallery of pictures, and the one among them whose structure is nearest to an image (Global
image sentiment transfer, section III-A).

gallery.py       a folder of pictures with labels: `open_gallery`
labels.py        nouns, adjectives and emotions, from names of folders or from CSV files
ratings.py       people's ratings of valence and arousal, from CSV files
edges.py         edge responses, which are compared; reading a picture for them
index.py         the file that keeps the edge responses beside the pictures
search.py        the pictures nearest to an image: `retrieve`
ssim.py          SSIM of one picture with very many, exact and fast
ssim_kernels.py  its numba kernels
"""

from .edges import EDGES, SIDE, cropped, edge_response, luminance, ratio_of, read_picture
from .gallery import Gallery, Picture, open_gallery, state
from .search import Reference, nearest, retrieve

__all__ = [
    "EDGES",
    "SIDE",
    "Gallery",
    "Picture",
    "Reference",
    "cropped",
    "edge_response",
    "luminance",
    "nearest",
    "open_gallery",
    "ratio_of",
    "read_picture",
    "retrieve",
    "state",
]
