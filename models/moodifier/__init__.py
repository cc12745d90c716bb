"""Moodifier: what to change and where for an emotion, and an edit that changes only that (Ye and Huang, "Moodifier:
MLLM-enhanced emotion-driven image editing").

mllm.py       providers that say which objects, which attributes, which prompts
addresses.py  which servers may be sent a picture, and which gets the key
rules.py      what to say without a model: descriptors of the 27 emotions in four contexts
grounding.py  where: the mask of an instruction, by one of four groundings or the user's own
masks.py      the groundings: the diffusion model's attention, CLIPSeg, boxes, saliency; feathering and the overlay
attention.py  cross-attention maps of a source and a target prompt, blended inside a mask (equations 6 and 7)
blend.py      inversion-free sampling of source and target side by side (algorithm 1)
figures.py    the figures of an edit
text_encoder.py  MoodifyCLIP as a diffusion model's text encoder
losses.py     MoodifyCLIP's losses (equations 1 to 5)
"""
