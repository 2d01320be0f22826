"""The network's own arithmetic with fewer steps, for training on a CPU.

Autograd as PEFT and transformers leave it keeps about 58 kB a token and layer of SmolLM2-135M for the backward pass,
and reads and writes it all. These functions keep less than a quarter of that, compute the rest again, and join what can
be one operation. The values are those of the modules they replace, up to rounding; the tests hold both to it. On a GPU
Unsloth's own kernels do this work.
"""

import torch
from torch.autograd import Function
from torch.nn import functional


class Joined:
    """Linear layers with LoRA that share their input x (N, I): y = x W^T + bias + (x A^T) B^T each (Hu et al. 2021), A
    with its scale. Computed as (x | x A^T) (W | B)^T, one wide product for all of them.

    A and B, masters in float32, are cast in each forward pass: a fused AdamW leaves no trace of an update by which a
    kept cast could tell that it is old. The layers' W and biases become views of the joint ones, until `part`.
    """

    def __init__(self, layers, adapter: str):
        self.layers = [layer.base_layer for layer in layers]
        self.masters = [matrix for layer in layers
                        for matrix in (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)]
        self.scale = layers[0].scaling[adapter]  # alpha / rank: the same in all layers
        self.outputs = [layer.out_features for layer in self.layers]
        self.ranks = [a.shape[0] for a in self.masters[::2]]
        weight = self.layers[0].weight
        self.inputs = weight.shape[1]
        self.matrix = weight.new_zeros(sum(self.outputs), self.inputs + sum(self.ranks))
        self.a = weight.new_empty(sum(self.ranks), self.inputs)
        blocks = self._blocks(self.matrix[:, self.inputs:])
        self.casts = [cast for pair in zip(self.a.split(self.ranks), blocks, strict=True) for cast in pair]
        self.bias = None if self.layers[0].bias is None else weight.new_empty(sum(self.outputs))
        self._share(self.matrix[:, :self.inputs], "weight")
        if self.bias is not None:
            self._share(self.bias, "bias")

    def _share(self, joint, name: str) -> None:
        for layer, view in zip(self.layers, joint.split(self.outputs), strict=True):
            own = getattr(layer, name)
            own.data = view.copy_(own)

    def part(self) -> None:
        """Give each layer a weight and bias of its own back."""
        for parameter in [parameter for layer in self.layers for parameter in layer.parameters()]:
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)

    def room(self, rows: int) -> torch.Tensor:
        """(rows, I + ranks), for x and what `forward` puts beside it."""
        return self.matrix.new_empty(rows, self.matrix.shape[1])

    def forward(self, wide, residual=None):
        """wide (N, I + ranks) with x in the first I columns, which gets x A^T into the others, to y (N, O), of all
        layers side by side; added to `residual` where there is one."""
        torch._foreach_copy_(self.casts, self.masters)
        self.a.mul_(self.scale)
        torch.mm(wide[:, :self.inputs], self.a.T, out=wide[:, self.inputs:])
        if residual is None:
            return functional.linear(wide, self.matrix, self.bias)
        y = torch.addmm(residual, wide, self.matrix.T)
        return y if self.bias is None else y.add_(self.bias)

    def backward(self, dy, x, inner, weight=1):
        """The derivatives by x (N, I), and by the masters of A and B, layer by layer.

        dy (N, O), inner: x A^T (N, ranks); x may come without a factor `weight` (I,) that it had in the forward pass.
        """
        d_wide = dy @ self.matrix
        dx, d_inner = d_wide[:, :self.inputs], d_wide[:, self.inputs:]
        dx.addmm_(d_inner, self.a)
        d_a = (d_inner.T @ x).mul_(weight).split(self.ranks)
        d_b = [d.T @ part for d, part in zip(dy.split(self.outputs, 1), inner.split(self.ranks, 1), strict=True)]
        masters = []
        for a, b in zip(d_a, d_b, strict=True):
            masters += [a.float().mul_(self.scale), b.float()]
        return dx, masters

    def _blocks(self, joint):
        """The blocks of (O, ranks) that belong to one layer each."""
        rows = joint.split(self.outputs)
        return [row.split(self.ranks, 1)[place] for place, row in enumerate(rows)]


