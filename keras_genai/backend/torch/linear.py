"""Dense layers' products and quick GELU on PyTorch."""

import torch
import torch.nn.functional as F

# From so many rows on, and of kernels that are not narrower, oneDNN's product takes a
# fifth less than MKL's on an AMD EPYC (98 and 81 GFLOP/s of a core); of few rows more.
ROWS, WIDTH = 256, 64


def _found():
    """PyTorch's operation that calls oneDNN for a dense layer, or None."""
    try:
        return torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None


_ONEDNN = _found()


def _fits(x, kernel):
    return (
        _ONEDNN is not None
        and type(x) in (torch.Tensor, torch.nn.Parameter)  # no stand-in of an exporter
        and x.device.type == "cpu"
        and x.dtype == kernel.dtype == torch.float32
        and x.shape[0] >= ROWS
        and min(kernel.shape) >= WIDTH
        and torch.backends.mkldnn.enabled
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


class _Linear(torch.autograd.Function):
    """`x kernel + bias` by oneDNN; the kernel's gradient is faster by MKL."""

    @staticmethod
    def forward(ctx, x, kernel, bias):
        ctx.save_for_backward(x, kernel)
        return _ONEDNN(x, kernel.t(), bias, "none", [], "")

    @staticmethod
    def backward(ctx, gradient):
        x, kernel = ctx.saved_tensors
        by_x, by_kernel, by_bias = ctx.needs_input_grad
        return (
            _product(gradient, kernel.t(), None) if by_x else None,
            x.t() @ gradient if by_kernel else None,
            gradient.sum(0) if by_bias else None,
        )


def _product(x, kernel, bias):
    """Of rows `(B, n)`."""
    if _fits(x, kernel):
        return _Linear.apply(x, kernel, bias)
    return torch.mm(x, kernel) if bias is None else torch.addmm(bias, x, kernel)


def linear(x, kernel, bias=None):
    if x.ndim == 2:
        return _product(x, kernel, bias)
    y = _product(x.reshape(-1, x.shape[-1]), kernel, bias)
    return y.view(*x.shape[:-1], kernel.shape[1])


def quick_gelu(x):
    # By the kernels of SiLU, `z sigmoid(z)`, of which each way is one pass.
    z = 1.702 * x
    y = F.silu(z) if z.requires_grad else F.silu(z, inplace=True)
    return y.mul_(1.0 / 1.702)
