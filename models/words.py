"""Sentences to word features for the LSTM models: a word tokenizer, an embedding (GloVe or random) and an LSTM.

Sources: GloVe (Pennington et al., EMNLP 2014, https://nlp.stanford.edu/projects/glove/); LSTM as in CMPC (Huang et al.,
CVPR 2020, https://arxiv.org/abs/2010.00514) and BRINet (Hu et al., CVPR 2020). Sentences are padded at the right, where
the published code pads at the left and skips the padding: the features of the words are the same, and batches work.

Shapes: `B` sentences, `T` tokens, `E` embedding width, `D` text width.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from harness.errors import HarnessError

PAD, UNKNOWN = "<pad>", "<unk>"
_SPECIAL = (PAD, UNKNOWN)
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_INIT_RANGE = 0.08
_FORGET_BIAS = 1.0


@dataclass(frozen=True)
class WordsConfig:
    """The text encoder of the LSTM models, without the width of its LSTM."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    glove: str | None = None
    """GloVe text file with vectors of width `dim`, for example glove.840B.300d.txt; null starts all words at random."""
    dim: int = 300
    """Embedding width, at least 1; 300 in CMPC, 1000 in BRINet."""
    max_tokens: int = 20
    """Tokens per sentence, at least 1; longer sentences are cut, shorter ones padded."""
    vocab_size: int = 12112
    """Most entries of the vocabulary made from the training sentences, padding and unknown included; at least 3."""

    def __post_init__(self) -> None:
        for name, least in (("dim", 1), ("max_tokens", 1), ("vocab_size", len(_SPECIAL) + 1)):
            if getattr(self, name) < least:
                raise HarnessError(f"text.{name} must be at least {least}; received {getattr(self, name)}")


def split_words(sentence: str) -> list[str]:
    """Lower-case words and runs of punctuation, without a final full stop."""
    words = _TOKEN.findall(sentence.lower())
    return words[:-1] if words and words[-1] == "." else words


@dataclass(frozen=True)
class WordTokenizer:
    """Sentence -> word ids of fixed length."""

    vocabulary: tuple[str, ...]
    """Words by id; padding is 0, unknown words are 1."""
    max_tokens: int
    """Ids per sentence."""
    pad_id: ClassVar[int] = 0

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary)}

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.vocabulary)

    def encode(self, sentence: str) -> tuple[list[int], list[int]]:
        """Return ids and mask, both of length `max_tokens`; the mask is 1 for words and 0 for padding.

        A sentence that is too long loses its end; one without words is one unknown word.
        """
        unknown = _SPECIAL.index(UNKNOWN)
        ids = [self._ids.get(word, unknown) for word in split_words(sentence)][: self.max_tokens] or [unknown]
        missing = self.max_tokens - len(ids)
        return ids + [self.pad_id] * missing, [1] * len(ids) + [0] * missing


def build_word_tokenizer(config: WordsConfig, sentences: Iterable[str]) -> WordTokenizer:
    """Make the tokenizer from the training sentences: special entries, then words, the most frequent first."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(split_words(sentence))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return WordTokenizer((*_SPECIAL, *words)[: config.vocab_size], config.max_tokens)


def read_glove(path: Path, words: Iterable[str], *, dim: int) -> dict[str, Tensor]:
    """Vectors `(dim,)` of those words that a GloVe text file has.

    Raises:
        HarnessError: The file is missing, or its vectors have another width.
    """
    if not path.is_file():
        raise HarnessError(
            f"text.glove must be a GloVe text file; {path} is missing; download glove.840B.300d.zip from "
            "https://nlp.stanford.edu/projects/glove/, unzip it and put glove.840B.300d.txt there, or set text.glove "
            "to null"
        )
    wanted = set(words)
    found: dict[str, Tensor] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            word, _, numbers = line.partition(" ")
            if word not in wanted or word in found:
                continue
            try:
                vector = torch.tensor([float(value) for value in numbers.split()])
            except ValueError:
                continue  # GloVe 840B has entries with spaces inside
            if len(vector) != dim:
                raise HarnessError(
                    f"text.dim must be the width of the vectors of {path}; received {dim} for {len(vector)} in line "
                    f"{number}"
                )
            found[word] = vector
    return found


class WordFeatures(NamedTuple):
    """What an LSTM makes of sentences."""

    states: Tensor
    """`(B, T, D)`, the hidden state at every word; what stands at padding means nothing."""
    last: Tensor
    """`(B, D)`, the hidden state at the last word."""


class WordEncoder(nn.Module):
    """Word embedding and one LSTM layer.

    Args:
        config: Vectors and sizes.
        width: Text width D.
        vocab_size: Number of word ids.
        vocabulary: Words by id; needed for GloVe.

    Raises:
        HarnessError: GloVe is asked for and its file cannot be used, or the words are not given.
    """

    def __init__(self, config: WordsConfig, *, width: int, vocab_size: int, vocabulary: Sequence[str] = ()) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.dim)
        self.lstm = nn.LSTM(config.dim, width, batch_first=True)
        nn.init.uniform_(self.embedding.weight, -_INIT_RANGE, _INIT_RANGE)
        # One Glorot matrix over input and state, as TensorFlow keeps them.
        limit = (6.0 / (config.dim + width + 4 * width)) ** 0.5
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                nn.init.uniform_(parameter, -limit, limit)
                continue
            nn.init.zeros_(parameter)
            if name == "bias_ih_l0":  # gates in the order input, forget, proposal, output
                nn.init.constant_(parameter[width : 2 * width], _FORGET_BIAS)
        if config.glove is not None:
            self._load_glove(Path(config.glove).expanduser(), vocabulary)

    def _load_glove(self, path: Path, vocabulary: Sequence[str]) -> None:
        vocab_size, dim = self.embedding.weight.shape
        if len(vocabulary) != vocab_size:
            raise HarnessError(
                f"text.glove needs the word of each of the {vocab_size} ids; received {len(vocabulary)} words; pass "
                "the tokenizer's vocabulary in Inputs"
            )
        vectors = read_glove(path, vocabulary, dim=dim)
        with torch.no_grad():
            for i, word in enumerate(vocabulary):
                if word in vectors:
                    self.embedding.weight[i] = vectors[word]

    def forward(self, tokens: Tensor, mask: Tensor) -> WordFeatures:
        """Encode `tokens (B, T)` int64 with `mask (B, T)` of 0 and 1, padded at the right.

        An LSTM reads from the left, so padding at the right changes nothing at the words.
        """
        states, _ = self.lstm(self.embedding(tokens))
        final = (mask.long().sum(1) - 1).clamp(min=0)
        last = states[torch.arange(len(states), device=states.device), final]
        return WordFeatures(states, last)
