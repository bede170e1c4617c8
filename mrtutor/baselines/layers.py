"""The layers that make StyleGAN2 what it is, in plain torch: no custom kernel, hence no grouped convolution either.

Axes: B batch · I, O channels in and out · k kernel · Z width of the style w · H, W image pixels.

Source: Karras et al., CVPR 2020 (StyleGAN2), §2.2 and Fig. 2; equalised learning rate and the standard deviation over
a minibatch: Karras et al., ICLR 2018 (progressive GAN).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = math.sqrt(2)  # keeps the variance through a leaky ReLU


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2. Its gain √2 is left to the small tensors before it, which is the same and cheaper."""
    return F.leaky_relu(x, 0.2)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: weights of unit variance, scaled by 1/√I when they are used.

    Args:
        rate: how much slower than the rest it learns (0.01 in the mapping network).
        gain: factor of the output.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.gain = rate, gain

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) -> (…, O)."""
        scale = self.gain * self.rate
        return F.linear(x, self.weight * (scale / math.sqrt(self.weight.shape[1])), self.bias * scale)


class EqualConv(nn.Module):
    """Convolution that keeps the size, with equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W)."""
        scale = self.gain / math.sqrt(self.weight[0].numel())
        bias = None if self.bias is None else self.bias * self.gain
        return F.conv2d(x, self.weight * scale, bias, padding=self.weight.shape[-1] // 2)


class ModulatedConv(nn.Module):
    """Convolution whose weights depend on the style of each sample (Eq. 1 and 3 of StyleGAN2).

        w'_ijk = s_i · w_ijk        w''_ijk = w'_ijk / √(Σ_ik w'_ijk² + ε)

    Such weights differ between the samples of a batch and would need a grouped convolution, slow on a CPU. Scaling
    input channel i by s_i before the convolution, and output channel j by 1/√(…) after it, is the same
    (`explicit` is the equation word for word; a test compares the two).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int, *, demodulate: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.affine = EqualLinear(style, inputs, bias=1.0)
        self.demodulate = demodulate  # if so, a ReLU follows, and its gain √2 is among the factors of the output

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x (B, I, H, W), w (B, Z) -> (B, O, H, W), in the number format of the convolution."""
        s, weight = self.affine(w), self.scaled_weight()
        y = F.conv2d(x * s[:, :, None, None].to(x.dtype), weight, padding=weight.shape[-1] // 2)
        return y * self.demodulation(s, weight)[:, :, None, None].to(y.dtype) if self.demodulate else y

    def scaled_weight(self) -> Tensor:
        """Weights (O, I, k, k) with equalised learning rate."""
        return self.weight / math.sqrt(self.weight[0].numel())

    def demodulation(self, s: Tensor, weight: Tensor) -> Tensor:
        """Styles (B, I) -> factors of the output channels (B, O)."""
        energy = weight.square().sum(dim=(2, 3))  # (O, I)
        # no matrix product: autocast would round it
        return GAIN * ((s.to(energy.dtype).square()[:, None] * energy).sum(dim=2) + 1e-8).rsqrt()

    def explicit(self, x: Tensor, w: Tensor) -> Tensor:
        """The same as `forward`, with one set of weights per sample, as the paper writes it."""
        s = self.affine(w)
        weight = self.scaled_weight()[None] * s[:, None, :, None, None]  # (B, O, I, k, k)
        if self.demodulate:
            weight = GAIN * weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        padding = weight.shape[-1] // 2
        return torch.cat([F.conv2d(x[b : b + 1], weight[b], padding=padding) for b in range(len(x))])


def upsample(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): bilinear, which is StyleGAN2's filter [1, 3, 3, 1] after zero insertion."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def downsample(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2) through the low-pass filter [1, 3, 3, 1] / 8 in both directions.

    That filter is the adjoint of `upsample`, hence its backward pass: several times faster on a CPU than a convolution
    of each channel, and to be differentiated as often as R1 asks for.
    """
    b, c, h, w = x.shape
    return torch.ops.aten.upsample_bilinear2d_backward(x, [h, w], [b, c, h // 2, w // 2], False) / 4


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """Append one channel that tells a discriminator how much the samples of a group differ.

    The standard deviation over the group is averaged over channels and pixels.

    Args:
        x: (B, C, H, W); sample b belongs to group b mod (B / group). A batch that `group` does not divide is one group.

    Returns:
        (B, C + 1, H, W).
    """
    group = group if len(x) % group == 0 else len(x)
    groups = x.float().unflatten(0, (group, -1))  # (group, B / group, C, H, W)
    spread = (groups.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (B / group,)
    channel = spread.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel.to(x.dtype)], dim=1)
