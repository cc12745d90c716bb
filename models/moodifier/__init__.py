"""Moodifier: what to change and where for an emotion, and an edit that changes only that (Ye and Huang, "Moodifier:
MLLM-enhanced emotion-driven image editing").

mllm.py       providers that say which objects, which attributes, which prompts
addresses.py  which servers may be sent a picture, and which gets the key
rules.py      what to say without a model: descriptors of the 27 emotions in four contexts
masks.py      where: grounding by the diffusion model's attention, CLIPSeg, boxes or saliency
attention.py  cross-attention maps of a source and a target prompt, blended inside a mask (equations 6 and 7)
blend.py      inversion-free sampling of source and target side by side (algorithm 1)
"""
