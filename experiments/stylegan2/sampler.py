"""Open the StyleGAN2 baseline and draw with it.

    gan = load_stylegan2()
    gan.sequences(["mutant", "wild"], seeds=[0, 1])  # (2, 4, 256, 256) synthetic slices in [0, 1]

It knows nothing of edge maps: a sequence is one z and one set of noise inputs under four modality words.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.stylegan2.networks import Generator, StyleGAN2Config, class_index
from mrtutor.files import (
    CHECKSUMS,
    data_root,
    replace_folder,
    sha256,
    verify_checksums,
    write_checksums,
    write_json,
    write_text,
)
from mrtutor.models.precision import best_device
from mrtutor.vocabulary import IDH, Modality

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CARD = """# StyleGAN2 baseline

Generator of a StyleGAN2 (Karras et al., CVPR 2020), one channel, conditional on modality and IDH type; trained from
nothing with adaptive discriminator augmentation (Karras et al., NeurIPS 2020). It is the first baseline of the paper's
Table 1 and knows nothing of edge maps. Open it with `experiments.stylegan2.sampler.load_stylegan2`.

{known}
It draws synthetic slices to compare with; not for diagnosis. Averaged weights in float16 safetensors.
"""


@dataclass(frozen=True, eq=False)
class StyleGAN2:
    """An averaged generator, its sizes and what is known of its training; a sampler for `draw_sets`."""

    generator: Generator
    config: StyleGAN2Config
    about: dict = field(default_factory=dict)
    key: str = "untrained"

    @torch.inference_mode()
    def sequences(self, idh: Sequence[IDH | str], seeds: Sequence[int]) -> Tensor:
        """One sequence for each of n IDH types: slices of the same z and noise inputs; only the modality differs.

        A sequence depends on its own seed and type alone: (n, 4, 256, 256) float32 in [0, 1] on the CPU.
        """
        device, count, drawn = next(self.generator.parameters()).device, len(Modality), []
        for word, seed in zip(idh, seeds, strict=True):
            random = torch.Generator().manual_seed(seed)
            z = torch.randn(1, self.generator.latent, generator=random).to(device).expand(count, -1)
            noises = [[noise.to(device) for noise in level] for level in self.generator.draw_noises(1, random)]
            label = class_index(torch.arange(count), torch.full((count,), list(IDH).index(IDH(word)))).to(device)
            images = self.generator(z, label, noises)[:, 0].float()
            drawn.append(((images + 1) / 2).clamp(0, 1).cpu())
        return torch.stack(drawn)

    def draw(self, specs: Sequence) -> Tensor:
        """Sequences of `mrtutor.pipeline.draw.SequenceSpec`s; where the type is unknown it is drawn from the seed."""
        types = [spec.idh or list(IDH)[spec.seed % 2] for spec in specs]
        return self.sequences(types, [spec.seed for spec in specs])

    def save(self, folder: str | Path) -> None:
        """Write weights (float16 safetensors), sizes, card and checksums."""
        known = "".join(f"- {name}: {value}\n" for name, value in self.about.items())
        weights = {name: w.detach().half().cpu().contiguous() for name, w in self.generator.state_dict().items()}
        with replace_folder(folder) as temporary:
            save_file(weights, temporary / WEIGHTS)
            write_json(temporary / CONFIG, {"preset": asdict(self.config), "about": self.about})
            write_text(temporary / "README.md", CARD.format(known=known))
            write_checksums(temporary)


def load_stylegan2(folder: str | Path | None = None, device: torch.device | str | None = None) -> StyleGAN2:
    """Open a folder that `StyleGAN2.save` wrote; default the shipped one. Raises: as `verify_checksums`."""
    folder = Path(folder or data_root() / "pretrained/stylegan2")
    verify_checksums(folder)
    content = json.loads((folder / CONFIG).read_text())
    sizes = content["preset"] | {"channels": tuple(content["preset"]["channels"])}
    config = StyleGAN2Config(**sizes)
    generator = Generator(config)
    generator.load_state_dict({name: w.float() for name, w in load_file(folder / WEIGHTS).items()})
    generator.requires_grad_(False).eval().to(device or best_device(), memory_format=torch.channels_last)
    return StyleGAN2(generator, config, content["about"], sha256(folder / CHECKSUMS)[:12])
