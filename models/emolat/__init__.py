"""EmoLat: an emotion latent space learned from semantic graphs, and a network that repaints an image from it in one pass
(Zhang et al., "EmoLat: Text-driven image sentiment transfer via emotion latent space").

graph.py          object-attribute graphs -> graph features (equations 1 to 6)
codebook.py       eight codebooks, quantisation, dispersion, sampling (7 to 10)
discriminator.py  the adversary that tells real image features of an emotion from codes (11 to 14)
"""
