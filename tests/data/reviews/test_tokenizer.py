"""The tokenizer of the reviews: trained the same way each time, with BERT's template."""

import numpy as np
import pytest

from hf_e2kd.data import reviews_with_hints, train_tokenizer
from hf_e2kd.data.reviews import SIZES


@pytest.fixture(scope="module")
def texts():
    return reviews_with_hints({**dict.fromkeys(SIZES, 0), "test_ood": 500})["test_ood"]["text"][:]


def test_tokenizer_cuts_longer_words_and_knows_every_word(texts):
    tokenizer = train_tokenizer(texts, vocab_size=500)
    words = {word for text in texts for word in text.lower().strip(".!").split()}
    pieces = [tokenizer(word, add_special_tokens=False).input_ids for word in words]

    assert len(tokenizer) == 500
    assert np.mean([len(piece) > 1 for piece in pieces]) > 0.3
    assert not any(tokenizer.unk_token_id in piece for piece in pieces)


def test_tokenizer_has_berts_template_and_offsets(texts):
    tokenizer = train_tokenizer(texts, model_max_length=12)
    batch = tokenizer(["The plot is BAD.", texts[0] * 2], padding=True, truncation=True, return_offsets_mapping=True)

    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "the plot is bad."
    assert batch["input_ids"][0][0] == tokenizer.cls_token_id
    assert batch["input_ids"][0].count(tokenizer.sep_token_id) == 1
    assert batch["input_ids"][0][-1] == tokenizer.pad_token_id
    assert len(batch["input_ids"][1]) == 12
    assert batch["offset_mapping"][0][1] == (0, 3)
    assert tokenizer.mask_token_id is not None and tokenizer.unk_token_id is not None


def test_tokenizer_is_the_same_each_time_and_can_be_saved(texts, tmp_path):
    first, second = train_tokenizer(texts), train_tokenizer(texts)
    first.save_pretrained(tmp_path)
    loaded = type(first).from_pretrained(tmp_path)

    assert first.get_vocab() == second.get_vocab()
    assert loaded(texts[:5]).input_ids == second(texts[:5]).input_ids
    assert loaded.model_max_length == 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["good"], 6), "vocab_size is 6, but .* Give more"),
        ((["good"], 0), "vocab_size is 0.*at least 1"),
        (([],), "texts holds no word"),
        (("good plot",), "texts is one string"),
    ],
)
def test_tokenizer_refuses_what_it_cannot_learn_from(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(*arguments)
