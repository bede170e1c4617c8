"""From a sentence and a structure map to pictures: the paper's whole sampler as a diffusers pipeline.

Axes: B batch · S structure maps · L tokens · D text width · H, W image pixels (256) · h, w latent pixels (32).

Source: Kim et al., WACV 2024, Fig. 2 and §3; Song et al., ICLR 2021 (DDIM); Ho & Salimans, 2022 (classifier-free
guidance); Kynkäänniemi et al., NeurIPS 2024 (guidance in an interval of noise levels).
"""

import inspect
from collections.abc import Callable, Sequence

import torch
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mrtutor.models.guidance import Variant
from mrtutor.models.mirror import signs_of
from mrtutor.models.residual import Residual, add_residual
from mrtutor.models.text import encode_prompts
from mrtutor.sampling.arguments import ETA_MAX, Settings, check_components, initial_noise, match, own_streams
from mrtutor.sampling.condition import Denoise, structure_fixed
from mrtutor.sampling.output import MRPipelineOutput, as_type, check_output_type, to_images
from mrtutor.sampling.precision import autocast, autocast_dtype
from mrtutor.vocabulary import IDH, Modality
from mrtutor.vocabulary import prompt as sentence

StepEnd = Callable[["MRPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]


class MRPipeline(DiffusionPipeline):
    """Text and structure to MR slices.

    Every component is a standard class of diffusers or transformers. `variant` says how the structure enters
    (`mrtutor.models.guidance.Variant`); `guidance` is None for D, which concatenates, and for the plain LDM.

    The denoiser computes in the fastest number format of the device (`mrtutor.sampling.precision`);
    ``pipe.precision = torch.float32`` fixes it.
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
        variant: str = "B",
        num_inference_steps: int = 25,
        guidance_scale: float = 2.0,
        guidance_interval: list[float] = (0.0, 1.0),  # a list in JSON; a tuple does as well
        guide_structure: bool = False,
        eta: float = 0.0,
        grain_std: float = 0.0,
        grain_width: float = 0.0,
        mirrored: list[str] = (),
    ):
        super().__init__()
        check_components(unet, guidance, Variant(variant))
        self.register_modules(
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            guidance=guidance,
            scheduler=scheduler,
        )
        self.register_to_config(
            variant=str(variant),
            num_inference_steps=num_inference_steps,
            guidance_scale=float(guidance_scale),
            guidance_interval=list(guidance_interval),
            guide_structure=guide_structure,
            eta=float(eta),
            grain_std=float(grain_std),
            grain_width=float(grain_width),
            mirrored=[str(Modality(m)) for m in mirrored],
        )
        self.precision: torch.dtype | None = None
        for network in filter(None, (autoencoder, unet, guidance)):
            network.to(memory_format=torch.channels_last)

    def __call__(
        self,
        prompt: str | Sequence[str],
        structure: object = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        guide_structure: bool | None = None,
        structure_scale: float = 1.0,
        eta: float | None = None,
        grain: bool | None = None,
        mirror: bool | None = None,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
    ) -> MRPipelineOutput | tuple:
        """Draw one picture per prompt.

        Args:
            prompt: one sentence or B of them, see `mrtutor.prompt`.
            structure: one map for all or B of them, in any form that `validate_structure` takes; None for variant
                "none" only.
            num_inference_steps: defaults, like the next three, to the pipeline's config.
            guidance_scale: weight of what was asked for against the empty prompt; 1 costs half.
            guidance_interval: (low, high): share t/T of the noise levels where guidance acts; elsewhere only the
                conditional half is computed.
            guide_structure: keep the structure, too, from the empty prompt's half, so that guidance sharpens what
                sentence *and* structure ask for; False gives it to both halves.
            structure_scale: factor on what the structure adds, 0…1.
            eta: randomness of DDIM, 0…1; default the config's, but 0 where `latents` are given: the picture is then a
                function of them.
            grain: add the noise that the autoencoder cannot code (`mrtutor.models.residual`), each picture its own, as
                a scanner does; default yes, but not where `latents` are given.
            mirror: negate the noise of the config's `mirrored` modalities (`mrtutor.models.mirror`); default as grain.
            generator: on the CPU, for noise that is the same on every device; a list gives each picture its own.
            latents: the initial noise (B, 4, h, w) or (1, 4, h, w) instead of drawing it.
            output_type: "pt", "np", "pil" or "latent".
            return_dict: False for a tuple, as everywhere in diffusers.
            callback_on_step_end: ``f(pipe, step, timestep, {"latents": …}) -> {"latents": …}`` after each step.

        Returns:
            `MRPipelineOutput` with `images` (B, 256, 256) float32 in [0, 1], on the CPU.

        Raises:
            ValueError: bad structure, too long a prompt, or a number out of range; see the message.
        """
        config, choose = self.config, lambda given, default: default if given is None else given
        settings = Settings(
            choose(num_inference_steps, config.num_inference_steps),
            choose(guidance_scale, config.guidance_scale),
            tuple(choose(guidance_interval, config.guidance_interval)),
            choose(guide_structure, config.guide_structure),
            structure_scale,
            choose(eta, config.eta if latents is None else 0.0),
        )
        settings.check(self.scheduler.config.num_train_timesteps)
        check_output_type(output_type)
        prompts, maps = match(prompt, structure, self.variant)
        shape = (len(prompts), self.unet.config.out_channels, *2 * [self.unet.config.sample_size])
        noise = initial_noise(latents, generator, shape).to(self.device)
        maps = None if maps is None else maps.to(self.device)
        with torch.inference_mode():
            text = self._embed(prompts)
            mirrored = config.mirrored if choose(mirror, latents is None) else ()
            signs = torch.tensor(signs_of(prompts, mirrored), device=self.device).view(-1, 1, 1, 1)
            fixed = structure_fixed(self.unet, self.guidance, self.variant, maps, self.autoencoder)
            with autocast(self.device, self._precision()), fixed as denoise:
                sample = self._sample(denoise, noise, signs, text, settings, generator, callback_on_step_end)
            images = sample if output_type == "latent" else to_images(self.autoencoder, sample)
            if choose(grain, latents is None) and output_type != "latent":
                images = add_residual(images.cpu(), self.residual, own_streams(generator, prompts))
        images = as_type(images.cpu().clone(), output_type)  # cloned outside, so that autograd may use it
        return MRPipelineOutput(images=images) if return_dict else (images,)

    def sequence(
        self,
        idh: IDH | str,
        structure: object = None,
        seed: int = 0,
        modalities: Sequence[Modality | str] = tuple(Modality),
        **options: object,
    ) -> dict[Modality, Tensor]:
        """One imagined patient in several modalities: same structure, same noise (or its mirror), another word.

        All modalities and both halves of guidance go through the networks in one batch. Each row has its own
        generator of the same seed, so that they share the initial noise and, with a stochastic scheduler, the noise
        of each step; a row equals what its prompt gives alone.

        Args:
            idh: "wild" or "mutant".
            structure: one map, see `__call__`.
            seed: of the noise.
            modalities: which, in which order.
            options: passed on to `__call__`.

        Returns:
            modality -> (256, 256) float32 in [0, 1] (or as `output_type` says).

        Raises:
            ValueError: as `__call__`; unknown words; more than one structure.
        """
        wanted = list(dict.fromkeys(Modality(m) for m in modalities))
        prompts = [sentence(m, idh) for m in wanted]
        generators = [torch.Generator().manual_seed(seed) for _ in wanted]
        _, maps = match(prompts, structure, self.variant)
        if maps is not None and len(maps) > 1:
            raise ValueError(f"A sequence has one structure map, got {len(maps)}: call `sequence` for each.")
        images = self(prompts, maps, generator=generators, **options).images
        return dict(zip(wanted, images, strict=True))

    @property
    def variant(self) -> Variant:
        """How the structure enters."""
        return Variant(self.config.variant)

    @property
    def residual(self) -> Residual:
        """The noise that the autoencoder cannot code."""
        return Residual(self.config.grain_std, self.config.grain_width)

    def _precision(self) -> torch.dtype:
        """Number format of autocast; networks that were cast themselves need none."""
        if self.unet.dtype != torch.float32:
            return torch.float32
        return self.precision or autocast_dtype(self.device)

    def _embed(self, prompts: list[str]) -> Tensor:
        """(2B, L, D): B times the empty prompt, then the sentences."""
        embedded = encode_prompts(self.text_encoder, self.tokenizer, ["", *prompts])
        return torch.cat([embedded[:1].expand(len(prompts), -1, -1), embedded[1:]]).to(self.unet.dtype)

    def _sample(
        self,
        denoise: Denoise,
        noise: Tensor,
        signs: Tensor,
        text: Tensor,
        settings: Settings,
        generator: Generator | list[Generator] | None,
        callback: StepEnd | None,
    ) -> Tensor:
        """Noise (B, 4, h, w) -> latents (B, 4, h, w). In a guided batch the empty prompt's half stands first."""
        scheduler, batch = self.scheduler, len(noise)
        with torch.inference_mode(False):  # the scheduler outlives this call
            scheduler.set_timesteps(settings.steps, device=self.device)
        known = inspect.signature(scheduler.step).parameters
        extra = {k: v for k, v in {"generator": generator, "eta": min(settings.eta, ETA_MAX)}.items() if k in known}
        latents = noise * scheduler.init_noise_sigma
        scales = settings.structure_scales(batch).to(self.device, self.unet.dtype)
        steps = self.progress_bar(scheduler.timesteps)
        steps.set_postfix_str(str(self._precision()).removeprefix("torch."), refresh=False)
        for i, t in enumerate(steps):  # of signs * latents: a step is linear, so a mirrored row gets its noise negated
            model_input = scheduler.scale_model_input(signs * latents, t).to(self.unet.dtype)
            if settings.guides(float(t) / scheduler.config.num_train_timesteps):
                plain, wanted = denoise(torch.cat([model_input] * 2), t, text, scales).float().chunk(2)
                prediction = plain + settings.guidance_scale * (wanted - plain)
            else:
                prediction = denoise(model_input, t, text[batch:], scales[batch:]).float()
            latents = scheduler.step(signs * prediction, t, latents, **extra, return_dict=False)[0]
            if callback is not None:
                latents = signs * callback(self, i, t, {"latents": signs * latents}).get("latents", signs * latents)
        return signs * latents
