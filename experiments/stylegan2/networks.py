"""StyleGAN2, the first baseline of Table 1: a generator that adds up pictures of growing size, and a discriminator.

In plain torch: no custom kernel, hence no grouped convolution either. Both networks know which of the eight classes
(modality, IDH type) is asked for: the generator by an embedding next to z, the discriminator by projection.

Axes: B batch · I, O channels in and out · k kernel · Z width of z and of the style w · H, W image pixels.

Source: Karras et al., CVPR 2020 (StyleGAN2), §2.2, §4.1; equalised learning rate and minibatch deviation: Karras et
al., ICLR 2018; class embedding: Karras et al., NeurIPS 2020 (ADA); projection: Miyato & Koyama, ICLR 2018.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrtutor.vocabulary import IDH, Modality

GAIN = math.sqrt(2)  # keeps the variance through a leaky ReLU


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2. Its gain √2 is left to the small tensors before it, which is the same and cheaper."""
    return F.leaky_relu(x, 0.2)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: weights of unit variance, scaled by 1/√I when they are used.

    `rate`: how much slower than the rest it learns (0.01 in the mapping network); `gain`: factor of the output.
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
    input channel i by s_i before the convolution, and output channel j by 1/√(…) after it, is the same: a test
    compares it with the equation word for word.
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
    """Append one channel that tells a discriminator how much the samples of a group differ: (B, C + 1, H, W).

    The standard deviation over the group is averaged over channels and pixels. Sample b of (B, C, H, W) belongs to
    group b mod (B / group); a batch that `group` does not divide is one group.
    """
    group = group if len(x) % group == 0 else len(x)
    groups = x.float().unflatten(0, (group, -1))  # (group, B / group, C, H, W)
    spread = (groups.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (B / group,)
    channel = spread.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel.to(x.dtype)], dim=1)


@dataclass(frozen=True)
class StyleGAN2Config:
    """Sizes and recipe; generator and discriminator have equal widths."""

    channels: tuple[int, ...] = (128, 128, 128, 128, 64, 32, 16)  # at 4, 8, 16, 32, 64, 128 and 256 pixels
    latent: int = 128  # width of z and of the style w
    mapping_layers: int = 4
    r1_weight: float = 1.6  # γ of the gradient penalty: 0.0002 · 256² / batch size (ADA's rule)
    r1_every: int = 16  # steps between two gradient penalties (lazy regularisation)
    path_weight: float = 2.0
    path_every: int = 8  # steps between two path-length penalties
    ada_target: float = 0.6  # E[sign D(x)] that the augmentation aims at
    ada_images: int = 50_000  # images in which the augmentation's p may go from 0 to 1
    ema_images: int = 10_000  # half-life of the averaged generator
    ema_rampup: float = 0.05  # and at most this share of what it has seen


FIRST = 4  # side of the lowest level in pixels
CLASSES = len(Modality) * len(IDH)


def class_index(modality: Tensor, idh: Tensor) -> Tensor:
    """Numbers of modality and IDH type in their enums, (B,) each -> number of the class, (B,), in [0, 8)."""
    return modality * len(IDH) + idh


def normalise(x: Tensor) -> Tensor:
    """(B, Z) -> (B, Z) with mean square 1 in each row."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z and class to the style w: the embedded class is appended to z, then come fully connected layers."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.embed = EqualLinear(CLASSES, width)
        widths = [2 * width, *[width] * layers]
        self.layers = nn.ModuleList(EqualLinear(a, b, rate=0.01, gain=GAIN) for a, b in pairwise(widths))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """z (B, Z), label (B,) long -> w (B, Z) float32."""
        with torch.autocast(z.device.type, enabled=False):  # cheap, and every picture hangs on it
            named = self.embed(F.one_hot(label, CLASSES).float())
            x = torch.cat([normalise(z), normalise(named)], dim=1)
            for layer in self.layers:
                x = leaky(layer(x))
            return x


class StyledLayer(nn.Module):
    """Modulated convolution, up-sampling where asked, noise, bias, leaky ReLU.

    The noise has a learned strength per layer, zero at the start: detail that no style decides.
    """

    def __init__(self, inputs: int, outputs: int, style: int, *, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.up = up

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x (B, C, H, W), w (B, Z), noise (B, 1, H', W') -> (B, C', H', W'); H' = 2H with `up`, else H."""
        x = self.conv(x, w)
        x = upsample(x) if self.up else x
        x = x + (GAIN * self.strength * noise).to(x.dtype)
        return leaky(x + (GAIN * self.bias)[:, None, None].to(x.dtype))


