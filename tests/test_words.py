"""Words of the LSTM models: splitting, vocabulary, GloVe files, and what padding may not do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import HarnessError
from models.text import build_tokenizer
from models.words import WordEncoder, WordsConfig, split_words

SENTENCES = ("The ship is next to the harbor.", "the harbor, a large one", "ship")


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("A ship.", ["a", "ship"]),
        ("Upper-left ship, here", ["upper", "-", "left", "ship", ",", "here"]),
        ("a . b .", ["a", ".", "b"]),
        ("  ", []),
        (".", []),
    ],
)
def test_sentences_are_split_as_published(sentence: str, words: list[str]) -> None:
    assert split_words(sentence) == words


def test_vocabulary_depends_on_nothing_but_the_sentences() -> None:
    tokenizer = build_tokenizer(WordsConfig(max_tokens=4), SENTENCES)
    same = build_tokenizer(WordsConfig(max_tokens=4), reversed(SENTENCES))
    assert tokenizer.vocabulary == same.vocabulary
    assert tokenizer.vocabulary[:5] == ("<pad>", "<unk>", "the", "harbor", "ship")
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (12, 0)
    assert build_tokenizer(WordsConfig(vocab_size=4), SENTENCES).vocabulary == ("<pad>", "<unk>", "the", "harbor")


def test_sentences_have_one_length_and_are_padded_at_the_right() -> None:
    tokenizer = build_tokenizer(WordsConfig(max_tokens=4), SENTENCES)
    assert tokenizer.encode("The unseen SHIP.") == ([2, 1, 4, 0], [1, 1, 1, 0])
    assert tokenizer.encode("the the the the ship") == ([2, 2, 2, 2], [1, 1, 1, 1])
    assert tokenizer.encode("") == ([1, 0, 0, 0], [1, 0, 0, 0])


@pytest.mark.parametrize(("field", "value", "least"), [("dim", 0, 1), ("max_tokens", 0, 1), ("vocab_size", 2, 3)])
def test_sizes_are_checked(field: str, value: int, least: int) -> None:
    with pytest.raises(HarnessError, match=rf"text\.{field} must be at least {least}; received {value}"):
        WordsConfig(**{field: value})


def glove_file(folder: Path) -> Path:
    path = folder / "glove.txt"
    path.write_text("the 1 2 3\n. . 4 5 6\nunused 7 8 9\nship -1 0.5 2.5e-1\nthe 9 9 9\n", encoding="utf-8")
    return path


def test_glove_vectors_are_taken_for_the_words_that_have_one(tmp_path: Path) -> None:
    config = WordsConfig(glove=str(glove_file(tmp_path)), dim=3)
    vocabulary = ("<pad>", "<unk>", "the", "ship", ".", "harbor")
    encoder = WordEncoder(config, width=4, vocab_size=6, vocabulary=vocabulary)
    assert encoder.embedding.weight[2].tolist() == [1, 2, 3]
    assert encoder.embedding.weight[3].tolist() == [-1, 0.5, 0.25]
    assert encoder.embedding.weight[[0, 1, 4, 5]].abs().max() <= 0.08
    assert encoder.embedding.weight.requires_grad


def test_glove_problems_are_one_clear_line(tmp_path: Path) -> None:
    missing = WordsConfig(glove=str(tmp_path / "none.txt"), dim=3)
    with pytest.raises(HarnessError, match=r"^text\.glove must be .*none\.txt is missing; download glove\.840B\.300d"):
        WordEncoder(missing, width=4, vocab_size=1, vocabulary=("the",))
    file = str(glove_file(tmp_path))
    with pytest.raises(HarnessError, match=r"^text\.dim must be the width .* received 2 for 3 in line 1$"):
        WordEncoder(WordsConfig(glove=file, dim=2), width=4, vocab_size=1, vocabulary=("the",))
    with pytest.raises(HarnessError, match=r"^text\.glove needs the word of each of the 5 ids; received 0 words"):
        WordEncoder(WordsConfig(glove=file, dim=3), width=4, vocab_size=5)


def test_what_stands_at_padding_changes_no_word() -> None:
    encoder = WordEncoder(WordsConfig(dim=3), width=4, vocab_size=9)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    tokens = torch.tensor([[2, 3, 4, 0, 0], [5, 0, 0, 0, 0]])
    states, last = encoder(tokens, mask)
    other, other_last = encoder(torch.where(mask == 1, tokens, 7), mask)
    assert torch.equal(last, other_last)
    assert torch.equal(states[mask == 1], other[mask == 1])
    torch.testing.assert_close(last, torch.stack([states[0, 2], states[1, 0]]))
    packed = torch.nn.utils.rnn.pack_padded_sequence(encoder.embedding(tokens), mask.sum(1), batch_first=True)
    torch.testing.assert_close(encoder.lstm(packed)[1][0][0], last)


def test_lstm_starts_as_published() -> None:
    lstm = WordEncoder(WordsConfig(dim=3), width=4, vocab_size=9).lstm
    assert lstm.bias_ih_l0.tolist() == [0] * 4 + [1] * 4 + [0] * 8
    assert lstm.bias_hh_l0.abs().max() == 0
    assert lstm.weight_ih_l0.abs().max() <= (6 / (3 + 4 + 16)) ** 0.5
