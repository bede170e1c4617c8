"""StyleGAN2's two players: a generator that adds up pictures of growing size, and a residual discriminator.

Both know which of the eight classes (modality, IDH type) is asked for: the generator by an embedding beside z, the
discriminator by projection.

Axes: B batch · Z width of z and of w · C channels · H, W image pixels, 256 at the last level.

Source: Karras et al., CVPR 2020, §4.1 (skip generator, residual discriminator); class embedding as in Karras et al.,
NeurIPS 2020 (ADA); projection: Miyato & Koyama, ICLR 2018.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator as Random
from torch import Tensor, nn

from mrtutor.baselines.layers import (
    GAIN,
    EqualConv,
    EqualLinear,
    ModulatedConv,
    downsample,
    leaky,
    minibatch_stddev,
    upsample,
)
from mrtutor.presets import StyleGAN2Preset
from mrtutor.vocabulary import IDH, Modality

FIRST = 4  # side of the lowest level in pixels
CLASSES = len(Modality) * len(IDH)


def class_index(modality: Tensor, idh: Tensor) -> Tensor:
    """Numbers of modality and IDH type in their enums, (B,) each -> number of the class, (B,), in [0, 8)."""
    return modality * len(IDH) + idh


def normalise(x: Tensor) -> Tensor:
    """(B, Z) -> (B, Z) with mean square 1 in each row."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z and class to the style w: the embedded class stands beside z, then come fully connected layers."""

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

    def __init__(self, preset: StyleGAN2Preset):
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

    def draw_noises(self, count: int, generator: Random) -> list[list[Tensor]]:
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

    def __init__(self, preset: StyleGAN2Preset):
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
