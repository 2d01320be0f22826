"""The network's own arithmetic with fewer operations and less memory, for training on a CPU.

With the modules of PEFT and transformers, autograd keeps about 58 kB per token and layer of SmolLM2-135M for the
backward pass, and reads and writes it all. These functions keep less than a quarter of that, recompute the rest, and
join what can be one operation. The tests compare values and gradients with those of the replaced modules. On a GPU
Unsloth's own kernels do this work.
"""

import torch
from torch.autograd import Function
from torch.nn import functional


class Joined:
    """Linear layers with LoRA that share their input x (N, I): y = x W^T + bias + (x A^T) B^T each (Hu et al. 2021), A
    with its scale. Computed as (x | x A^T) (W | B)^T, one wide product for all of them.

    A and B, masters in float32, are cast in each forward pass: fused AdamW updates them without a trace, so a cached
    cast could not tell that it is out of date. The layers' W and biases become views of joint tensors, until
    `separate`.
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
            parameter = getattr(layer, name)
            parameter.data = view.copy_(parameter)

    def separate(self) -> None:
        """Give each layer a weight and bias of its own again."""
        for parameter in [parameter for layer in self.layers for parameter in layer.parameters()]:
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)

    def empty_input(self, rows: int) -> torch.Tensor:
        """(rows, I + ranks), for x and the x A^T that `forward` writes beside it."""
        return self.matrix.new_empty(rows, self.matrix.shape[1])

    def forward(self, wide, residual=None):
        """y (N, O) of all layers side by side, added to `residual` where there is one. wide (N, I + ranks) has x in its
        first I columns; x A^T is written into the others."""
        torch._foreach_copy_(self.casts, self.masters)
        self.a.mul_(self.scale)
        torch.mm(wide[:, :self.inputs], self.a.T, out=wide[:, self.inputs:])
        if residual is None:
            return functional.linear(wide, self.matrix, self.bias)
        y = torch.addmm(residual, wide, self.matrix.T)
        return y if self.bias is None else y.add_(self.bias)

    def backward(self, dy, x, inner, weight=1):
        """The derivatives by x (N, I), and by the masters of A and B, layer by layer.

        dy (N, O), inner: x A^T (N, ranks); the x of the forward pass was x * weight, weight (I,).
        """
        d_wide = dy @ self.matrix
        dx, d_inner = d_wide[:, :self.inputs], d_wide[:, self.inputs:]
        dx.addmm_(d_inner, self.a)
        d_a = (d_inner.T @ x).mul_(weight).split(self.ranks)
        d_b = [d.T @ x_a for d, x_a in zip(dy.split(self.outputs, 1), inner.split(self.ranks, 1), strict=True)]
        masters = []
        for a, b in zip(d_a, d_b, strict=True):
            masters += [a.float().mul_(self.scale), b.float()]
        return dx, masters

    def _blocks(self, joint):
        """The block of each layer in the block-diagonal (O, ranks)."""
        rows = joint.split(self.outputs)
        return [row.split(self.ranks, 1)[i] for i, row in enumerate(rows)]


class LoraLinear(Function):
    """A linear layer with LoRA: x (..., I) to (..., O)."""

    @staticmethod
    def forward(ctx, x, layer, *masters):
        wide = layer.empty_input(x.numel() // x.shape[-1])
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
    """x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019), the mean in float32; and the factor of x."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps))
    return (x * scale).to(x.dtype), scale


