"""Networks that read images and texts: feature networks, classifiers, CLIP.

backbones.py     DenseNet and VGG, published or tiny, and their feature maps
perceptual.py    LPIPS, or the same distance on one of those
classifiers.py   emotion classifiers: image -> eight logits
heads.py         published emotion heads on CLIP features (EmoGen, EmoEdit)
clip.py          CLIP as a scorer of how well an image fits a text
scorers.py       CLIP scorers by name
clip_folder.py   a CLIP from a folder in open_clip's form
moodifyclip.py   MoodifyCLIP: a CLIP of 248 tokens
tokenizer.py     CLIP's tokenizer
tiny_clip.py     the architecture of the bundled tiny CLIP
views.py         random views of an image
"""
