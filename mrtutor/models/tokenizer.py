"""MR-CLIP's tokenizer: byte-pair encoding in CLIP's own format, with fewer than a thousand tokens.

It is a standard `transformers.CLIPTokenizer`. Lower case; a word's last piece carries `</w>`; every word of the
course's sentences is one token, an unknown word falls into smaller pieces, down to letters. CLIP's rules keep digits
apart, so T1 is two tokens (`t`, `1`) and T1Gd three (`t`, `1`, `gd`), with the hub's CLIP as with this one.

Source: Sennrich et al., ACL 2016 (byte-pair encoding); Radford et al., ICML 2021 (CLIP).
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTokenizer

from mrtutor.data.paraphrases import FILLERS, labelled_sentences

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_LENGTH = 32

Word = tuple[str, ...]
Pair = tuple[str, str]


def build_tokenizer(max_length: int = MAX_LENGTH) -> CLIPTokenizer:
    """Learn the vocabulary from the training paraphrases; the same on every machine, in milliseconds.

    Args:
        max_length: L, the length every prompt is padded to, in tokens.

    Returns:
        A tokenizer whose padding token is `<|endoftext|>`, as CLIP's. The two special tokens have the highest
        numbers, also as CLIP's, so that the end is found by its id as well as by the older rule "highest id".
    """
    letters = sorted(ByteLevel.alphabet())
    merges = learn_merges(_corpus(letters))
    pieces = letters + [c + WORD_END for c in letters] + ["".join(pair) for pair in merges]
    return _tokenizer(pieces, merges, max_length)


def _tokenizer(pieces: list[str], merges: list[Pair], max_length: int) -> CLIPTokenizer:
    vocab = {piece: number for number, piece in enumerate([*pieces, START, END])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def _corpus(letters: list[str]) -> Counter[Word]:
    """Words of the training sentences, as letters, counted; split exactly as CLIP splits them."""
    backend = _tokenizer(letters, [], MAX_LENGTH).backend_tokenizer
    words: Counter[Word] = Counter()
    for sentence in [*FILLERS, *(sentence for sentence, _, _ in labelled_sentences("train"))]:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(sentence)):
            words[*word[:-1], word[-1] + WORD_END] += 1
    return words


def learn_merges(words: Counter[Word]) -> list[Pair]:
    """Byte-pair encoding: join the most frequent neighbours, again and again, until every word is one piece.

    Args:
        words: each word as a tuple of pieces, with its count.

    Returns:
        The joined pairs in order; the alphabet decides between equally frequent ones.
    """
    merges: list[Pair] = []
    while True:
        pairs: Counter[Pair] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_join(word, best): count for word, count in words.items()})


def _join(word: Word, pair: Pair) -> Word:
    joined, position = [], 0
    while position < len(word):
        if word[position : position + 2] == pair:
            joined.append(word[position] + word[position + 1])
            position += 2
        else:
            joined.append(word[position])
            position += 1
    return tuple(joined)


def tokenize(tokenizer: CLIPTokenizer, sentences: str | Sequence[str], length: int | None = None) -> Tensor:
    """Sentences -> token ids (B, L) long, padded to L; start and end included.

    Args:
        tokenizer: MR-CLIP's or any other `CLIPTokenizer`.
        sentences: B sentences, or one. The empty sentence is allowed: it is the unconditional prompt.
        length: L; default the tokenizer's `model_max_length`.

    Raises:
        ValueError: a sentence needs more than L tokens (nothing is cut off silently), no sentence at all, or
            something that is not text.
    """
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    if not sentences or not all(isinstance(s, str) for s in sentences):
        raise ValueError(f"Expected one or more sentences (str), got {sentences!r}: pass a string or a list of them.")
    length = length or tokenizer.model_max_length
    for sentence, ids in zip(sentences, tokenizer(sentences, verbose=False).input_ids, strict=True):
        if len(ids) > length:
            raise ValueError(
                f"Expected a prompt of at most {length} tokens, got {len(ids)} (start and end count as two): "
                f"shorten {sentence!r}. Words outside the vocabulary cost up to one token a letter."
            )
    return tokenizer(sentences, padding="max_length", max_length=length, return_tensors="pt").input_ids
