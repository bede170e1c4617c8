"""The cross-attention layers of a pipeline's networks, and Eq. 5: what each place takes from each word.

Axes: B prompts · N = h·w places of a layer · L tokens · C channels · D text width.

Source: Kim et al., WACV 2024, Eq. 5; Rombach et al., CVPR 2022, §3.3.
"""

import re
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.precision import autocast

NETWORKS = ("unet", "guidance")
_PLACES = {"down_blocks": "down", "mid_block": "middle", "up_blocks": "up"}


@dataclass(frozen=True)
class Layer:
    """One cross-attention layer.

    Attributes:
        network: "unet" or "guidance".
        path: of the `Attention` module inside its network.
    """

    network: str
    path: str

    @property
    def place(self) -> str:
        """In which part of the network: "down", "middle" or "up"."""
        return _PLACES[self.path.split(".")[0]]

    def __str__(self) -> str:
        """Short name, such as "unet up 1.0": block and number in the block."""
        numbers = re.findall(r"\d+", self.path.rsplit(".", 1)[0])
        if numbers[-1] == "0":  # the only transformer block, in all our networks
            numbers.pop()
        return f"{self.network} {self.place} {'.'.join(numbers)}"


def layers_of(pipeline: MRPipeline) -> dict[Layer, Attention]:
    """Every cross-attention layer of U-Net and guidance network.

    Raises:
        ValueError: there is none, or one that computes more than Eq. 5.
    """
    found = {
        Layer(network, path): module
        for network in NETWORKS
        if getattr(pipeline, network) is not None
        for path, module in getattr(pipeline, network).named_modules()
        if isinstance(module, Attention) and module.is_cross_attention
    }
    if not found:
        raise ValueError("No cross-attention layer in the pipeline's networks: nothing listens to the sentence.")
    for layer, attn in found.items():
        extras = [attn.norm_q, attn.norm_k, attn.norm_cross, attn.group_norm, attn.spatial_norm]
        if any(extra is not None for extra in extras) or attn.residual_connection or attn.rescale_output_factor != 1:
            raise ValueError(
                f"Layer {layer} normalises or rescales beyond Eq. 5: its maps cannot be told from Q and K."
            )
    return found


def attention_maps(attn: Attention, hidden: Tensor, text: Tensor) -> Tensor:
    """softmax(QKᵀ / √d) of Eq. 5 in float32.

    Args:
        attn: a cross-attention layer.
        hidden: its input (B, N, C).
        text: hidden states of the sentences (B, L, D).

    Returns:
        (B, heads, N, L); every row over L sums to one.
    """
    query, key = _heads(attn, attn.to_q(hidden)), _heads(attn, attn.to_k(text))
    with autocast(hidden.device, torch.float32):
        return (attn.scale * query.float() @ key.float().mT).softmax(dim=-1)


def _heads(attn: Attention, x: Tensor) -> Tensor:
    """(B, N, heads · d) -> (B, heads, N, d)."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def attend(attn: Attention, maps: Tensor, text: Tensor) -> Tensor:
    """Output (B, N, C) of a layer for given maps (B, heads, N, L): maps · V, through the layer's last projection."""
    value = _heads(attn, attn.to_v(text))
    x = (maps.to(value.dtype) @ value).transpose(1, 2).flatten(2)
    for part in attn.to_out:  # linear, drop-out
        x = part(x)
    return x
