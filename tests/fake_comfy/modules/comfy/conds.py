"""What a cond carries to the model: a tensor for each image, or one value for all."""

import torch

import comfy.utils


class CONDRegular:
    def __init__(self, cond):
        self.cond = cond

    def _copy_with(self, cond):
        return type(self)(cond)

    def of_batch(self, n):
        return comfy.utils.repeat_to_batch_size(self.cond, n)

    def joined(self, others):
        return torch.cat(others)


class CONDCrossAttn(CONDRegular):
    pass


class CONDConstant(CONDRegular):
    def of_batch(self, n):
        return self.cond

    def joined(self, others):
        return self.cond
