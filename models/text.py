"""Sentences to word features: a WordPiece tokenizer and BERT without its pooler, pretrained or from a configuration.

Source: Devlin et al., NAACL 2019, https://arxiv.org/abs/1810.04805. Shapes: `B` sentences, `T` tokens, `D` text width.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from harness.errors import HarnessError
from models.words import WordsConfig, WordTokenizer, build_word_tokenizer

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SPELLING = "abcdefghijklmnopqrstuvwxyz0123456789"
_MAX_POSITIONS = 512
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_VOCABULARIES = ("tokenizer.json", "vocab.txt")


@dataclass(frozen=True)
class TextConfig:
    """The text encoder; the sizes are used when there are no pretrained weights."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pretrained: str | None = "bert-base-uncased"
    """Hub name or local folder of a BERT with its vocabulary; null builds one of the sizes below, random."""
    layers: int = 12
    """Encoder layers, at least 1."""
    hidden: int = 768
    """Text width, divisible by `heads`."""
    heads: int = 12
    """Attention heads."""
    intermediate: int = 3072
    """Width inside the feed-forward part."""
    vocab_size: int = 30522
    """Most entries of a vocabulary made from the dataset's sentences."""
    max_tokens: int = 20
    """Token ids per sentence with [CLS] and [SEP], at least 2; longer sentences are cut, shorter ones padded."""
    dropout: float = 0.1
    """Dropout probability inside BERT, 0 to below 1."""
    trained_layers: int | None = 10
    """First encoder layers that are trained; embeddings and later layers keep their pretrained values. Null, or at
    least as many as there are layers, trains everything; so does `pretrained: null`."""

    def __post_init__(self) -> None:
        if min(self.layers, self.hidden, self.heads, self.intermediate) < 1 or self.hidden % self.heads:
            raise HarnessError(
                "text: layers, hidden, heads and intermediate must be at least 1 and hidden divisible by heads; "
                f"received {self.layers}, {self.hidden}, {self.heads}, {self.intermediate}"
            )
        if not 2 <= self.max_tokens <= _MAX_POSITIONS:
            raise HarnessError(f"text.max_tokens must be 2 to {_MAX_POSITIONS}; received {self.max_tokens}")
        if not 0.0 <= self.dropout < 1.0:
            raise HarnessError(f"text.dropout must be at least 0 and below 1; received {self.dropout}")
        if self.trained_layers is not None and self.trained_layers < 0:
            raise HarnessError(f"text.trained_layers must be null or at least 0; received {self.trained_layers}")


@dataclass(frozen=True)
class Tokenizer:
    """Sentence -> token ids of fixed length."""

    backend: Backend
    """Gives ids with [CLS] and [SEP], uncut and unpadded."""
    max_tokens: int
    """Ids per sentence."""
    pad_id: int
    """Id of padding."""
    vocab_size: int
    """Number of ids."""
    vocabulary: ClassVar[tuple[str, ...]] = ()
    """Words by id; empty, as BERT brings its own embeddings."""

    def encode(self, sentence: str) -> tuple[list[int], list[int]]:
        """Return ids and mask, both of length `max_tokens`; the mask is 1 for tokens and 0 for padding.

        A sentence that is too long loses its end including [SEP], as in the published code.
        """
        ids = self.backend.encode(sentence).ids[: self.max_tokens]
        missing = self.max_tokens - len(ids)
        return ids + [self.pad_id] * missing, [1] * len(ids) + [0] * missing


def _word_pieces(vocabulary: dict[str, int]) -> Backend:
    backend = Backend(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    return backend


def make_vocabulary(sentences: Iterable[str], *, max_size: int) -> dict[str, int]:
    """Make a WordPiece vocabulary that depends on nothing but the sentences, in any process.

    It holds the special tokens ([PAD] first), every character that occurs and the letters and digits, alone and as
    continuation, and then whole words, the most frequent first. Rarer and unseen words are spelled by characters.

    Args:
        sentences: Of the training split.
        max_size: Most entries.

    Returns:
        Piece -> id.

    Raises:
        HarnessError: `max_size` has no room for the characters.
    """
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words: Counter[str] = Counter()
    for sentence in sentences:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(sentence)))
    characters = sorted({*_SPELLING, *(c for word in words for c in word)})
    pieces = [*_SPECIAL, *characters, *(f"##{c}" for c in characters)]
    if len(pieces) > max_size:
        raise HarnessError(
            f"text.vocab_size must be at least {len(pieces)} to hold every character; received {max_size}"
        )
    known = set(pieces)
    by_frequency = sorted(words, key=lambda word: (-words[word], word))
    pieces += [word for word in by_frequency if word not in known][: max_size - len(pieces)]
    return {piece: i for i, piece in enumerate(pieces)}


