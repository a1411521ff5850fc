"""Concept-balanced selection: the same captions for the same seed, on any partitioning and in any order of the rows.

The rule (Visual Instruction Tuning, appendix "Data, CC3M"): noun phrases rarer than ``min_frequency`` are skipped; from
the rarest phrase on, the captions that contain it are added; of a phrase more frequent than ``cap`` a random subset
of ``cap`` is added. The text leaves open whether captions that are already selected count towards the cap, so
both readings are named rules. Randomness is a hash of seed, phrase and caption identity, never a stream.

Under ``independent`` a caption's fate depends only on its best place within its phrases: with ``needed`` the smallest
cap that selects it, the selection under every cap is ``needed <= cap``. That makes one pass serve all caps, and
the target exact. Under ``topped_up`` phrases are processed one after another, and the selections of two caps
are not nested.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEVER = np.iinfo(np.int64).max  # the cap that a caption without an eligible phrase needs


class Counting(enum.StrEnum):
    """What counts towards a phrase's cap."""

    INDEPENDENT = "independent"  # a fresh random subset a phrase; their union is selected
    TOPPED_UP = "topped_up"  # captions selected for rarer phrases count; only what is missing is drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """min_frequency 3 and cap 100 are the paper's. target: how many captions to select exactly, or None.

    With a target the cap is not given but found: the largest whose selection does not exceed the target; what is
    missing is drawn, in hash order, from what the next cap would select.
    """

    min_frequency: int = 3
    cap: int = 100
    counting: Counting = Counting.INDEPENDENT
    target: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Captions and their phrases as columns.

    keys: uint64 [N], the first 8 bytes of each caption's identity. order: int64 [N], each caption's place among the
    identities in ascending order (settles ties). offsets: int64 [N + 1] and members: int32 [M]: caption i has the
    phrases members[offsets[i]:offsets[i + 1]]. phrases: text of each phrase, ascending.
    """

    keys: np.ndarray
    order: np.ndarray
    offsets: np.ndarray
    members: np.ndarray
    phrases: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """chosen: bool [N]. frequency, selected: int64 [P], captions that contain each phrase, all and chosen.

    cap: the cap that was used. filled: captions drawn beyond that cap to reach the target. eligible: captions with
    at least one phrase of ``min_frequency``; no cap selects more.
    """

    chosen: np.ndarray
    frequency: np.ndarray
    selected: np.ndarray
    cap: int
    filled: int
    eligible: int


def index_corpus(identities: Sequence[bytes], phrases: Sequence[Sequence[str]]) -> Corpus:
    """Columns of a corpus. identities: 32 bytes each, all different. phrases: those of each caption, each once."""
    if len(identities) != len(phrases):
        raise ValueError(f"{len(identities)} identities but {len(phrases)} phrase lists")
    ids = np.frombuffer(b"".join(identities), dtype=">u8").reshape(-1, 4)
    order = np.empty(len(ids), dtype=np.int64)
    order[np.lexsort((ids[:, 3], ids[:, 2], ids[:, 1], ids[:, 0]))] = np.arange(len(ids))
    names = tuple(sorted({phrase for own in phrases for phrase in own}))
    number = {phrase: i for i, phrase in enumerate(names)}
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(own) for own in phrases], out=offsets[1:])
    members = np.fromiter((number[p] for own in phrases for p in own), dtype=np.int32, count=int(offsets[-1]))
    return Corpus(keys=ids[:, 0].astype(np.uint64), order=order, offsets=offsets, members=members, phrases=names)


