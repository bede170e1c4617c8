"""What the two players of StyleGAN2 minimise.

Axes: B batch · H, W image pixels · Z width of the style.

Source: non-saturating loss: Goodfellow et al., NeurIPS 2014; R1: Mescheder et al., ICML 2018; path length and lazy
regularisation: Karras et al., CVPR 2020, §3.1 and §3.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """mean softplus(−D(x)) + mean softplus(D(G(z))), from logits (B,)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """mean softplus(−D(G(z))), from logits (B,)."""
    return F.softplus(-fake).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the discriminator's gradient at cohort images, E ‖∇D(x)‖².

    Args:
        logits: (B,) D of `images`.
        images: (B, 1, H, W), with requires_grad.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """‖Jᵀ y‖ for each sample: how far the picture moves for a step of the style, in the random direction y.

    Args:
        images: (B, 1, H, W), made from `styles`.
        styles: (B, Z), with requires_grad.
        noise: (B, 1, H, W), standard normal; divided by √(H·W), so that lengths do not depend on the image's size.

    Returns:
        (B,), to be backpropagated through.
    """
    y = noise / (images.shape[-2] * images.shape[-1]) ** 0.5
    (gradient,) = torch.autograd.grad((images * y).sum(), styles, create_graph=True)
    return gradient.square().sum(dim=1).sqrt()


def path_penalty(lengths: Tensor, average: float, decay: float = 0.01) -> tuple[Tensor, float]:
    """Squared distance of path lengths from their running average, E (‖Jᵀ y‖ − a)².

    Args:
        lengths: (B,).
        average: a before this batch, 0 at the start.
        decay: how much of this batch goes into a.

    Returns:
        penalty, and a after this batch.
    """
    average = average + decay * (lengths.detach().mean().item() - average)
    return (lengths - average).square().mean(), average
