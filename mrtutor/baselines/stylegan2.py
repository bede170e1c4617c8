"""The StyleGAN2 baseline as others use it: load it, draw sequences.

    from mrtutor.baselines.stylegan2 import load_stylegan2
    gan = load_stylegan2("data/pretrained/stylegan2")
    sequences = gan.sequences([IDH.MUTANT, IDH.WILD], seed=0)  # (2, 4, 256, 256) synthetic slices in [0, 1]

It knows nothing of structures: a sequence is one z and one set of noise inputs under four modality words.

Source: Karras et al., CVPR 2020 and NeurIPS 2020; the paper's first baseline (Table 1).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mrtutor.baselines.networks import FIRST, Generator, class_index
from mrtutor.files import replace_folder, verify_checksums, write_checksums, write_json, write_text
from mrtutor.presets import StyleGAN2Preset
from mrtutor.sampling.precision import best_device
from mrtutor.training.loop import step_generator
from mrtutor.vocabulary import IDH, Modality

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, eq=False)
class StyleGAN2:
    """An averaged generator, its sizes, and what is known of its training."""

    generator: Generator
    preset: StyleGAN2Preset
    about: dict = field(default_factory=dict)

    @torch.inference_mode()
    def sequences(self, idh: Sequence[IDH | str], seed: int) -> Tensor:
        """Draw one sequence per IDH type: four slices from the same z and noise inputs, only the modality differs.

        Args:
            idh: n types.
            seed: sequence i depends on (seed, i) and its type alone, not on the others.

        Returns:
            (n, 4, 256, 256) float32 in [0, 1] on the CPU, modalities in the order of `Modality`.

        Raises:
            ValueError: no type given, or an unknown one.
        """
        if isinstance(idh, str) or not len(idh):
            raise ValueError(f"Expected a list of IDH types, one per sequence, got {idh!r}: for one write [IDH.WILD].")
        order = list(IDH)
        drawn = [self._sequence(order.index(IDH(word)), seed, place) for place, word in enumerate(idh)]
        return torch.stack(drawn)

    def _sequence(self, idh: int, seed: int, place: int) -> Tensor:
        random, count = step_generator(seed, place), len(Modality)
        device = next(self.generator.parameters()).device
        z = torch.randn(1, self.generator.latent, generator=random).to(device).expand(count, -1)
        noises = [[noise.to(device) for noise in level] for level in self.generator.draw_noises(1, random)]
        label = class_index(torch.arange(count), torch.full((count,), idh)).to(device)
        images = self.generator(z, label, noises)[:, 0]
        return ((images.float() + 1) / 2).clamp(0, 1).cpu()

    def save(self, folder: str | Path) -> int:
        """Write weights (float16 safetensors), sizes, card and checksums; returns the bytes on disk."""
        with replace_folder(folder) as temporary:
            weights = {name: w.detach().half().cpu().contiguous() for name, w in self.generator.state_dict().items()}
            save_file(weights, temporary / WEIGHTS)
            write_json(temporary / CONFIG, {"preset": asdict(self.preset), "about": self.about})
            write_text(temporary / "README.md", self._card())
            write_checksums(temporary)
        return sum(path.stat().st_size for path in Path(folder).iterdir())

    def _card(self) -> str:
        count = sum(w.numel() for w in self.generator.parameters())
        known = "".join(f"- {name}: {value}\n" for name, value in self.about.items())
        side = FIRST * 2 ** (len(self.preset.channels) - 1)
        return f"""# StyleGAN2 baseline

Generator of a StyleGAN2 (Karras et al., CVPR 2020) with {count / 1e6:.2f} M parameters, {side} x {side}, one channel,
conditional on modality and IDH type; trained from nothing with adaptive discriminator augmentation (Karras et al.,
NeurIPS 2020). It is the first baseline of the paper's Table 1. It knows nothing of structure maps.
Open it with `mrtutor.baselines.stylegan2.load_stylegan2`.

{known}
It draws synthetic slices, to compare with; not for diagnosis. Averaged weights in float16 safetensors; `SHA256SUMS` is
checked on load.
"""


def load_stylegan2(folder: str | Path, device: torch.device | str | None = None) -> StyleGAN2:
    """Open a folder that `mrtutor train stylegan2` left, or the shipped one.

    Args:
        device: default CUDA where there is some, else the CPU.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: a file was truncated or altered, or the weights do not fit the sizes in config.json.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"No StyleGAN2 baseline in {folder}: expected {CONFIG} and {WEIGHTS}, as `mrtutor train stylegan2` leaves "
            "them in outputs/PRESET/stylegan2."
        )
    verify_checksums(folder)
    try:
        config = json.loads((folder / CONFIG).read_text())
        preset, about = (
            StyleGAN2Preset(**config["preset"] | {"channels": tuple(config["preset"]["channels"])}),
            config["about"],
        )
        generator = Generator(preset)
        generator.load_state_dict({name: w.float() for name, w in load_file(folder / WEIGHTS).items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{folder} does not fit this version of the course ({error}): train it anew with `mrtutor train stylegan2`."
        ) from error
    generator.requires_grad_(False).eval().to(device or best_device(), memory_format=torch.channels_last)
    return StyleGAN2(generator, preset, about)
