"""The selection equals the paper's text, read naively, and depends on the seed and the captions alone."""

import hashlib
import random
from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.captions.corpus import caption_identity
from llava.captions.selection import Counting, Rule, index_corpus, select

WORDS = [f"w{i}" for i in range(8)]
corpora = st.lists(st.frozensets(st.sampled_from(WORDS), max_size=4), max_size=40)
rules = st.builds(Rule, min_frequency=st.integers(1, 4), cap=st.integers(1, 8), counting=st.sampled_from(Counting))


def identities(n):
    return [caption_identity(f"caption {i}", "http://x/") for i in range(n)]


def draw(seed, phrase, identity):
    """The documented draw, with plain integers."""
    x = int.from_bytes(hashlib.sha256(f"{seed}\t{phrase}".encode()).digest()[:8], "big")
    x ^= int.from_bytes(identity[:8], "big")
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift)) * factor % 2**64
    return x ^ (x >> 31)


def naive(ids, phrases, rule, seed):
    """The paper's text: skip rare phrases; from the rarest on add captions; of frequent ones a random subset."""
    holders = defaultdict(list)
    for identity, own in zip(ids, phrases, strict=True):
        for phrase in own:
            holders[phrase].append(identity)
    chosen = set()
    for phrase in sorted(holders, key=lambda p: (len(holders[p]), p)):
        if len(holders[phrase]) < rule.min_frequency:
            continue
        wanted = sorted(holders[phrase], key=lambda i: (draw(seed, phrase, i), i))
        if len(wanted) > rule.cap:
            if rule.counting is Counting.INDEPENDENT:
                wanted = wanted[:rule.cap]
            else:
                already = sum(i in chosen for i in wanted)
                wanted = [i for i in wanted if i not in chosen][:max(0, rule.cap - already)]
        chosen |= set(wanted)
    return chosen


def chosen_ids(ids, phrases, rule, seed):
    selection = select(index_corpus(ids, [tuple(p) for p in phrases]), rule, seed)
    return {i for i, kept in zip(ids, selection.chosen, strict=True) if kept}


@given(corpora, rules, st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_equals_the_papers_text_read_naively(phrases, rule, seed):
    """Both counting rules equal a reference of a few lines over dictionaries and sets."""
    ids = identities(len(phrases))
    assert chosen_ids(ids, phrases, rule, seed) == naive(ids, phrases, rule, seed)


@given(corpora, rules, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_rows_never_shows(phrases, rule, rng: random.Random):
    """A shuffled corpus gives the same captions, with a target and without."""
    rows = list(zip(identities(len(phrases)), phrases, strict=True))
    shuffled = rng.sample(rows, len(rows))
    for target in (None, max(1, len(rows) // 3)):
        with_target = Rule(min_frequency=rule.min_frequency, cap=rule.cap, counting=rule.counting, target=target)
        one = chosen_ids([r[0] for r in rows], [r[1] for r in rows], with_target, 7)
        other = chosen_ids([r[0] for r in shuffled], [r[1] for r in shuffled], with_target, 7)
        assert one == other


@given(corpora, st.integers(1, 30), st.sampled_from(Counting))
@settings(max_examples=100, deadline=None)
def test_target_is_met_exactly_where_it_can_be(phrases, target, counting):
    """Exactly the target, or every caption with an eligible phrase when there are fewer."""
    ids = identities(len(phrases))
    rule = Rule(min_frequency=2, counting=counting, target=target)
    selection = select(index_corpus(ids, [tuple(p) for p in phrases]), rule, 0)
    assert np.count_nonzero(selection.chosen) == min(target, selection.eligible)


@given(corpora, st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_target_takes_the_largest_cap_within_it(phrases, target):
    """The cap's own selection is kept whole and is within the target; the next cap's would exceed it."""
    ids = identities(len(phrases))
    corpus = index_corpus(ids, [tuple(p) for p in phrases])
    selection = select(corpus, Rule(min_frequency=2, target=target), 0)
    below = select(corpus, Rule(min_frequency=2, cap=selection.cap), 0).chosen
    above = select(corpus, Rule(min_frequency=2, cap=selection.cap + 1), 0).chosen
    assert not np.any(below & ~selection.chosen)
    assert np.count_nonzero(below) <= target
    assert np.count_nonzero(above) > target or np.array_equal(above, below)
    assert not np.any(selection.chosen & ~above)


def test_a_frequent_phrase_gives_a_uniform_subset():
    """Over many seeds each of 40 captions of one phrase is drawn about equally often."""
    ids = identities(40)
    corpus = index_corpus(ids, [("dog",)] * 40)
    times = sum(select(corpus, Rule(cap=10), seed).chosen.astype(int) for seed in range(400))
    assert times.sum() == 4000
    assert times.min() > 60 and times.max() < 140  # 100 expected, standard deviation 8.7


def test_counts_of_a_selection():
    """Frequencies count captions, selected counts chosen captions of every phrase they contain."""
    corpus = index_corpus(identities(5), [("a", "b"), ("a",), ("a",), ("b",), ()])
    selection = select(corpus, Rule(min_frequency=3, cap=5), 0)
    assert corpus.phrases == ("a", "b")
    assert selection.frequency.tolist() == [3, 2]
    assert selection.selected.tolist() == [3, 1]
    assert selection.chosen.tolist() == [True, True, True, False, False]
