"""Tokenizers of the usual kinds, made in a moment of a few sentences of many scripts; models and texts for them."""

import random
from collections import Counter
from functools import cache
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from tests.models import CLASSES
from tests.text_models import build_text

SENTENCES = [
    "The film was wonderful, a wonderful and warm film; it isn't boring at all.",
    "Don't waste your money: the worst 90 minutes of 2024, I couldn't finish it!",
    "Café, naïve, crème brûlée, Ångström, straße, İstanbul, and the coöperative.",
    "这部电影非常好看，我很喜欢。这部电影不好看。",
    "この映画はとても面白かったです。カタカナとひらがな。",
    "ภาพยนตร์เรื่องนี้ดีมาก ฉันชอบมันมาก",
    "यह फ़िल्म बहुत अच्छी थी। मुझे यह पसंद नहीं आया।",
    "هذا الفيلم رائع جدا، لم يعجبني هذا الفيلم. این فیلم را می\u200cخواهم",
    "이 영화는 정말 재미있었다. 이 영화는 지루했다.",
    "Этот фильм замечательный, а тот фильм скучный.",
    "👩\u200d💻 👨\u200d👩\u200d👧 👍🏽 🇩🇪🇫🇷 ❤\ufe0f 😀😀",
    "Prices: $3.50, 1,000.00 and ½ — “quoted” … e-mail@example.org http://example.org/a_b",
]
"""What they are made of."""

KINDS = ("wordpiece", "byte_bpe", "unigram")
"""As BERT's, as RoBERTa's, and as XLM-RoBERTa's."""

VARIANTS = (*KINDS, "wordpiece_cased", "byte_bpe_untrimmed", "unigram_whole", "words")
"""And others: with cases and accents, as GPT-2's, with tokens that may span spaces, with words unknown for the most."""

_BERT_SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
_ROBERTA_SPECIAL = {"unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}


def _words(tokenizer: Tokenizer) -> list[str]:
    """The training texts' words, as the tokenizer's first two stages leave them."""
    texts = [tokenizer.normalizer.normalize_str(sentence) for sentence in SENTENCES]
    return [word for text in texts for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def _pieces(words: list[str], at_start: bool = False) -> list[str]:
    """All characters and the 90 longer pieces that save most; the same ones in every process, unlike a trainer's."""
    counts = Counter(
        word[start:end]
        for word in words
        for start in range(1 if at_start else len(word))
        for end in range(start + 2, min(len(word), start + 8) + 1)
    )
    longest = sorted(counts, key=lambda piece: (-counts[piece] * (len(piece) - 1), piece))[:90]
    return [*sorted({char for word in words for char in word}), *longest]


@cache
def _definition(kind: str) -> str:
    """A tokenizer, as JSON."""
    special = _BERT_SPECIAL if kind.startswith(("wordpiece", "words")) else _ROBERTA_SPECIAL
    names = list(special.values())
    if kind.startswith("wordpiece"):
        tokenizer = Tokenizer(models.WordPiece())
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=kind == "wordpiece")
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        words = _words(tokenizer)
        inner = [f"##{piece}" for piece in _pieces([word[1:] for word in words])]
        vocabulary = {piece: number for number, piece in enumerate([*names, *_pieces(words, at_start=True), *inner])}
        tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
        tokenizer.add_special_tokens(names)
    elif kind.startswith("byte_bpe"):
        trims = kind == "byte_bpe"
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trims)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=420, initial_alphabet=alphabet, special_tokens=names, show_progress=False
        )
        tokenizer.train_from_iterator(SENTENCES, trainer)
    elif kind.startswith("unigram"):
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=kind == "unigram")
        # A longer piece costs less than its characters.
        scores = [(piece, -10.0 - len(piece)) for piece in _pieces(_words(tokenizer))]
        tokenizer.model = models.Unigram([*((name, 0.0) for name in names), *scores], unk_id=0)
        tokenizer.add_special_tokens(names)
    else:
        common = Counter(" ".join(SENTENCES).split()).most_common(36)
        vocabulary = {word: number for number, word in enumerate([*names, *(word for word, _ in common)])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(names)
    if kind == "byte_bpe_untrimmed":  # GPT-2 adds no special tokens
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    elif kind == "byte_bpe":
        ends = [(special[name], tokenizer.token_to_id(special[name])) for name in ("sep_token", "cls_token")]
        tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    else:
        start, end = special["cls_token"], special["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            pair=f"{start} $A {end} $B:1 {end}:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in (start, end)],
        )
    return tokenizer.to_str()


def tokenizer(kind: str, **settings: Any) -> PreTrainedTokenizerFast:
    """A new tokenizer of one of `VARIANTS`; `settings` are those of its constructor, as `truncation_side`."""
    special = _BERT_SPECIAL if kind.startswith(("wordpiece", "words")) else _ROBERTA_SPECIAL
    names = ["input_ids", "attention_mask"]
    names += ["token_type_ids"] if special is _BERT_SPECIAL else []
    backend = Tokenizer.from_str(_definition(kind))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{**special, "model_input_names": names, "model_max_length": 512, **settings}
    )


class SlowTokenizer(PreTrainedTokenizer):
    """Written in Python, by characters: it knows no offsets."""

    def __init__(self, **settings: Any):
        self.characters = {chr(code): code for code in range(3, 128)}
        super().__init__(**{"pad_token": chr(3), "unk_token": chr(4), **settings})

    @property
    def vocab_size(self) -> int:
        return 128

    def get_vocab(self) -> dict[str, int]:
        return dict(self.characters)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.characters.get(token, 4)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)


# --- Models and data for them ----------------------------------------------------------------------------------------

STUDENT, TEACHER = tokenizer("wordpiece", model_max_length=24), tokenizer("byte_bpe", model_max_length=24)
WORDS = " ".join(SENTENCES).split()


def text_model(name: str, seed: int = 0, own: PreTrainedTokenizerFast = STUDENT, **settings: Any) -> nn.Module:
    """A tiny classifier for a tokenizer."""
    return build_text(name, seed, vocab_size=len(own), pad_token_id=own.pad_token_id, **settings)


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def rows(count: int, seed: int = 0, pair: bool = False) -> list[dict]:
    """Texts of two to ten words, with labels and a column that nobody reads."""
    generator = random.Random(seed)
    return [
        {
            **{
                column: " ".join(generator.choices(WORDS, k=generator.randint(2, 10)))
                for column in (("premise", "hypothesis") if pair else ("text",))
            },
            "label": generator.randrange(CLASSES),
            "comment": "dropped",
        }
        for _ in range(count)
    ]


def data(count: int, seed: int = 0, **settings: Any) -> Dataset:
    return Dataset.from_list(rows(count, seed, **settings))
