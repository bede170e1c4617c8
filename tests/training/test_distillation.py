"""A student that learns its teacher's path."""

import torch
from torch import Generator, nn

from mrtutor.models.guidance import guidance_of
from mrtutor.pipeline.weights import load_pretrained
from mrtutor.training.distillation import ConsistencyObjective, build_student_scheduler


def _batch(pipe, count=3):
    generator = Generator().manual_seed(1)
    text, mask = pipe.encode(["A T2 modality MR image"] * count)
    structure = (torch.rand(count, 1, 256, 256, generator=generator) > 0.9).float()
    latent = torch.randn(count, pipe.unet.config.out_channels, 32, 32, generator=generator)
    return {"latent": latent, "text": text, "text_mask": mask, "structure": structure}


def test_a_student_of_few_steps_learns_and_its_teacher_does_not():
    pipe = load_pretrained("smoke", device="cpu")
    scheduler, method = build_student_scheduler(pipe), guidance_of("D")
    unet, _ = method.build(pipe.method.plain(pipe.unet))
    model, batch = nn.ModuleDict({"unet": unet}).train(), _batch(pipe)
    objective = ConsistencyObjective(pipe, scheduler, method)
    loss, logs = objective(model, batch, Generator().manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss) and logs["error"] > 0
    assert unet.conv_in.weight.grad[:, 8:].abs().max() > 0, "the edge map does not teach"
    assert all(p.grad is None for p in (*pipe.unet.parameters(), *pipe.guidance.parameters()))


def test_the_teacher_s_guided_step_is_the_pipeline_s(monkeypatch):
    """One step of the sampler from pure noise: the clean latent that the objective reads off the teacher."""
    pipe = load_pretrained("smoke", device="cpu")
    pipe.register_to_config(sampler=pipe.sampler.replace(guidance_scale=2.0, guide_structure=True).as_dict())
    pipe.precision, scheduler, batch = torch.float32, build_student_scheduler(pipe), _batch(pipe, 1)
    options = {"num_inference_steps": 1, "latents": batch["latent"], "output_type": "latent"}
    drawn = pipe("A T2 modality MR image", batch["structure"], **options).images
    objective = ConsistencyObjective(pipe, scheduler, pipe.method)
    t = torch.tensor([999])
    with torch.no_grad():
        clean, _ = objective._split(batch["latent"], t, objective._guided(batch["latent"], t, batch))
    assert torch.allclose(clean, drawn, atol=1e-3)
