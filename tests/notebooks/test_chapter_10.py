"""Chapter 10 in plain torch against the package: Eq. 5, Eq. 6 and the solution's silence."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention

from mrtutor.data.examples import load_example
from mrtutor.sampling.attention import attention_maps, trace_attention
from mrtutor.sampling.pretrained import load_pretrained

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NAME = "10_interpret_cross_attention.ipynb"


def _defined(name: str, tag: str, function: str) -> Any:
    cells = nbformat.read(NOTEBOOKS / name, as_version=4).cells
    (source,) = [c.source for c in cells if tag in c.metadata.get("tags", [])]
    names: dict[str, Any] = {"torch": torch, "F": F}
    exec(source, names)
    return names[function]


def test_equation_5_is_the_packages() -> None:
    torch.manual_seed(0)
    attn = Attention(query_dim=24, cross_attention_dim=16, heads=3, dim_head=8)
    hidden, text = torch.randn(2, 10, 24), torch.randn(2, 7, 16)
    attention_map = _defined(NAME, "equation5", "attention_map")
    with torch.no_grad():
        by_hand = attention_map(attn.to_q(hidden), attn.to_k(text), attn.heads)
        assert torch.allclose(by_hand, attention_maps(attn, hidden, text), atol=1e-6)
    assert torch.allclose(by_hand.sum(dim=-1), torch.ones(2, 3, 10))


def test_equation_6_is_the_packages() -> None:
    pipe = load_pretrained("smoke", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    with trace_attention(pipe) as trace:
        pipe("wild glioma", load_example("wild_1").structure, num_inference_steps=1)
    by_hand = _defined(NAME, "equation6", "heat_map")([trace.maps(layer)[..., 2] for layer in trace.layers], 256)
    assert torch.allclose(by_hand, trace.heat_map("glioma"), atol=1e-5)


@pytest.mark.parametrize("tokens", [[0], [1, 4]])
def test_the_solutions_silence_is_minus_infinity(tokens: list[int]) -> None:
    scores = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    silenced = _defined(f"solutions/{NAME}", "silence", "silence")(scores.softmax(dim=-1), tokens)
    scores[..., tokens] = -torch.inf
    assert torch.allclose(silenced, scores.softmax(dim=-1), atol=1e-6)