class LoraLinear(Function):
    """A linear layer with LoRA: x (..., I) to (..., O)."""

    @staticmethod
    def forward(ctx, x, layer, *masters):
        wide = layer.room(x.numel() // x.shape[-1])
        wide[:, :layer.inputs] = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(wide)
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        return layer.forward(wide).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dy):
        (wide,), width = ctx.saved_tensors, ctx.layer.inputs
        dy = dy.reshape(-1, dy.shape[-1]).to(wide.dtype)
        dx, d_masters = ctx.layer.backward(dy, wide[:, :width], wide[:, width:])
        return dx.reshape(ctx.shape).to(ctx.dtype), None, *d_masters


def _normed(x, eps: float):
    """x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019), the mean in float32; and what x was multiplied with."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps))
    return (x * scale).to(x.dtype), scale


def _normed_backward(dy, x_hat, scale, weight):
    """The derivative by x, dy being that by weight * x_hat."""
    d = dy * weight
    along = (d * x_hat).sum(-1, keepdim=True, dtype=torch.float32).mul_(scale).div_(-x_hat.shape[-1])
    return d.mul_(scale.to(d.dtype)).addcmul_(x_hat, along.to(d.dtype))


class RmsNorm(Function):
    """weight * x / sqrt(mean(x^2) + eps), weight frozen. x (..., D)."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        x_hat, scale = _normed(x, eps)
        ctx.save_for_backward(x_hat, scale, weight)
        return x_hat * weight

    @staticmethod
    def backward(ctx, dy):
        return _normed_backward(dy, *ctx.saved_tensors), None, None


class MlpBlock(Function):
    """x + down(silu(gate(y)) * up(y)) (Shazeer 2020), y = norm(x), with LoRA on all three; what goes into `down` is
    computed again in the backward pass. x (..., D), weight (D,) and eps: the norm's, entry: gate and up, last: down."""

    @staticmethod
    def forward(ctx, x, weight, eps, entry, last, *masters):
        flat = x.reshape(-1, x.shape[-1])
        x_hat, scale = _normed(flat, eps)
        wide = entry.room(len(flat))
        torch.mul(x_hat, weight, out=wide[:, :entry.inputs])
        made = entry.forward(wide)
        gate, up = made.chunk(2, 1)
        product = last.room(len(flat))
        torch.mul(functional.silu(gate), up, out=product[:, :last.inputs])
        y = last.forward(product, flat)
        ctx.save_for_backward(x_hat, scale, weight, wide[:, entry.inputs:].clone(), made,
                              product[:, last.inputs:].clone())
        ctx.entry, ctx.last = entry, last
        return y.view(x.shape)

    @staticmethod
    def backward(ctx, dy):
        x_hat, scale, weight, inner, made, last_inner = ctx.saved_tensors
        gate, up = made.chunk(2, 1)
        opened = functional.silu(gate)
        flat = dy.reshape(x_hat.shape)
        d_product, d_last = ctx.last.backward(flat, opened * up, last_inner)
        d_made = torch.empty_like(made)
        d_gate, d_up = d_made.chunk(2, 1)
        torch.mul(d_product, opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_product.mul_(up), gate, grad_input=d_gate)
        dx, d_entry = ctx.entry.backward(d_made, x_hat, inner, weight)
        dx = _normed_backward(dx, x_hat, scale, weight).add_(flat)
        return dx.view(dy.shape), None, None, None, None, *d_entry, *d_last


