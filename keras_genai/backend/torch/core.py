"""The primitives on PyTorch; see `keras_genai.backend.interface`."""

import os

import keras
import torch
import torch.distributed as dist
import torch.nn.functional as F

from keras_genai.backend.scope import rematerialized
from keras_genai.backend.torch.adam import fused
from keras_genai.backend.torch.recorder import Recordings, Replayed

COMPILES = False  # `jit` runs any shape as it is
GRAPHS_ARE_CYCLES = False


def value_and_gradients(loss_fn, variables, scale=None):
    with torch.enable_grad():
        loss = loss_fn()
        if not variables:  # all of them frozen: autograd refuses to look for none
            return loss.detach(), []
        scaled = loss if scale is None else scale(loss)
        gradients_ = torch.autograd.grad(
            scaled, [v.value for v in variables], materialize_grads=True
        )
    return loss.detach(), list(gradients_)


def value_and_gradient(fn, x):
    with torch.enable_grad():
        x = keras.ops.convert_to_tensor(x).detach().requires_grad_()
        value = fn(x)
        (gradient,) = torch.autograd.grad(value, x, materialize_grads=True)
    return value.detach(), gradient


def gradients(fn, x):
    with torch.enable_grad():
        x = keras.ops.convert_to_tensor(x)
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(
            fn(x), x, create_graph=True, materialize_grads=True
        )
    return gradient


def cond(pred, true_fn, false_fn):
    return true_fn() if bool(pred) else false_fn()


def without_gradients():
    return torch.no_grad()


def jit(fn, variables=(), compiled=True):
    # Eager, and after some calls from a recording: `torch.compile` costs more than it
    # saves for a first call.

    def run(*args):
        with torch.no_grad():
            return fn(*args)

    return Recordings(run, lambda: variables) if compiled else run


def apply_gradients(optimizer, gradients_, variables):
    with torch.no_grad(), fused(optimizer, variables):
        optimizer.apply(gradients_, variables)


def batch_normalization(x, scale, offset, epsilon):
    # Statistics that move by a momentum of 1 are those of the batch: the kernel's own,
    # not computed a second time. It reports the unbiased variance n / (n - 1).
    mean, variance = torch.zeros_like(scale), torch.zeros_like(scale)
    mean, variance = mean.detach(), variance.detach()
    y = F.batch_norm(
        x.movedim(-1, 1),  # PyTorch wants the channels second: a view, not a copy
        mean,
        variance,
        scale,
        offset,
        training=True,
        momentum=1.0,
        eps=epsilon,
    ).movedim(1, -1)
    count = x.numel() // x.shape[-1]
    return y, mean, variance * ((count - 1) / count)


class _GroupNormalization(torch.autograd.Function):
    """PyTorch's kernel without two faults of its form for channels last (2.13).

    It takes the variance as E x^2 - (E x)^2, which loses four digits where a group's
    mean is fifteen of its deviations: the group is shifted before, which the result
    does not know about. And its backward pass crashes where the gradient of its input
    is not asked for: here it always is.
    """

    @staticmethod
    def forward(ctx, x, groups, scale, offset, epsilon):
        x = _laid_out(x)
        batch, channels = x.shape[:2]
        ctx.sizes = batch, channels, x.numel() // (batch * channels), groups
        ctx.epsilon = epsilon
        # The shift: the value of the group's first channel at one position.
        size = channels // groups
        corner = x[(slice(None), slice(0, None, size), *[slice(0, 1)] * (x.ndim - 2))]
        corner = corner.repeat_interleave(size, dim=1)  # (B, C, 1, ...)
        y, mean, rstd = torch.native_group_norm(
            x - corner, scale, offset, *ctx.sizes, epsilon
        )
        ctx.save_for_backward(x, corner, scale, offset, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, corner, scale, offset, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: recorded anew
            inputs = [
                t if t.requires_grad else t.detach().requires_grad_()
                for t in (x, scale, offset)
            ]
            y = F.group_norm(
                inputs[0] - corner, ctx.sizes[-1], *inputs[1:], ctx.epsilon
            )
            found = torch.autograd.grad(y, inputs, gradient, create_graph=True)
        else:
            found = torch.ops.aten.native_group_norm_backward(
                _laid_out(gradient),
                x - corner,
                mean,
                rstd,
                scale,
                *ctx.sizes,
                [True] * 3,
            )
        return found[0], None, found[1], found[2], None


def _laid_out(x):
    """In the order in memory that the kernel takes: on a CPU there is no copy."""
    last = x.ndim == 4 and x.device.type == "cpu"
    layout = torch.channels_last if last else torch.contiguous_format
    return x.contiguous(memory_format=layout)


def group_normalization(x, groups, scale, offset, epsilon):
    # PyTorch wants the channels second: views, not copies.
    y = _GroupNormalization.apply(x.movedim(-1, 1), groups, scale, offset, epsilon)
    return y.movedim(1, -1)


def attention(query, key, value, mask=None, bias=None, causal=False):
    # Views in PyTorch's order, without the copies that Keras makes of them; of kernels
    # PyTorch takes the fastest that the machine and the arguments allow.
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=2) for x in (key, value))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if causal and not (mask is None and bias is None):
        seen = torch.ones(
            query.shape[2], key.shape[2], dtype=torch.bool, device=query.device
        ).tril()
        mask, causal = seen if mask is None else mask & seen, False
    added = None if bias is None else bias.to(query.dtype)
    if mask is not None:
        # Finite: a row that sees nothing has the mean of all, as on other backends.
        unseen = -0.7 * torch.finfo(query.dtype).max
        zero = torch.zeros((), dtype=query.dtype, device=query.device)
        added = torch.where(mask, zero if added is None else added, unseen)
    y = F.scaled_dot_product_attention(
        query, key, value, attn_mask=added, is_causal=causal
    )
    return y.transpose(1, 2).to(value.dtype)


