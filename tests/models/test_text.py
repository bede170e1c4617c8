"""MR-CLIP and its tokenizer: standard classes, standard files, no silent truncation, padding that is not seen."""

from dataclasses import replace

import pytest
import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from mrtutor.models.hub import load_text_encoder
from mrtutor.models.text import build_clip, build_tokenizer, clip_pixels, encode_prompts, encoder_mask, tokenize
from mrtutor.presets import PRESETS
from mrtutor.vocabulary import FILLERS, SPLITS, Findings, canonical_prompts, labelled_sentences, paraphrases, sentence

LONG = Findings(True, "right", "posterior", "small", "ring-enhancing", necrosis=False, oedema=True, simulated=True)
SENTENCES = [row[0] for split in SPLITS for row in labelled_sentences(split)]
SENTENCES += [text for split in SPLITS for text in paraphrases("T1Gd", "mutant", LONG, split=split)]
TEXT = PRESETS["smoke"].text


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXT.max_length)


@pytest.fixture(scope="module", params=["causal", "bidirectional"])
def clip(tokenizer, request):
    torch.manual_seed(0)
    return build_clip(replace(TEXT, layers=2, causal=request.param == "causal"), tokenizer).eval()


def test_every_known_word_is_one_token_and_the_vocabulary_small(tokenizer):
    pieces = {piece for text in [*SENTENCES, *FILLERS] for piece in tokenizer.tokenize(text)}
    assert all(piece.endswith("</w>") for piece in pieces) and {"glioma</w>", "flair</w>"} < pieces
    assert len(tokenizer) < 1000
    assert tokenizer.tokenize("Glioma") == tokenizer.tokenize("GLIOMA")
    assert tokenizer.tokenize("T1Gd") == ["t</w>", "1</w>", "gd</w>"], "digits are apart as in the CLIP of the hub"


def test_saved_loaded_and_built_anew_the_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded([*SENTENCES, "Zürich ☃"]).input_ids == tokenizer([*SENTENCES, "Zürich ☃"]).input_ids
    assert all(build_tokenizer().get_vocab() == tokenizer.get_vocab() for _ in range(5)), "ties broken by chance"
    assert loaded.model_max_length == TEXT.max_length
    assert loaded.pad_token_id == loaded.eos_token_id == len(loaded) - 1
    assert loaded.bos_token_id == len(loaded) - 2


def test_the_longest_sentences_fit_and_longer_ones_are_refused_not_cut(tokenizer):
    just_right, too_long = ("glioma " * (TEXT.max_length - n) for n in (2, 1))
    ids, mask = tokenize(tokenizer, ["", *SENTENCES, just_right])
    assert ids.shape == mask.shape == (len(SENTENCES) + 2, TEXT.max_length)
    assert ids[0].tolist() == [tokenizer.bos_token_id] + [tokenizer.eos_token_id] * (TEXT.max_length - 1)
    assert mask[0].sum() == 2 and mask[-1].all()
    with pytest.raises(ValueError, match=f"at most {TEXT.max_length} tokens, got {TEXT.max_length + 1}"):
        tokenize(tokenizer, ["fine", too_long])


@torch.no_grad()
def test_pooled_output_is_the_state_at_the_first_end_token(clip, tokenizer):
    ids, mask = tokenize(tokenizer, canonical_prompts())
    output = clip.text_model(input_ids=ids, attention_mask=encoder_mask(clip.config.text_config, mask))
    last = mask.sum(dim=1) - 1
    assert (last > 10).all()  # not position 0, where transformers ends up when it does not find the id
    assert torch.equal(output.pooler_output, output.last_hidden_state[torch.arange(8), last])


@torch.no_grad()
def test_padding_changes_no_real_token(clip, tokenizer):
    """The same sentence, padded to another length."""
    ids, mask = tokenize(tokenizer, sentence("T2", "wild"))
    length = int(mask.sum())
    states, seen = encode_prompts(clip.text_model, tokenizer, sentence("T2", "wild"))
    short_mask = encoder_mask(clip.text_model, mask[:, :length])
    short = clip.text_model(input_ids=ids[:, :length], attention_mask=short_mask).last_hidden_state
    assert torch.equal(seen, mask) and not states.requires_grad
    assert torch.allclose(states[:, :length], short, atol=1e-5)


def test_a_bidirectional_encoder_looks_ahead_and_a_causal_one_does_not(clip, tokenizer):
    texts = (f"a T2 image, {kind}" for kind in ("mutant", "wild"))
    first, second = (encode_prompts(clip.text_model, tokenizer, text)[0] for text in texts)
    change = (first - second)[0].abs().amax(dim=1)
    assert (change[:4] < 1e-6).all() == clip.config.text_config.is_causal
    assert change[7] > 1e-4


@pytest.mark.parametrize("whole", [True, False])
def test_a_saved_encoder_is_loaded_frozen_and_reads_the_same_way(whole, clip, tokenizer, tmp_path):
    """A pipeline's text half in two sub-folders, or a whole CLIP in one folder."""
    (clip if whole else clip.text_model).save_pretrained(tmp_path / ("" if whole else "text_encoder"))
    tokenizer.save_pretrained(tmp_path / ("" if whole else "tokenizer"))
    encoder, loaded = load_text_encoder(tmp_path)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    expected, _ = encode_prompts(clip.text_model, tokenizer, canonical_prompts())
    assert torch.equal(encode_prompts(encoder, loaded, canonical_prompts())[0], expected)


def test_what_is_no_clip_is_refused(clip, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="expected a folder"):
        load_text_encoder(tmp_path / "nowhere")
    clip.text_model.save_pretrained(tmp_path / "text_encoder")
    with pytest.raises(ValueError, match="tokens"):
        load_text_encoder(tmp_path)
    weights = tmp_path / "text_encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="Cannot load"):
        load_text_encoder(tmp_path)
    BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert"):
        load_text_encoder(tmp_path / "bert")


def test_pixels_are_grey_for_mr_clip_and_standardised_colour_for_others(clip):
    images = torch.rand(2, 1, 256, 256) * 2 - 1
    assert torch.equal(clip_pixels(clip, images), images)
    with torch.device("meta"):
        other = CLIPModel(CLIPConfig(text_config=CLIPTextConfig(), vision_config=CLIPVisionConfig()))
    pixels = clip_pixels(other, torch.zeros(1, 1, 256, 256))
    assert pixels.shape == (1, 3, 224, 224)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([0.0687, 0.1631, 0.3309], abs=2e-3)
