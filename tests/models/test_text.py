"""MR-CLIP and its tokenizer: standard classes, standard files, no silent truncation."""

import re
from collections import Counter

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from mrtutor.data.paraphrases import FILLERS, SPLITS, canonical_prompts, labelled_sentences
from mrtutor.models.text import build_clip, build_tokenizer, clip_pixels, encode_prompts, load_text_encoder, tokenize
from mrtutor.models.tokenizer import learn_merges
from mrtutor.presets import PRESETS
from mrtutor.vocabulary import prompt

SENTENCES = [row[0] for split in SPLITS for row in labelled_sentences(split)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def clip(tokenizer):
    torch.manual_seed(0)
    return build_clip(PRESETS["smoke"].text, tokenizer).eval()


@pytest.fixture
def run_folder(tmp_path, clip, tokenizer):
    clip.text_model.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path


# ---- tokenizer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", "FLAIR mutant mutated wild wildtype glioma MR image modality IDH type of A".split())
def test_words_of_the_sentence_are_single_tokens(tokenizer, word):
    assert tokenizer.tokenize(word) == [f"{word.lower()}</w>"]


def test_digits_stand_alone_as_in_the_clip_of_the_hub(tokenizer):
    assert tokenizer.tokenize("T1Gd") == ["t</w>", "1</w>", "gd</w>"]
    assert tokenizer.tokenize("T2") == ["t</w>", "2</w>"]


def test_every_known_word_is_one_token_and_the_vocabulary_small(tokenizer):
    pieces = {piece for sentence in [*SENTENCES, *FILLERS] for piece in tokenizer.tokenize(sentence)}
    assert all(piece.endswith("</w>") for piece in pieces)
    assert len(tokenizer) < 1000


def test_case_makes_no_difference(tokenizer):
    sentence = prompt("T1Gd", "wild")
    assert (
        tokenizer(sentence).input_ids == tokenizer(sentence.upper()).input_ids == tokenizer(sentence.lower()).input_ids
    )


def test_the_sentence_comes_back_from_its_tokens(tokenizer):
    ids = tokenizer(prompt("FLAIR", "mutant")).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == (
        "a flair modality mr image , type of idh mutant glioma"
    )


def test_saved_and_loaded_tokenizer_gives_the_same_ids(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    texts = [*SENTENCES, "", "Zürich ☃"]
    assert loaded(texts).input_ids == tokenizer(texts).input_ids
    assert loaded.model_max_length == 32
    assert loaded.pad_token_id == loaded.eos_token_id == len(loaded) - 1
    assert loaded.bos_token_id == len(loaded) - 2


def test_clips_own_two_files_are_enough(tokenizer, tmp_path):
    tokenizer.backend_tokenizer.model.save(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    assert CLIPTokenizer.from_pretrained(tmp_path)(SENTENCES).input_ids == tokenizer(SENTENCES).input_ids


def test_building_twice_gives_the_same_vocabulary(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_merges_join_the_most_frequent_pair_first_and_the_alphabet_decides_ties():
    words = Counter({("a", "b", "c</w>"): 1, ("b", "c</w>"): 2})
    assert learn_merges(words) == [("b", "c</w>"), ("a", "bc</w>")]
    assert learn_merges(Counter({("x", "y"): 1, ("a", "b"): 1}))[0] == ("a", "b")


def test_prompts_are_padded_with_the_end_token(tokenizer):
    ids = tokenize(tokenizer, ["", prompt("T2", "wild")])
    end = tokenizer.eos_token_id
    assert ids.shape == (2, 32) and ids.dtype == torch.long
    assert ids[0].tolist() == [tokenizer.bos_token_id] + [end] * 31
    assert (ids[1] == end).sum() == 32 - len(tokenizer(prompt("T2", "wild")).input_ids) + 1
    assert tokenize(tokenizer, "T2", length=8).shape == (1, 8)


def test_every_paraphrase_fits(tokenizer):
    assert tokenize(tokenizer, SENTENCES).shape == (len(SENTENCES), 32)


def test_a_prompt_over_the_length_is_refused_not_cut(tokenizer):
    just_right, too_long = "glioma " * 30, "glioma " * 31
    assert tokenize(tokenizer, just_right).shape == (1, 32)
    with pytest.raises(ValueError, match=r"at most 32 tokens, got 33 .* shorten 'glioma glioma"):
        tokenize(tokenizer, ["fine", too_long])


@pytest.mark.parametrize("sentences", [[], [None], [3], ["T2", b"T1"]])
def test_what_is_not_text_is_refused(tokenizer, sentences):
    with pytest.raises(ValueError, match="Expected one or more sentences"):
        tokenize(tokenizer, sentences)


# ---- encoders --------------------------------------------------------------------------------------------------


def test_pooled_output_is_the_state_at_the_first_end_token(clip, tokenizer):
    ids = tokenize(tokenizer, canonical_prompts())
    with torch.no_grad():
        output = clip.text_model(input_ids=ids)
    first_end = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
    assert (first_end > 10).all()  # not position 0, where transformers ends up when it does not find the id
    assert torch.equal(output.pooler_output, output.last_hidden_state[torch.arange(8), first_end])


def test_sizes_are_those_of_the_preset_and_the_tokenizer(tokenizer):
    preset = PRESETS["laptop"].text
    with torch.device("meta"):
        clip = build_clip(preset, tokenizer)
    assert clip.text_model.embeddings.token_embedding.weight.shape == (len(tokenizer), preset.hidden)
    assert clip.text_model.embeddings.position_embedding.weight.shape == (preset.max_length, preset.hidden)
    assert clip.vision_model.embeddings.patch_embedding.weight.shape[1] == 1
    assert clip.text_projection.out_features == clip.visual_projection.out_features == preset.projection
    assert sum(p.numel() for p in clip.text_model.parameters()) < 3e6


def test_prompts_are_encoded_without_gradient_and_alike_alone_or_in_a_batch(clip, tokenizer):
    together = encode_prompts(clip.text_model, tokenizer, canonical_prompts())
    alone = encode_prompts(clip.text_model, tokenizer, canonical_prompts()[5])
    assert together.shape == (8, 32, PRESETS["smoke"].text.hidden)
    assert not together.requires_grad
    assert torch.allclose(together[5], alone[0], atol=1e-5)


def test_encoder_of_a_training_run_is_loaded_frozen(run_folder, clip, tokenizer):
    encoder, loaded = load_text_encoder(run_folder)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    expected = encode_prompts(clip.text_model, tokenizer, canonical_prompts())
    assert torch.equal(encode_prompts(encoder, loaded, canonical_prompts()), expected)


def test_a_whole_saved_clip_is_a_text_encoder_too(tmp_path, clip, tokenizer):
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder, loaded = load_text_encoder(tmp_path)
    expected = encode_prompts(clip.text_model, tokenizer, canonical_prompts())
    assert torch.equal(encode_prompts(encoder, loaded, canonical_prompts()), expected)


def test_prompt_over_the_encoders_length_is_refused(run_folder):
    encoder, tokenizer = load_text_encoder(run_folder)
    tokenizer.model_max_length = 10_000  # the encoder's own length counts
    with pytest.raises(ValueError, match="at most 32 tokens, got 42"):
        encode_prompts(encoder, tokenizer, "wild " * 40)


@pytest.mark.parametrize("source", ["no/such/folder", "nobody/no-such-clip"])
def test_missing_encoder_says_what_was_expected(source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=rf"No CLIP text encoder at '{source}': expected a folder with"):
        load_text_encoder(source)


def test_weights_without_a_tokenizer_are_refused(run_folder):
    with pytest.raises(FileNotFoundError, match=re.escape("expected tokenizer.json")):
        load_text_encoder(run_folder / "text_encoder")


def test_truncated_weights_are_refused(run_folder):
    weights = run_folder / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="truncated or altered"):
        load_text_encoder(run_folder)


def test_tokenizer_of_another_encoder_is_refused(run_folder, tokenizer):
    pieces = dict(tokenizer.get_vocab()) | {f"extra{n}": len(tokenizer) + n for n in range(3)}
    CLIPTokenizer(vocab=pieces, merges=[]).save_pretrained(run_folder / "tokenizer")
    with pytest.raises(ValueError, match="do not belong together"):
        load_text_encoder(run_folder)


# ---- images ----------------------------------------------------------------------------------------------------


def test_mr_clip_takes_grey_images_as_they_are(clip):
    images = torch.rand(2, 1, 256, 256) * 2 - 1
    assert torch.equal(clip_pixels(clip, images), images)
    assert clip_pixels(clip, images[..., :128, :128]).shape == (2, 1, 256, 256)


def test_a_colour_clip_gets_three_standardised_channels():
    text = CLIPTextConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=10)
    vision = CLIPVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision))
    pixels = clip_pixels(clip, torch.full((1, 1, 256, 256), 1.0))
    assert pixels.shape == (1, 3, 224, 224)
    expected = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    assert torch.allclose(pixels.mean(dim=(0, 2, 3)), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 256, 256), (256, 256), (1, 256, 256)])
def test_images_of_other_shapes_are_refused(clip, shape):
    with pytest.raises(ValueError, match=r"Expected grey images \(B, 1, H, W\)"):
        clip_pixels(clip, torch.zeros(shape))