def _turn(x, cos, sin, y) -> None:
    """Rotary positions (Su et al. 2021) of x (B, Q, P, D) into y, which is shaped like it; cos and sin broadcast to
    both. With -sin it is the derivative."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=y)
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:])


def _attend(q, k, v, mask):
    """softmax(q k^T + mask) v with the query heads of a key-value head in one product (Ainslie et al. 2023), and the
    softmax.

    q (B, G, H * T, D), with the scale of the scores, k and v (B, G, S, D), mask (B, 1, T, S) additive or None.
    """
    if mask is None:
        scores = q @ k.transpose(-1, -2)
    else:
        scores = q.new_empty(*q.shape[:3], k.shape[2])
        scores.view(*q.shape[:2], -1, *mask.shape[2:]).copy_(mask[:, :, None])
        scores.flatten(0, 1).baddbmm_(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype)  # torch's is slower in bfloat16
    return weights @ v, weights


def _attend_backward(dy, q, k, v, weights):
    """The derivatives by q, k and v, shaped as they are; dy as q."""
    d_weights = dy @ v.transpose(-1, -2)
    d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    return d_scores @ k, d_scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ dy


class AttentionBlock(Function):
    """x + o(attention(q(y), k(y), v(y))), y = norm(x), with LoRA on all four. x (B, T, I), weight (I,) and eps: the
    norm's, cos and sin (1 or B, T, D), mask (B, 1, T, T) or None, entry: q, k and v, last: o."""

    @staticmethod
    def forward(ctx, x, weight, eps, cos, sin, mask, scale, entry, last, *masters):
        batch, length, width = *x.shape[:2], cos.shape[-1]
        flat, cos, sin = x.reshape(batch * length, -1), cos[:, None], sin[:, None]
        x_hat, norm_scale = _normed(flat, eps)
        wide = entry.room(len(flat))
        torch.mul(x_hat, weight, out=wide[:, :entry.inputs])
        made = entry.forward(wide).view(batch, length, -1, width).transpose(1, 2)  # (B, H + G + G, T, D)
        heads, groups, _ = (size // width for size in entry.outputs)
        q, k, v = (x.new_empty(batch, count, length, width) for count in (heads, groups, groups))
        _turn(made[:, :heads], cos * scale, sin * scale, q)  # the scores' scale costs nothing here
        _turn(made[:, heads:heads + groups], cos, sin, k)
        v.copy_(made[:, heads + groups:])
        q = q.view(batch, groups, -1, width)
        mixed, weights = _attend(q, k, v, mask)
        last_wide = last.room(len(flat))
        into = last_wide[:, :last.inputs].view(batch, length, heads, width)
        into.copy_(mixed.view(batch, heads, length, width).transpose(1, 2))
        y = last.forward(last_wide, flat)
        ctx.save_for_backward(x_hat, norm_scale, weight, wide[:, entry.inputs:].clone(), q, k, v, weights, last_wide,
                              cos, sin)
        ctx.entry, ctx.last, ctx.scale, ctx.heads = entry, last, scale, heads
        return y.view(x.shape)

    @staticmethod
    def backward(ctx, dy):
        x_hat, norm_scale, weight, inner, q, k, v, weights, wide, cos, sin = ctx.saved_tensors
        batch, groups, length, width = k.shape
        flat, heads, inputs = dy.reshape(x_hat.shape), ctx.heads, ctx.last.inputs
        d_mixed, d_last = ctx.last.backward(flat, wide[:, :inputs], wide[:, inputs:])
        d_mixed = d_mixed.view(batch, length, heads, width).transpose(1, 2).reshape(q.shape)
        dq, dk, dv = _attend_backward(d_mixed, q, k, v, weights)
        d_made = flat.new_empty(len(flat), sum(ctx.entry.outputs))
        into = d_made.view(batch, length, -1, width).transpose(1, 2)
        _turn(dq.view(batch, heads, length, width), cos * ctx.scale, sin * -ctx.scale, into[:, :heads])
        _turn(dk, cos, -sin, into[:, heads:heads + groups])
        into[:, heads + groups:].copy_(dv)
        dx, d_entry = ctx.entry.backward(d_made, x_hat, inner, weight)
        dx = _normed_backward(dx, x_hat, norm_scale, weight).add_(flat)
        return dx.view(dy.shape), *[None] * 8, *d_entry, *d_last


class GroupedAttention(Function):
    """`_attend` for attention modules that do something else before; shapes as there."""

    @staticmethod
    def forward(ctx, q, k, v, mask):
        y, weights = _attend(q, k, v, mask)
        ctx.save_for_backward(q, k, v, weights)
        return y

    @staticmethod
    def backward(ctx, dy):
        return *_attend_backward(dy, *ctx.saved_tensors), None


def grouped_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """`GroupedAttention` as transformers calls it: query (B, H, T, D), key and value (B, G, S, D) -> (B, T, H, D)."""
    batch, heads, length, width = query.shape
    q = (query * scaling).reshape(batch, key.shape[1], -1, width)
    mask = None if attention_mask is None else attention_mask[:, :, :, :key.shape[2]]
    y = GroupedAttention.apply(q, key, value, mask)
    return y.view(batch, heads, length, width).transpose(1, 2).contiguous(), None
