"""Convolutions on PyTorch, of images with the channels last, without copies."""

import keras
import torch
import torch.nn.functional as F


def _filters_first(kernel):
    """`(h, w, in, out)` as `(out, in, h, w)` with the channels last in memory.

    By a transposition of a matrix, which PyTorch has a fast kernel for; convolutions
    that are given a view copy it twenty times as slowly.
    """
    height, width, inputs, outputs = kernel.shape
    rows = kernel.reshape(-1, outputs).t().contiguous()
    return rows.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


def convolution(x, kernel, bias, strides, padding="same"):
    # The images are views, not copies.
    return _convolved(x, _filters_first(kernel), bias, strides, padding, 1)


def depthwise_convolution(x, kernel, bias, strides, padding="same"):
    height, width, channels, _ = kernel.shape
    filters = kernel.permute(2, 3, 0, 1).reshape(-1, 1, height, width)
    return _convolved(x, filters, bias, strides, padding, channels)


def _convolved(x, kernel, bias, strides, padding, groups):
    x = x.permute(0, 3, 1, 2)
    pads = [2 * padding] * 2 if isinstance(padding, int) else [0, 0]
    if padding == "same":
        pads = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, k, s in zip(x.shape[2:], kernel.shape[2:], strides, strict=True)
        ]
    if any(pad % 2 for pad in pads):
        ends = [side for p in reversed(pads) for side in (p // 2, p - p // 2)]
        x, pads = F.pad(x, ends), [0, 0]
    pads = [pad // 2 for pad in pads]
    y = F.conv2d(x, kernel, bias, strides, pads, groups=groups)
    return y.permute(0, 2, 3, 1)


_PHASES = (3, 1, 4, 4, 2, 0)  # which row of a kernel each phase reads; 4 is of zeros


def _by_phases(x, kernel, bias):
    """A transposed convolution of 4 x 4 by 2: its four phases are one of 3 x 3.

    Of few channels PyTorch's own takes two to three times as long. (Backwards it does
    not: this is for what is not trained.)
    """
    count, height, width, inputs = x.shape
    outputs = kernel.shape[2]
    rows = torch.tensor(_PHASES, device=kernel.device)
    kernel = F.pad(kernel, (0, 0, 0, 0, 0, 1, 0, 1))
    kernel = kernel.index_select(0, rows).index_select(1, rows)
    kernel = kernel.view(2, 3, 2, 3, outputs, inputs).permute(0, 2, 4, 1, 3, 5)
    kernel = kernel.reshape(4 * outputs, 3, 3, inputs).permute(0, 3, 1, 2)
    bias = None if bias is None else bias.repeat(4)
    y = F.conv2d(x.permute(0, 3, 1, 2), kernel, bias, padding=1)
    y = y.permute(0, 2, 3, 1).reshape(count, height, width, 2, 2, outputs)
    return y.permute(0, 1, 3, 2, 4, 5).reshape(count, 2 * height, 2 * width, outputs)


def activated(y, activation):
    if activation is keras.activations.relu and not y.requires_grad:
        return y.relu_()
    return activation(y)


def transposed_convolution(x, kernel, bias, strides):
    learns = torch.is_grad_enabled() and (x.requires_grad or kernel.requires_grad)
    sizes = tuple(kernel.shape[:2]), tuple(strides)
    if sizes == ((4, 4), (2, 2)) and kernel.shape[2] <= 4 and not learns:
        return _by_phases(x, kernel, bias)
    height, width = (n * s for n, s in zip(x.shape[1:3], strides, strict=True))
    x = x.permute(0, 3, 1, 2)
    kernel = kernel.permute(3, 2, 0, 1)
    extra = [k - s for k, s in zip(kernel.shape[2:], strides, strict=True)]
    pads = [max(n, 0) // 2 for n in extra]
    more = [max(-n, 0) for n in extra]
    y = F.conv_transpose2d(x, kernel, bias, strides, pads, more)
    return y[:, :, :height, :width].permute(0, 2, 3, 1)
