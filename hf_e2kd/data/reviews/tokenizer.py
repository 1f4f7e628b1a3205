"""A tokenizer that is trained on texts."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ..checks import check_whole


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 700, *, model_max_length: int = 128
) -> PreTrainedTokenizerFast:
    """Train BERT's kind of tokenizer: word pieces in lower case, `[CLS] text [SEP]`.

    Args:
        texts: Texts to learn the pieces from, such as `splits["teacher_train"]["text"]`.
        vocab_size: Number of pieces, special tokens included. With few, longer words are cut.
        model_max_length: Length in tokens to which `truncation=True` cuts.

    Returns:
        A fast tokenizer. The same texts and size give the same pieces.

    Raises:
        ValueError: there is no text, or its characters alone fill more than `vocab_size`.

    Example:
        >>> tokenizer = train_tokenizer(["good plot", "bad plot"], vocab_size=40)
        >>> tokenizer.decode(tokenizer("A bad plot").input_ids)
        '[CLS] a bad plot [SEP]'
    """
    check_whole("vocab_size", vocab_size, 1, None)
    if isinstance(texts, str):
        raise ValueError("texts is one string. Give a list of them.")
    texts = list(texts)
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()

    def build(vocabulary: dict[str, int]) -> Tokenizer:
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk"]))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        return tokenizer

    # The trainer numbers pieces inside words as a hash table yields them, and decides ties by these numbers. Numbered
    # beforehand, as if they were special tokens, they are the same on each run; then only their numbers are kept.
    words = {word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))}
    inside = sorted({f"##{character}" for word in words for character in word[1:]})
    numbering = build({})
    numbering.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=[*special.values(), *inside], show_progress=False
        ),
    )
    size = numbering.get_vocab_size()
    if not words:
        raise ValueError("texts holds no word. Give the texts of a training split.")
    if size > vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}, but special tokens and single characters are {size} already. Give more."
        )
    tokenizer = build(numbering.get_vocab())
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (special["cls"], special["sep"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        **{f"{name}_token": token for name, token in special.items()},
    )