def select(corpus: Corpus, rule: Rule, seed: int) -> Selection:
    """Apply the rule. Time linear in captions, but for sorting the pairs of caption and phrase."""
    frequency = np.bincount(corpus.members, minlength=len(corpus.phrases)).astype(np.int64)
    pairs = _ranked_pairs(corpus, frequency, rule.min_frequency, seed)
    needed = np.full(len(corpus), NEVER, dtype=np.int64)
    np.minimum.at(needed, pairs.caption, pairs.rank)
    eligible = int(np.count_nonzero(needed < NEVER))

    def under(cap: int) -> np.ndarray:
        if rule.counting is Counting.INDEPENDENT:
            return needed <= min(cap, NEVER - 1)
        return _topped_up(len(corpus), pairs, cap)

    if rule.target is None:
        cap, filled, chosen = rule.cap, 0, under(rule.cap)
    else:
        highest = int(frequency.max(initial=1))
        cap = _cap_below(rule.target, highest, lambda c: int(np.count_nonzero(under(c))))
        chosen = under(cap)
        chosen, filled = _fill(corpus, chosen, under(cap + 1), rule.target, seed)
    kept = np.repeat(chosen, np.diff(corpus.offsets))
    selected = np.bincount(corpus.members[kept], minlength=len(corpus.phrases)).astype(np.int64)
    return Selection(chosen=chosen, frequency=frequency, selected=selected, cap=cap, filled=filled, eligible=eligible)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """Pairs of caption and eligible phrase, phrases in ascending frequency (ties by text), captions in drawing order.

    caption, rank: int64 [K]; rank is the 1-based place within the phrase. starts: int64 [E + 1], bounds of phrases.
    """

    caption: np.ndarray
    rank: np.ndarray
    starts: np.ndarray


def _ranked_pairs(corpus: Corpus, frequency: np.ndarray, min_frequency: int, seed: int) -> _Pairs:
    eligible = np.flatnonzero(frequency >= min_frequency)
    turn = np.full(len(corpus.phrases), -1, dtype=np.int64)
    turn[eligible[np.argsort(frequency[eligible], kind="stable")]] = np.arange(len(eligible))  # phrases lie by text
    phrase_keys = np.array([_key(seed, corpus.phrases[p]) for p in eligible], dtype=np.uint64)
    key_of = np.zeros(len(corpus.phrases), dtype=np.uint64)
    key_of[eligible] = phrase_keys

    caption = np.repeat(np.arange(len(corpus), dtype=np.int64), np.diff(corpus.offsets))
    kept = turn[corpus.members] >= 0
    caption, members = caption[kept], corpus.members[kept]
    draw = _mix(key_of[members] ^ corpus.keys[caption])
    by_turn = np.lexsort((corpus.order[caption], draw, turn[members]))
    sizes = np.bincount(turn[members], minlength=len(eligible)).astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    rank = np.arange(1, len(caption) + 1, dtype=np.int64) - np.repeat(starts[:-1], sizes)
    return _Pairs(caption=caption[by_turn], rank=rank, starts=starts)


def _topped_up(num_captions: int, pairs: _Pairs, cap: int) -> np.ndarray:
    chosen = np.zeros(num_captions, dtype=bool)
    for start, end in zip(pairs.starts[:-1].tolist(), pairs.starts[1:].tolist(), strict=True):
        captions = pairs.caption[start:end]
        if end - start > cap:
            fresh = captions[~chosen[captions]]
            captions = fresh[:max(0, cap - (end - start - len(fresh)))]
        chosen[captions] = True
    return chosen


def _cap_below(target: int, highest: int, size) -> int:
    """A cap whose selection is within the target while the next one's exceeds it; ``highest`` if that is within.

    Sizes grow with the cap under ``independent``, so it is the largest such cap; under ``topped_up`` sizes may dip, and
    the crossing that bisection finds is the one that is used: a function of the corpus alone, either way.
    """
    low, high = 0, highest + 1  # size(low) <= target always; size(high) > target, or nothing exceeds it
    if size(highest) <= target:
        return highest
    while high - low > 1:
        middle = (low + high) // 2
        if size(middle) <= target:
            low = middle
        else:
            high = middle
    return low


def _fill(corpus: Corpus, chosen: np.ndarray, wider: np.ndarray, target: int, seed: int) -> tuple[np.ndarray, int]:
    candidates = np.flatnonzero(wider & ~chosen)
    wanted = max(0, target - int(np.count_nonzero(chosen)))
    draw = _mix(corpus.keys[candidates] ^ np.uint64(_key(seed, "\tfill")))  # no phrase holds a tab
    taken = candidates[np.lexsort((corpus.order[candidates], draw))][:wanted]
    filled = chosen.copy()
    filled[taken] = True
    return filled, len(taken)


def _key(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\t{text}".encode()).digest()[:8], "big")


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: uint64 to uint64, one to one, every bit of the result depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
