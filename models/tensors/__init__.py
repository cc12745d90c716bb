"""What is done with tensors of images and masks, each in one place and free of any method.

resize.py      images at another size
masks.py       masks of any of ComfyUI's shapes as [B, 1, H, W], at another size
composites.py  an edit inside a mask, the source outside
luminance.py   Rec. 601 luminance
uint8.py       float in 0..1 <-> 8 bit
batch.py       short batches, repeated
ranges.py      0..1 with gradients, NaN and infinity
gradients.py   gradients inside inference mode, and with less memory
memory.py      running out of a device's memory
"""
