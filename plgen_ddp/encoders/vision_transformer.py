"""A faster forward pass for the transformers of OpenAI's module: class token of an image, attention of either tower.

It knows the layers' names and imports nothing of the module.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def prepare_tower(tower: Any, dtype: torch.dtype, *, quick_gelu: bool) -> None:
    """Changes a vision transformer's float32 weights, in place, to those that `class_token` works with.

    QuickGELU is x sigmoid(1.702 x), which is silu(1.702 x) / 1.702. With the factor in the layers before and behind
    it, one pass over the largest activations takes the place of three. In half precision the factor rounds the weights
    anew, by less than activations are rounded by.
    """
    # On CUDA, layer_norm takes weights of its input's type only.
    for module in tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.to(dtype)
    if not quick_gelu:
        return
    for block in tower.transformer.resblocks:
        block.mlp.c_fc.weight *= 1.702
        block.mlp.c_fc.bias *= 1.702
        block.mlp.c_proj.weight /= 1.702
        block.mlp.gelu = nn.SiLU(inplace=True)


def class_token(tower: Any, pixels: Tensor) -> Tensor:
    """The class token (k, width) of OpenAI's vision transformer, without the unused computation.

    The embedding is made of this token alone. So the last block computes keys and values of all tokens, and the rest of
    itself, five sixths, for this one: 7 % less of ViT-B/32, and no other result. Tokens are (k, tokens, width), not
    (tokens, k, width), which attention would have to transpose.
    """
    patches = tower.conv1(pixels).flatten(2).transpose(1, 2)  # (k, tokens - 1, width)
    first = tower.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens = torch.cat([first, patches], dim=1) + tower.positional_embedding.to(patches.dtype)
    tokens = _norm(tower.ln_pre, tokens)
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        normed = _norm(block.ln_1, tokens)
        tokens = tokens + attention(block.attn, normed, normed)
        tokens = tokens + block.mlp(_norm(block.ln_2, tokens))
    normed = _norm(last.ln_1, tokens)
    token = tokens[:, :1] + attention(last.attn, normed[:, :1], normed)
    token = token + last.mlp(_norm(last.ln_2, token))
    return _norm(tower.ln_post, token[:, 0])


def attention(layer: nn.MultiheadAttention, queries: Tensor, tokens: Tensor, *, causal: bool = False) -> Tensor:
    """What queries (k, q, width) take from tokens (k, t, width): (k, q, width).

    Args:
        causal: query i sees tokens 0 to i only.
    """
    width = tokens.shape[-1]
    weights, biases = (both.split([width, 2 * width]) for both in (layer.in_proj_weight, layer.in_proj_bias))
    projected = [functional.linear(queries, weights[0], biases[0])]
    projected += functional.linear(tokens, weights[1], biases[1]).chunk(2, dim=-1)
    query, key, value = (values.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for values in projected)
    attended = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return layer.out_proj(attended.transpose(1, 2).flatten(2))


def _norm(layer: nn.LayerNorm, tokens: Tensor) -> Tensor:
    """Computed in float32 inside the kernel, where OpenAI's own layer copies to float32 and back."""
    return functional.layer_norm(tokens, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
