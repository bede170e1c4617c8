"""A decoder that draws crisp pictures: it learns against a discriminator, with the encoder as it is.

Where the latent does not say how sharp an edge or how rough a tissue is, the decoder that errs least draws the mean of
all that may be: a blur. A discriminator sees the blur at once. The encoder stays, so latents stay, and whatever was
trained on them. Whole slices, not crops: group normalisation averages over all a network is given, and a crop has less
background than the slices that are drawn later.

The discriminator is shown what the pipeline will show: the decoded picture with its grain (`mrtutor.models.residual`).
So the decoder need not imitate noise, which it cannot, being a function of the latent; what it paints of fine texture
all the same is no longer lacking, so the grain is measured anew at the end.

Axes: B batch · H, W image pixels · h, w squares of 8 pixels.

Source: Rombach et al., CVPR 2022, §3.1 and appendix G (adversarial autoencoder, as VQGAN); Esser et al., CVPR 2021,
Eq. 7 (weight of the adversarial term); Isola et al., CVPR 2017 (patches); Miyato et al., ICLR 2018 (spectral norm).
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Generator, Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mrtutor.models.autoencoder import decode, encode
from mrtutor.models.residual import DARK, Residual, draw_residual
from mrtutor.training.objectives import Logs, reconstruction_loss
from mrtutor.vocabulary import Modality

FINE = 8.0  # grain is small beside anatomy: what a 3 x 3 mean leaves is shown so much stronger
RIM = 9  # pixels: the discriminator sees the brain and half as much around it
TRAINED = ("decoder", "post_quant_conv")  # parts of an AutoencoderKL


class PatchDiscriminator(nn.Module):
    """Does it look scanned? Slices (B, 1, H, W) in [-1, 1] -> logits (B, h, w), each from 56 pixels about its square.

    One logit map per modality, of which the slice's own is taken.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96)):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((2, *widths), widths, strict=False):
            layers += [spectral_norm(nn.Conv2d(before, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        layers += [spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, padding=1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], len(Modality), 3, padding=1)))

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        mean = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        maps = self.body(torch.cat([images, FINE * (images - mean)], dim=1))
        return maps[torch.arange(len(images)), modality].float()


@dataclass
class AdversarialObjective:
    """Reconstruction loss + w · adversarial loss; the discriminator makes its own step first.

    w brings the adversarial gradient, where it enters the picture, to `weight` times the length of the reconstruction's
    (VQGAN, Eq. 7). Hinge losses.
    batch: {"image": (B, 1, H, W) in [-1, 1], "modality": (B,)}.
    """

    residual: Residual
    learning_rate: float
    weight: float = 1.5
    discriminator: PatchDiscriminator = field(default_factory=PatchDiscriminator)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), self.learning_rate, betas=(0.5, 0.99))

    def __call__(self, model: AutoencoderKL, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
        image, modality = batch["image"], batch["modality"]
        with torch.no_grad():
            latent = encode(model, image)
        decoded = decode(model, latent)
        shown = self._as_shown(decoded, image, generator)
        real, fake = self.discriminator(torch.cat([image, shown.detach()]), modality.repeat(2)).chunk(2)
        loss_discriminator = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss_discriminator.backward()
        self.optimizer.step()

        rebuilt = reconstruction_loss(decoded - image)
        self.discriminator.requires_grad_(False)
        fooled = -self.discriminator(shown, modality).mean()
        self.discriminator.requires_grad_(True)
        pulls = [torch.autograd.grad(loss, decoded, retain_graph=True)[0].norm() for loss in (rebuilt, fooled)]
        balance = pulls[0] / pulls[1].clamp(min=1e-12)
        loss = rebuilt + self.weight * balance * fooled
        logs = {"rebuilt": rebuilt, "discriminator": loss_discriminator, "real": real.mean(), "fake": fake.mean()}
        return loss, {name: value.detach() for name, value in logs.items()}

    def _as_shown(self, decoded: Tensor, image: Tensor, generator: Generator) -> Tensor:
        """What the pipeline makes of `decoded`; far from the brain, where nothing is to be judged, the image itself."""
        grain = 2 * draw_residual(self.residual, decoded.shape[2:], [generator] * len(decoded))[:, None].to(decoded)
        grainy = torch.where(decoded > 2 * DARK - 1, decoded + grain, decoded).clamp(-1, 1)
        near = F.max_pool2d((image > -1).float(), RIM, stride=1, padding=RIM // 2) > 0
        return torch.where(near, grainy, image)

    def state_dict(self) -> dict:
        """What the next step depends on besides the model, for a checkpoint."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])


def decoder_parameters(autoencoder: AutoencoderKL) -> list[nn.Parameter]:
    """Freeze the encoder, in place; give what is left to train."""
    for name, part in autoencoder.named_children():
        part.requires_grad_(name in TRAINED)
    return [p for p in autoencoder.parameters() if p.requires_grad]