class SynthesisLevel(nn.Module):
    """Two layers at one size, and what this size adds to the picture (the first level has one layer)."""

    def __init__(self, inputs: int, outputs: int, style: int, *, first: bool = False):
        super().__init__()
        self.enter = None if first else StyledLayer(inputs, outputs, style, up=True)
        self.layer = StyledLayer(outputs, outputs, style)
        self.to_image = ModulatedConv(outputs, 1, 1, style, demodulate=False)
        self.image_bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor, noises: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features and picture of the level below -> of this level; `noises` is one per layer."""
        if self.enter is not None:
            x, image = self.enter(x, w, noises[0]), upsample(image)
        x = self.layer(x, w, noises[-1])
        drawn = self.to_image(x, w).float() + self.image_bias
        return x, drawn if image is None else image + drawn


class Generator(nn.Module):
    """z and class to a slice in about [-1, 1]; the picture is a sum over levels, each up-sampled to the next."""

    def __init__(self, preset: StyleGAN2Config):
        super().__init__()
        self.latent, widths = preset.latent, preset.channels
        self.mapping = Mapping(preset.latent, preset.mapping_layers)
        self.start = nn.Parameter(torch.randn(1, widths[0], FIRST, FIRST))
        first = SynthesisLevel(widths[0], widths[0], preset.latent, first=True)
        rest = [SynthesisLevel(a, b, preset.latent) for a, b in pairwise(widths)]
        self.levels = nn.ModuleList([first, *rest])

    def forward(self, z: Tensor, label: Tensor, noises: list[list[Tensor]]) -> Tensor:
        """z (B, Z), label (B,) long, noises as `draw_noises` gives -> (B, 1, H, W) float32."""
        return self.synthesise(self.mapping(z, label), noises)

    def synthesise(self, w: Tensor, noises: list[list[Tensor]]) -> Tensor:
        """Style w (B, Z) -> slices (B, 1, H, W) float32."""
        x, image = self.start.expand(len(w), -1, -1, -1), None
        for level, drawn in zip(self.levels, noises, strict=True):
            x, image = level(x, image, w, drawn)
        return image

    def draw_noises(self, count: int, generator: torch.Generator) -> list[list[Tensor]]:
        """Standard normal noise inputs, on the CPU: per level, per layer, (count, 1, H, W)."""
        sides = [FIRST * 2**level for level in range(len(self.levels))]
        return [
            [torch.randn(count, 1, side, side, generator=generator) for _ in range(1 if side == FIRST else 2)]
            for side in sides
        ]


class ResidualLevel(nn.Module):
    """Two convolutions and a 1 × 1 short cut, added and scaled by 1/√2; halves the size."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = EqualConv(inputs, inputs, 3, gain=GAIN)
        self.second = EqualConv(inputs, outputs, 3, gain=GAIN * math.sqrt(0.5))
        self.skip = EqualConv(inputs, outputs, 1, bias=False, gain=math.sqrt(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2)."""
        return leaky(self.second(downsample(leaky(self.first(x))))) + self.skip(downsample(x))


class Discriminator(nn.Module):
    """A slice and the class it is said to be -> one number, large for "from the cohort".

    logit = ψ(φ(x)) + ⟨e_class, φ(x)⟩ / √C with φ the features before the last layer.
    """

    def __init__(self, preset: StyleGAN2Config):
        super().__init__()
        widths = preset.channels[::-1]  # from 256 down to 4
        self.enter = EqualLinear(1, widths[0], gain=GAIN)
        self.levels = nn.ModuleList(ResidualLevel(a, b) for a, b in pairwise(widths))
        self.conv = EqualConv(widths[-1] + 1, widths[-1], 3, gain=GAIN)
        self.dense = EqualLinear(widths[-1] * FIRST**2, widths[-1], gain=GAIN)
        self.exit = EqualLinear(widths[-1], 1)
        self.classes = nn.Parameter(torch.randn(CLASSES, widths[-1]))

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """image (B, 1, H, W) in about [-1, 1], label (B,) long -> logits (B,) float32."""
        # as a linear layer over pixels, since a convolution of one channel would leave the fast channels-last layout
        x = leaky(self.enter(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        for level in self.levels:
            x = level(x)
        x = leaky(self.conv(minibatch_stddev(x)))
        with torch.autocast(x.device.type, enabled=False):  # few numbers, and every digit of a logit counts
            features = leaky(self.dense(x.float().flatten(1)))
            named = (features * self.classes[label]).sum(dim=1) / math.sqrt(features.shape[1])
            return self.exit(features)[:, 0] + named
