"""Properties of the alignment of labels, words and grids, over random inputs."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from hf_e2kd.alignment.grids import enlarged_coordinates, resize_maps
from hf_e2kd.alignment.labels import align_names
from hf_e2kd.alignment.words import align_words, pool_words

NAMES = st.lists(st.sampled_from([f"class {number}" for number in range(12)]), min_size=1, max_size=8, unique=True)
SIDES = st.integers(1, 9)


@given(NAMES, NAMES, st.data())
def test_shared_classes_have_one_name(teacher, student, data):
    """Prevents: a logit compared with another class's, whatever the order, letter case and blanks of the names."""
    written = [data.draw(st.sampled_from([name, name.upper(), f" {name} "])) for name in student]
    shared = [name for name in student if name in teacher]
    if not shared:
        return
    alignment = align_names(teacher, written)
    found = [teacher[index] for index in alignment.teacher.tolist()], [student[i] for i in alignment.student.tolist()]
    assert found == (shared, shared)
    logits = torch.arange(float(len(student)))[None]
    assert alignment.student_logits(logits)[0].tolist() == [student.index(name) for name in shared]
    positions = torch.arange(-1, len(shared))
    assert torch.equal(alignment.student_to_shared(alignment.to_student(positions)), positions)
    strangers = torch.tensor([index for index, name in enumerate(student) if name not in teacher], dtype=torch.long)
    assert (alignment.student_to_shared(strangers) == -1).all()


@given(st.text("ab cé.字 ", min_size=1, max_size=24), st.data())
def test_words_hold_every_whole_token(text, data):
    """Prevents: a token in two words or in the wrong one, and scores that are lost or counted twice."""
    sides = [_cut(text, data.draw(st.lists(st.integers(1, len(text)), max_size=8))) for _ in range(2)]
    words = align_words(text, *sides)
    ends = [end for _, end in words.spans]
    starts = [start for start, _ in words.spans]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    for tokens, ids in zip(sides, words.ids, strict=True):
        assert len(ids) == len(tokens)
        for (start, end), word in zip(tokens, ids, strict=True):
            inside = text[start:end].strip()
            if inside and word >= 0:
                first, last = words.spans[word]
                place = start + text[start:end].index(inside)
                assert first <= place and place + len(inside) <= last
        scores = torch.rand(1, max(1, len(tokens)))
        ids = torch.tensor([ids or [-1]])
        pooled, exists = pool_words(scores, ids)
        torch.testing.assert_close(pooled.sum(), scores[ids >= 0].sum())
        assert (pooled[~exists] == 0).all()


def _cut(text, places):
    """Spans of tokens that are cut at some places."""
    edges = sorted({0, *places, len(text)})
    return list(zip(edges, edges[1:], strict=False))


@given(SIDES, SIDES, SIDES, SIDES, st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_coordinates_have_the_enlarged_maps_products(h, w, other_h, other_w, height, width, seed):
    """Prevents: a cosine by small matrices that isn't that of the enlarged maps, for some pair of grids (spec E12)."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(2, h, w, generator=generator, dtype=torch.float64)
    second = torch.randn(2, other_h, other_w, generator=generator, dtype=torch.float64)
    small = [each.flatten(1) for each in enlarged_coordinates(first, second, (height, width))]
    large = [resize_maps(each, (height, width)).flatten(1) for each in (first, second)]
    torch.testing.assert_close((small[0] * small[1]).sum(1), (large[0] * large[1]).sum(1))
    torch.testing.assert_close(F.cosine_similarity(*small), F.cosine_similarity(*large))
