"""From a sentence and an edge map to images: the paper's sampler as a diffusers pipeline.

Axes: B batch · C latent channels · L tokens · D text width · h, w latent pixels (32). Source: Kim et al., WACV 2024,
§3.2, §3.4; Song et al., ICLR 2021 (DDIM); Ho & Salimans, 2022 (guidance); Kynkäänniemi et al., NeurIPS 2024 (interval).
"""

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence

import torch
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mrtutor.models.guidance import Denoise, Guidance, guidance_of
from mrtutor.presets import SamplerConfig
from mrtutor.vocabulary import IDH, Findings, Modality, sentence

ETA_MAX = 0.9999  # at η = 1 DDIM's direction is √0 at zero terminal SNR, and rounding makes that √(−10⁻⁸): NaN


class MRPipeline(DiffusionPipeline):
    """Text and structure to MR slices; every component is a standard class of diffusers or transformers.

    Args:
        variant: how the structure enters, see `mrtutor.models.guidance`; a ValueError if the networks are another's.
        sampler: defaults for sampling, a `SamplerConfig` or its dict.
        grain: noise that the autoencoder cannot code, ``{"std": of grey values in [0, 1], "width": of its blur, px}``.
        mask_padding: whether cross-attention is kept from the padding tokens.
        findings: whether the weights were trained on sentences with findings.
    """

    _optional_components = ["guidance"]  # noqa: RUF012 - diffusers' name and type

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        guidance: ControlNetModel | None,
        scheduler: SchedulerMixin,
        variant: str = "paper",
        sampler: SamplerConfig | Mapping | None = None,
        grain: Mapping | None = None,
        mask_padding: bool = False,
        findings: bool = False,
    ):
        super().__init__()
        guidance_of(variant).check(unet, guidance)
        self.register_modules(autoencoder=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_modules(unet=unet, guidance=guidance, scheduler=scheduler)
        config = sampler if isinstance(sampler, SamplerConfig) else SamplerConfig.of(sampler or {})
        grain = dict(grain or {"std": 0.0, "width": 0.0})
        settings = {"grain": grain, "mask_padding": mask_padding, "findings": findings}
        self.register_to_config(variant=variant, sampler=config.as_dict(), **settings)
        self.precision: torch.dtype | None = None  # the fastest on the device; torch.float32 fixes it
        for network in filter(None, (autoencoder, unet, guidance)):
            network.to(memory_format=torch.channels_last)

    @property
    def variant(self) -> str:
        """Name of the guidance variant."""
        return self.config.variant

    @property
    def method(self) -> Guidance:
        """The guidance variant: how the structure enters."""
        return guidance_of(self.config.variant)

    @property
    def sampler(self) -> SamplerConfig:
        """Defaults for sampling."""
        return SamplerConfig.of(self.config.sampler)

    def __call__(
        self,
        prompt: str | Sequence[str],
        structure: object = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        guide_structure: bool | None = None,
        structure_scale: float | None = None,
        eta: float | None = None,
        grain: bool | None = None,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pt",
        callback_on_step_end: Callable[["MRPipeline", int, Tensor, dict], dict] | None = None,
    ) -> ImagePipelineOutput:
        """Draw one picture per prompt: `.images` (B, 256, 256) float32 in [0, 1], on the CPU.

        Args:
            prompt: one sentence or B of them, see `mrtutor.sentence`.
            structure: one edge map for all or B, in any form that `validate_structure` takes; None for variant "none".
            num_inference_steps: default, like the next five, the pipeline's; see `mrtutor.presets.SamplerConfig`.
            grain: add the noise that the autoencoder cannot code; where `latents` are given, default no (and eta 0).
            generator: on the CPU, for noise that is the same on every device; a list gives each picture its own.
            latents: the initial noise (B, C, h, w) or (1, C, h, w) instead of drawing it.
            output_type: "pt", "np", or "latent" for latents (B, C, h, w).
            callback_on_step_end: ``f(pipe, step, timestep, {"latents": …}) -> {"latents": …}`` after each step.
        """
        from mrtutor.models.autoencoder import decode  # what drawing needs and opening weights does not
        from mrtutor.models.precision import autocast, autocast_dtype

        if output_type not in ("pt", "np", "latent"):
            raise ValueError(f'Expected output_type "pt", "np" or "latent", got {output_type!r}.')
        drawn = latents is None
        sampler = self.sampler.replace(
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            guide_structure=guide_structure,
            structure_scale=structure_scale,
            eta=eta if drawn or eta is not None else 0.0,
        )
        sampler.check(self.scheduler.config.num_train_timesteps)
        prompts, maps = self._match(prompt, structure)
        generators = list(generator) if isinstance(generator, list | tuple) else [generator] * len(prompts)
        noise = self._noise(latents, generator, len(prompts)).to(self.device)
        maps = None if maps is None else maps.to(self.device)
        cast = self.unet.dtype != torch.float32  # then autocast is not needed
        dtype = torch.float32 if cast else self.precision or autocast_dtype(self.device)
        with torch.inference_mode():
            text, mask = self.encode(["", *prompts])
            order = [0] * len(prompts) + list(range(1, len(prompts) + 1))  # B times the empty prompt, then the B
            text, mask = text[order], None if mask is None else mask[order]
            fixed = self.method.fixed(self.unet, self.guidance, maps, self.autoencoder)
            with autocast(self.device, dtype), fixed as denoise:
                sample = self._sample(denoise, noise, text, mask, sampler, generator, callback_on_step_end)
            if output_type != "latent":
                sample = (decode(self.autoencoder, sample)[:, 0] / 2 + 0.5).clamp(0, 1).cpu()
                if self.config.grain["std"] and (drawn if grain is None else grain):
                    sample = self._grained(sample, generators, prompts)
        sample = sample.cpu().clone()  # outside inference mode, so that autograd may use it
        return ImagePipelineOutput(images=sample.numpy() if output_type == "np" else sample)

    def sequence(
        self,
        idh: IDH | str | None = None,
        structure: object = None,
        seed: int = 0,
        modalities: Sequence[Modality | str] = tuple(Modality),
        findings: Findings | None = None,
        **options: object,
    ) -> dict[Modality, Tensor]:
        """One imagined patient, modality -> (256, 256) float32 in [0, 1]: same structure, same noise, another word.

        `idh` None leaves the type open; `findings` is what else the sentences say, see `mrtutor.sentence`. All rows go
        through the networks in one batch, each with its own generator of the same seed, so that they share the initial
        noise and, with a stochastic scheduler, the noise of each step.
        """
        wanted = list(dict.fromkeys(Modality(m) for m in modalities))
        prompts = [self.sentence(modality, idh, findings) for modality in wanted]
        _, maps = self._match(prompts[:1], structure)
        if maps is not None and len(maps) > 1:
            raise ValueError(f"A sequence has one edge map, got {len(maps)}: call `sequence` for each.")
        generators = [Generator().manual_seed(int(seed)) for _ in wanted]
        return dict(zip(wanted, self(prompts, maps, generator=generators, **options).images, strict=True))

    def sentence(self, modality: Modality | str, idh: IDH | str | None = None, findings: Findings | None = None) -> str:
        """The sentence for these weights: without the findings if they were trained on sentences without."""
        return sentence(modality, idh, findings if self.config.findings else None)

    def encode(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """What cross-attention gets: states (B, L, D), and mask (B, L) bool, None where padding is not masked."""
        from mrtutor.models.text import encode_prompts

        states, mask = encode_prompts(self.text_encoder, self.tokenizer, sentences)
        return states.to(self.unet.dtype), mask if self.config.mask_padding else None

    def _match(self, prompt: str | Sequence[str], structure: object) -> tuple[list[str], Tensor | None]:
        """Prompts and edge maps, one of them repeated if only one was given; maps (1 or B, 1, 256, 256) or None."""
        from mrtutor.data.structure import validate_structure

        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("Expected a sentence or a list of sentences, got none: see mrtutor.sentence.")
        if (structure is not None) != self.method.takes_structure:
            need = "an edge map" if structure is None else "structure=None"
            raise ValueError(f"Variant {self.variant} needs {need}.")
        if structure is None:
            return prompts, None
        maps = validate_structure(structure)
        if 1 not in (len(maps), len(prompts)) and len(maps) != len(prompts):
            raise ValueError(f"Got {len(prompts)} prompts, {len(maps)} edge maps: expected as many, or one of either.")
        return prompts * len(maps) if len(prompts) == 1 else prompts, maps

    def _noise(self, latents: Tensor | None, generator: Generator | list[Generator] | None, batch: int) -> Tensor:
        """The given initial noise, or a new one: (B, C, h, w)."""
        config = self.unet.config
        shape = (batch, config.out_channels, config.sample_size, config.sample_size)
        if isinstance(generator, list | tuple) and len(generator) != batch:
            raise ValueError(f"Expected one generator or {batch}, got {len(generator)}: one for each picture.")
        if latents is None:
            return randn_tensor(shape, generator=generator, device=torch.device("cpu"))
        if tuple(latents.shape) not in (shape, (1, *shape[1:])) or not torch.isfinite(latents).all():
            raise ValueError(f"Expected finite latents {shape} or one for all, got {tuple(latents.shape)}.")
        return latents.float().expand(shape)

    def _sample(
        self, denoise: Denoise, noise: Tensor, text: Tensor, mask, sampler: SamplerConfig, generator, callback
    ) -> Tensor:
        """Noise (B, C, h, w) -> latents (B, C, h, w). In a guided batch the empty prompt's half comes first."""
        scheduler, batch = self.scheduler, len(noise)
        with torch.inference_mode(False):  # the scheduler outlives this call
            scheduler.set_timesteps(sampler.steps, device=self.device)
        extra = {"generator": generator, "eta": min(sampler.eta, ETA_MAX)}
        extra = {name: extra[name] for name in extra.keys() & inspect.signature(scheduler.step).parameters.keys()}
        scales = torch.full((2 * batch, 1, 1, 1), float(sampler.structure_scale), device=self.device)
        scales[:batch] *= not sampler.guide_structure
        latents = noise * scheduler.init_noise_sigma
        for i, t in enumerate(self.progress_bar(scheduler.timesteps)):
            seen = scheduler.scale_model_input(latents, t).to(self.unet.dtype)
            if sampler.guides(float(t) / scheduler.config.num_train_timesteps):
                plain, wanted = denoise(torch.cat([seen, seen]), t, text, scales.to(seen), mask).float().chunk(2)
                prediction = plain + sampler.guidance_scale * (wanted - plain)
            else:
                own = None if mask is None else mask[batch:]
                prediction = denoise(seen, t, text[batch:], scales[batch:].to(seen), own).float()
            latents = scheduler.step(prediction, t, latents, **extra, return_dict=False)[0]
            if callback is not None:
                latents = callback(self, i, t, {"latents": latents}).get("latents", latents)
        return latents

    def _grained(self, images: Tensor, generators: list[Generator | None], prompts: list[str]) -> Tensor:
        """Pictures with grain, each modality its own as from a scanner: seeded by generator and sentence."""
        grain = torch.empty_like(images)
        for row, (generator, prompt) in enumerate(zip(generators, prompts, strict=True)):
            seed = int(torch.randint(2**62, (1,), generator=generator)) ^ zlib.crc32(prompt.encode())
            white = torch.randn(images.shape[1:], generator=Generator().manual_seed(seed)).numpy()
            grain[row] = torch.from_numpy(gaussian_filter(white, self.config.grain["width"], mode="constant"))
            grain[row] *= self.config.grain["std"] / grain[row].std()
        return torch.where(images > 0.02, (images + grain).clamp(0, 1), images)  # not in the background