def _normed_backward(dy, x_hat, scale, weight):
    """The derivative by x; dy is the one by weight * x_hat."""
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
    """x + down(silu(gate(y)) * up(y)) (Shazeer 2020), y = norm(x), with LoRA on all three; the input of `down` is
    recomputed in the backward pass. x (..., D), weight (D,) and eps: the norm's, entry: gate and up, last: down."""

    @staticmethod
    def forward(ctx, x, weight, eps, entry, last, *masters):
        flat = x.reshape(-1, x.shape[-1])
        x_hat, scale = _normed(flat, eps)
        wide = entry.empty_input(len(flat))
        torch.mul(x_hat, weight, out=wide[:, :entry.inputs])
        gate_up = entry.forward(wide)
        gate, up = gate_up.chunk(2, 1)
        product = last.empty_input(len(flat))
        torch.mul(functional.silu(gate), up, out=product[:, :last.inputs])
        y = last.forward(product, flat)
        ctx.save_for_backward(x_hat, scale, weight, wide[:, entry.inputs:].clone(), gate_up,
                              product[:, last.inputs:].clone())
        ctx.entry, ctx.last = entry, last
        return y.view(x.shape)

    @staticmethod
    def backward(ctx, dy):
        x_hat, scale, weight, inner, gate_up, last_inner = ctx.saved_tensors
        gate, up = gate_up.chunk(2, 1)
        activated = functional.silu(gate)
        flat = dy.reshape(x_hat.shape)
        d_product, d_last = ctx.last.backward(flat, activated * up, last_inner)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, 1)
        torch.mul(d_product, activated, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_product.mul_(up), gate, grad_input=d_gate)
        dx, d_entry = ctx.entry.backward(d_gate_up, x_hat, inner, weight)
        dx = _normed_backward(dx, x_hat, scale, weight).add_(flat)
        return dx.view(dy.shape), None, None, None, None, *d_entry, *d_last


def _rotate(x, cos, sin, y) -> None:
    """Rotary positions (Su et al. 2021) of x (B, Q, P, D) into y of the same shape; cos and sin broadcast to both.
    With -sin it is the derivative."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=y)
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:])


def _attend(q, k, v, mask):
    """softmax(q k^T + mask) v with the query heads of a key-value head in one product (Ainslie et al. 2023); returns it
    and the softmax.

    q (B, G, H * T, D), multiplied by the scale of the scores, k and v (B, G, S, D), mask (B, 1, T, S) additive or None.
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
    """The derivatives by q, k and v, in their shapes; dy has q's."""
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
        wide = entry.empty_input(len(flat))
        torch.mul(x_hat, weight, out=wide[:, :entry.inputs])
        qkv = entry.forward(wide).view(batch, length, -1, width).transpose(1, 2)  # (B, H + G + G, T, D)
        heads, groups, _ = (size // width for size in entry.outputs)
        q, k, v = (x.new_empty(batch, count, length, width) for count in (heads, groups, groups))
        _rotate(qkv[:, :heads], cos * scale, sin * scale, q)  # the scores' scale costs nothing here
        _rotate(qkv[:, heads:heads + groups], cos, sin, k)
        v.copy_(qkv[:, heads + groups:])
        q = q.view(batch, groups, -1, width)
        mixed, weights = _attend(q, k, v, mask)
        last_wide = last.empty_input(len(flat))
        last_x = last_wide[:, :last.inputs].view(batch, length, heads, width)
        last_x.copy_(mixed.view(batch, heads, length, width).transpose(1, 2))
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
        d_entry_out = flat.new_empty(len(flat), sum(ctx.entry.outputs))
        d_qkv = d_entry_out.view(batch, length, -1, width).transpose(1, 2)
        _rotate(dq.view(batch, heads, length, width), cos * ctx.scale, sin * -ctx.scale, d_qkv[:, :heads])
        _rotate(dk, cos, -sin, d_qkv[:, heads:heads + groups])
        d_qkv[:, heads + groups:].copy_(dv)
        dx, d_entry = ctx.entry.backward(d_entry_out, x_hat, inner, weight)
        dx = _normed_backward(dx, x_hat, norm_scale, weight).add_(flat)
        return dx.view(dy.shape), *[None] * 8, *d_entry, *d_last


class GroupedAttention(Function):
    """`_attend` for attention modules that do more than AttentionBlock, such as norms of q and k; shapes as there."""

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
