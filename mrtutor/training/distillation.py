"""Consistency distillation: a student draws in a few calls what its teacher draws in many.

A sampler moves a noisy latent along a path that ends in a clean one. The teacher takes one short step on it, and the
student learns to say the same clean latent before and after that step: in the end, from anywhere, the end of the path.
Classifier-free guidance is in the teacher's step, so the student needs none.

Axes: B batch · C latent channels · h, w latent pixels · L tokens · D text width.
Source: Song et al., ICML 2023 (consistency models); Luo et al., arXiv:2310.04378 (latent ones, with guidance built in).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import LCMScheduler
from torch import Generator, Tensor, nn

from mrtutor.models.guidance import Guidance
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.training.loop import Logs


def build_student_scheduler(teacher: MRPipeline, teacher_steps: int = 50) -> LCMScheduler:
    """The scheduler that a student draws with, on its teacher's noise levels."""
    config = {"original_inference_steps": teacher_steps, "clip_sample": False, "thresholding": False}
    return LCMScheduler.from_config(teacher.scheduler.config, **config)


@dataclass(frozen=True)
class ConsistencyObjective:
    """Huber loss between the clean latents that the student says before and after one guided step of its teacher.

    The model is the student, an ``nn.ModuleDict`` of "unet" and perhaps "guidance"; batches are those of
    `LatentBatches`. The later answer is the student's own, without a gradient.
    """

    teacher: MRPipeline
    scheduler: LCMScheduler
    student: Guidance

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
        latents, levels = batch["latent"], self.scheduler.config.num_train_timesteps
        stride = levels // self.scheduler.config.original_inference_steps
        count = torch.randint(1, levels // stride + 1, (len(latents),), generator=generator).to(latents.device)
        t, earlier = count * stride - 1, ((count - 1) * stride - 1).clamp(min=0)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        noisy, first = self.scheduler.add_noise(latents, noise, t), (count == 1).view(-1, 1, 1, 1)
        with torch.no_grad():
            clean, noise = self._split(noisy, t, self._guided(noisy, t, batch))
            before = torch.where(first, clean, self.scheduler.add_noise(clean, noise, earlier))
            wanted = torch.where(first, clean, self._jump(model, before, earlier, batch))
        found = self._jump(model, noisy, t, batch)
        loss = F.huber_loss(found, wanted, delta=0.1)
        return loss, {"error": (found - wanted).square().mean().detach()}

    def _split(self, noisy: Tensor, t: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latent and noise that a velocity means, both (B, C, h, w)."""
        share = self.scheduler.alphas_cumprod.to(noisy)[t].view(-1, 1, 1, 1)
        return share.sqrt() * noisy - (1 - share).sqrt() * velocity, share.sqrt() * velocity + (
            1 - share
        ).sqrt() * noisy

    def _jump(self, model: nn.ModuleDict, noisy: Tensor, t: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The clean latent that the student says."""
        condition = self.student.condition(batch.get("structure"), self.teacher.autoencoder)
        networks = model["unet"], model["guidance"] if "guidance" in model else None
        inputs = (noisy, t, batch["text"], condition)
        velocity = self.student.predict(*networks, *inputs, mask=batch.get("text_mask")).float()
        return self._split(noisy, t, velocity)[0]

    def _guided(self, noisy: Tensor, t: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The teacher's velocity, with its own classifier-free guidance."""
        pipe, settings = self.teacher, self.teacher.sampler
        low, high = (share * self.scheduler.config.num_train_timesteps for share in settings.guidance_interval)
        weight = torch.where((low <= t) & (t <= high), settings.guidance_scale, 1.0).view(-1, 1, 1, 1)
        text, mask = pipe.encode([""])
        text = torch.cat([text.to(noisy.device).expand(len(noisy), -1, -1), batch["text"]])
        if mask is not None:
            mask = torch.cat([mask.to(noisy.device).expand(len(noisy), -1), batch["text_mask"]])
        condition, scale = pipe.method.condition(batch.get("structure"), pipe.autoencoder), noisy.new_ones(len(t) * 2)
        scale[: len(t)] *= not settings.guide_structure
        condition = None if condition is None else condition.repeat(2, 1, 1, 1)
        inputs = (noisy.repeat(2, 1, 1, 1), t.repeat(2), text, condition)
        options = {"mask": mask, "scale": scale.view(-1, 1, 1, 1)}
        plain, wanted = pipe.method.predict(pipe.unet, pipe.guidance, *inputs, **options).float().chunk(2)
        return plain + weight * (wanted - plain)