def build_tokenizer(config: TextConfig | WordsConfig, sentences: Iterable[str]) -> Tokenizer | WordTokenizer:
    """Return the tokenizer of a text encoder.

    Args:
        config: Of the text encoder; its type says whether sentences become word pieces or words.
        sentences: Of the training split; used when there is no pretrained vocabulary.

    Raises:
        HarnessError: The pretrained vocabulary cannot be had, or the vocabulary is too small.
    """
    if isinstance(config, WordsConfig):
        return build_word_tokenizer(config, sentences)
    if config.pretrained is None:
        backend = _word_pieces(make_vocabulary(sentences, max_size=config.vocab_size))
    else:
        file = _find_file(config.pretrained, _VOCABULARIES)
        if file.suffix == ".json":
            backend = Backend.from_file(str(file))
        else:
            lines = file.read_text(encoding="utf-8").splitlines()
            backend = _word_pieces({piece: i for i, piece in enumerate(lines)})
    backend.no_truncation()
    backend.no_padding()
    pad_id = backend.token_to_id("[PAD]")
    if pad_id is None:
        raise HarnessError(f"text.pretrained must have a BERT vocabulary with [PAD]; received {config.pretrained}")
    return Tokenizer(backend, config.max_tokens, pad_id, backend.get_vocab_size())


def _find_file(pretrained: str, names: tuple[str, ...]) -> Path:
    """Return the first of `names` that a folder or a hub repository has; the cache is asked before the network."""
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise HarnessError(f"text.pretrained must be a folder with {' or '.join(names)}; received {folder} without it")
    looks_like_path = folder.is_absolute() or pretrained.startswith((".", "~")) or pretrained.count("/") > 1
    if looks_like_path:
        raise HarnessError(
            f"text.pretrained must be an existing folder or a hub name; received {pretrained}, which does not exist; "
            f"put config.json, vocab.txt and model.safetensors of BERT there"
        )
    for offline in (True, False):
        for name in names:
            try:
                return Path(hf_hub_download(pretrained, name, local_files_only=offline))
            except LocalEntryNotFoundError as error:
                if not offline:
                    raise HarnessError(_unreachable(pretrained)) from error
            except EntryNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise HarnessError(_unreachable(pretrained)) from error
    raise HarnessError(f"text.pretrained must have {' or '.join(names)}; received {pretrained}, which has none")


def _unreachable(pretrained: str) -> str:
    cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return (
        f"pretrained text encoder {pretrained!r} is neither in the cache ({cache}) nor reachable on the hub; on a "
        f"machine with network run `hf download {pretrained}` and copy the cache, or put config.json, vocab.txt and "
        f"model.safetensors into a folder and set text.pretrained to it"
    )


def _load_pretrained(config: TextConfig, pretrained: str) -> Any:
    from transformers import BertModel  # takes seconds, which a plan or a report need not wait

    folder = _find_file(pretrained, ("config.json",)).parent
    weights = _find_file(pretrained, _WEIGHTS)
    try:
        return BertModel.from_pretrained(
            str(folder if weights.parent == folder else weights.parent),
            add_pooling_layer=False,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            dtype=torch.float32,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(f"text.pretrained must be a readable BERT; received {pretrained}: {reason}") from error


class TextEncoder(nn.Module):
    """BERT without pooler.

    Args:
        config: Size, weights, what is trained.
        vocab_size: Number of token ids that can occur.
        pad_id: Token id of padding.

    Attributes:
        width: Text width D.
    """

    def __init__(self, config: TextConfig, *, vocab_size: int, pad_id: int = 0) -> None:
        super().__init__()
        if config.pretrained is None:
            from transformers import BertConfig, BertModel

            sizes = BertConfig(
                vocab_size=vocab_size,
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.intermediate,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                max_position_embeddings=_MAX_POSITIONS,
                pad_token_id=pad_id,
            )
            self.bert = BertModel(sizes, add_pooling_layer=False)
        else:
            self.bert = _load_pretrained(config, config.pretrained)
            if vocab_size > self.bert.config.vocab_size:
                raise HarnessError(
                    f"the tokenizer must have at most {self.bert.config.vocab_size} ids, the size of the embeddings of "
                    f"{config.pretrained}; received {vocab_size}"
                )
            if config.trained_layers is not None:
                self.train_first_layers(config.trained_layers)
        self.width: int = self.bert.config.hidden_size

    def train_first_layers(self, num_layers: int) -> None:
        """Train the first encoder layers only and freeze embeddings and later layers; all if there are no more."""
        layers = self.bert.encoder.layer
        if num_layers >= len(layers):
            return
        self.bert.requires_grad_(False)
        layers[:num_layers].requires_grad_(True)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return word features `(B, T, D)` of `tokens (B, T)` int64 and `mask (B, T)` of 0 and 1."""
        features: Tensor = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        return features
