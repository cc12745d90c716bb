"""Networks that read images and texts: feature networks, classifiers, CLIP."""
