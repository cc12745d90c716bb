"""EmoLat: an emotion latent space learned from semantic graphs, and a network that repaints an image from it in one
pass (Zhang et al., "EmoLat: Text-driven image sentiment transfer via emotion latent space").

graph.py          object-attribute graphs -> graph features (equations 1 to 6)
codebook.py       eight codebooks, quantisation, dispersion, sampling (7 to 10)
discriminator.py  the adversary that tells real image features of an emotion from codes (11 to 14)
transfer.py       mapper, multi-modal transformer and decoder: image, text and codes -> image (15 to 19)
losses.py         what that network is trained by (20 to 27)
space.py          the AFFECT_EMOLAT socket, its codes, its file
repaint.py        using it: an image repainted, a map of the codebooks
"""
