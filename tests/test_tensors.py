"""What is done with tensors of images and masks, against values worked out by hand."""

import numpy as np
import pytest
import torch
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.tensors.batch import repeat_to_batch
from comfyui_affect.models.tensors.composites import composite
from comfyui_affect.models.tensors.luminance import luminance, with_luminance
from comfyui_affect.models.tensors.masks import coverage, sized_mask, with_channel
from comfyui_affect.models.tensors.ranges import clamp01, finite
from comfyui_affect.models.tensors.resize import resized
from comfyui_affect.models.tensors.uint8 import from_uint8, image_of, to_uint8, truncated
from PIL import Image
from torch.nn import functional as F


def test_every_8_bit_value_survives_a_round_trip():
    pixels = np.arange(256, dtype=np.uint8)
    assert from_uint8(pixels).dtype == np.float32
    assert np.array_equal(to_uint8(from_uint8(pixels)), pixels)
    assert np.array_equal(to_uint8(torch.from_numpy(from_uint8(pixels)).requires_grad_()), pixels)


@pytest.mark.parametrize("rounding, between", [(to_uint8, [0, 0, 1, 2, 255, 255]), (truncated, [0, 0, 0, 1, 254, 255])])
def test_the_two_roundings_differ_between_grey_levels_and_clip_alike(rounding, between):
    values = np.array([-0.3, 0.4 / 255, 0.6 / 255, 1.6 / 255, 254.6 / 255, 1.3], np.float32)
    assert rounding(values).tolist() == between
    assert rounding(torch.from_numpy(values)).tolist() == between


def test_a_picture_becomes_channels_first():
    picture = Image.new("RGB", (3, 2), (255, 51, 0))
    assert torch.equal(image_of(picture), torch.tensor([1.0, 0.2, 0.0]).view(3, 1, 1).expand(3, 2, 3))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (1, 1, 4, 6)])
def test_a_mask_of_any_shape_becomes_one_of_four_dimensions(shape):
    mask = torch.arange(24.0).view(shape)
    assert torch.equal(with_channel(mask), mask.view(1, 1, 4, 6))
    assert sized_mask(mask, torch.zeros(5, 3, 8, 12, dtype=torch.float64)).shape == (1, 1, 8, 12)
    assert sized_mask(mask.int(), torch.zeros(1, 3, 4, 6)).dtype == torch.float32


def test_a_cell_counts_the_share_that_a_mask_covers():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0, 0], mask[..., 2:, 2:] = 1, 1
    assert coverage(mask, 2, 2).flatten().tolist() == [0.25, 0, 0, 1]


def test_outside_a_mask_the_source_stays_bit_for_bit():
    source, edited = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2], mask[..., 2] = 1, 0.25
    out = composite(source, edited, mask)
    assert torch.equal(out[..., 3], source[..., 3]) and torch.equal(out[..., :2], edited[..., :2])
    assert torch.allclose(out[..., 2], 0.75 * source[..., 2] + 0.25)
    assert composite(source, edited, None) is edited


def test_an_image_that_fits_is_not_resized_and_another_is_filtered():
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert resized(image, 8, 8) is image
    # The same that antialiasing gives at the same size: callers may rely on either.
    assert torch.equal(F.interpolate(image, size=(8, 8), mode="bilinear", antialias=True), image)
    checks = (torch.arange(64).view(8, 8) % 2).float()[None, None]
    assert torch.allclose(resized(checks, 8, 1), torch.full((1, 1, 8, 1), 0.5), atol=0.01)


def test_luminance_of_primary_colours_and_its_exchange():
    image = torch.eye(3).view(1, 3, 1, 3)
    assert torch.allclose(luminance(image).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    grey, tinted = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0.6, 0.4, 0.5]).view(1, 3, 1, 1)
    assert torch.allclose(luminance(with_luminance(tinted, grey)), torch.tensor(0.5))


def test_short_batches_are_repeated_in_turn():
    rows = torch.arange(2)
    assert repeat_to_batch(rows, 5).tolist() == [0, 1, 0, 1, 0] and repeat_to_batch(rows, 2) is rows


def test_a_clamped_value_keeps_its_gradient():
    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    clamp01(x).sum().backward()
    assert clamp01(x).tolist() == [0, 0.5, 1] and x.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_with_its_place(value):
    assert finite(torch.ones(2), "It gave").sum() == 2
    with pytest.raises(UserError, match="The VAE gave values that are not numbers"):
        finite(torch.tensor([1.0, value]), "The VAE gave")