def write(x, values, index):
    if torch.is_grad_enabled() and (x.requires_grad or values.requires_grad):
        x = x.clone()
    x = x.contiguous()  # one that was repeated may hold each row once
    if isinstance(index, int):
        x[:, :, index : index + values.shape[2]] = values
        return x
    places = torch.arange(values.shape[2], device=x.device) + index
    return x.index_copy_(2, places, values)


def replayed(fn):
    return Replayed(fn)


def remat(fn, *args):
    return rematerialized(fn, *args)


def cross_entropy(labels, logits):
    # Rows are not made one axis: the exporter to ONNX would not find them again.
    log_p = F.log_softmax(logits, dim=-1)
    return -torch.gather(log_p, -1, labels.long().unsqueeze(-1)).squeeze(-1)


def argmax(x):
    return torch.argmax(x, dim=-1).to(torch.int32)


def gelu(x):
    return F.gelu(x)


def leaky_relu(x, slope):
    return F.leaky_relu(x, slope)


def replica():
    rank, count = process()
    return (rank, count) if count > 1 else None


class _ReplicaSum(torch.autograd.Function):
    """The sum over the processes; its derivative is the sum of their derivatives."""

    @staticmethod
    def forward(ctx, x):
        x = x.detach().contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return _ReplicaSum.apply(gradient)


def replica_sum(tensors):
    # One message for all tensors of a dtype.
    tensors = [keras.ops.convert_to_tensor(x) for x in tensors]
    sums = [None] * len(tensors)
    for dtype in {x.dtype: None for x in tensors}:
        places = [i for i, x in enumerate(tensors) if x.dtype == dtype]
        flat = torch.cat([tensors[i].reshape(-1) for i in places])
        parts = _ReplicaSum.apply(flat).split([tensors[i].numel() for i in places])
        for i, part in zip(places, parts, strict=True):
            sums[i] = part.reshape(tensors[i].shape)
    return sums


def list_devices():
    count = torch.cuda.device_count()
    names = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count)]
    return names or [f"cpu ({torch.get_num_threads()} threads)"]


def is_main_process():
    return process()[0] == 0


def check_distribution():
    if keras.distribution.distribution() is not None:
        raise ValueError(
            "keras.distribution needs the JAX backend. On PyTorch, start the same "
            "program in several processes: torchrun --nproc-per-node=2 train.py"
        )


def process():
    """`(rank, count)` of the processes that train together."""
    if not dist.is_available():
        return 0, 1
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        # Started by torchrun, which says who this is in the environment.
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group()
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def known(x):
    # Also None where it is on another device: its kernels check indices themselves, and
    # a copy would wait for all of them.
    plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu"
    if not plain or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    return x.detach().numpy()


def to_host(x):
    return keras.ops.convert_to_numpy(x)
