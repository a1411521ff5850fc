"""Which samples make up step k, and the tensors that a rank gets of them.

Step k's global batch is a function of seed, number of samples and k alone, so a cursor is one integer and no rank needs
another's state. Each rank takes a share of equal size and similar lengths, in as many micro-batches as every other
rank, with an empty filler where it has no sample left: ranks that exchange weights must make the same calls.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch

from llava.conversations import IGNORE, CannotEncode, Encoded, Sample, encode, place_images
from llava.images import BadImage
from llava.model import LlavaModel

PIXEL_CACHE_BYTES = 1 << 30
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """ids_NT, mask_NT, labels_NT: int64 [N, T], right-padded. weight_NT: float32 [N, T]. pixels: [n, 3, H, W]."""

    ids_NT: torch.Tensor
    mask_NT: torch.Tensor
    labels_NT: torch.Tensor
    weight_NT: torch.Tensor
    pixels: torch.Tensor | None

    def to(self, device: torch.device) -> Batch:
        pixels = self.pixels.to(device, non_blocking=True) if self.pixels is not None else None
        return Batch(ids_NT=self.ids_NT.to(device), mask_NT=self.mask_NT.to(device),
                     labels_NT=self.labels_NT.to(device), weight_NT=self.weight_NT.to(device), pixels=pixels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A sample that cannot be trained on, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """Each epoch is a permutation drawn from (seed, epoch); its last batch may be smaller."""

    num_samples: int
    global_batch: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_samples / self.global_batch)

    @property
    def num_steps(self) -> int:
        planned = self.steps_per_epoch * self.epochs
        return planned if self.max_steps is None else min(planned, self.max_steps)

    def batch(self, step: int) -> list[int]:
        """Indices of the samples of that step."""
        epoch, k = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.num_samples)
        return order[k * self.global_batch:(k + 1) * self.global_batch].tolist()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_samples)


def share(batch: Sequence[int], lengths: Sequence[int], rank: int, world: int, micro_batch: int) -> list[list[int]]:
    """The micro-batches of one rank: equally many for each, like lengths together; [] is a filler.

    batch: indices of the global batch. lengths: tokens of every sample, by index.
    """
    dealt = sorted(batch, key=lambda i: (lengths[i], i))
    mine = dealt[rank::world]
    num_micro = math.ceil(math.ceil(len(batch) / world) / micro_batch)
    return [mine[m * micro_batch:(m + 1) * micro_batch] for m in range(num_micro)]


def encode_samples(samples: Sequence[Sample], model: LlavaModel, known_images: Mapping[str, bytes]
                   ) -> tuple[list[Sample], list[Encoded], list[Dropped]]:
    """Token ids of every sample that can be trained on. Each sample is kept, or dropped with a reason."""
    kept, encoded, dropped = [], [], []
    for sample in samples:
        missing = [name for name in sample.images if name not in known_images]
        if missing:
            dropped.append(Dropped(id=sample.id, reason=f"no picture {missing[0]!r}"))
            continue
        placed = Sample(id=sample.id, images=sample.images,
                        turns=place_images(sample.turns, model.config.image_position))
        try:
            encoded.append(encode(placed, model.template, model.tokenizer, model.num_image_tokens,
                                  image_ends=model.image_ends, max_length=model.config.max_length))
        except CannotEncode as error:
            dropped.append(Dropped(id=sample.id, reason=str(error)))
        else:
            kept.append(sample)
    return kept, encoded, dropped


class TrainingSet:
    """Encoded samples and their pictures. Pixels are decoded when first needed and kept while there is room."""

    def __init__(self, samples: Sequence[Sample], encoded: Sequence[Encoded], model: LlavaModel,
                 images: Mapping[str, bytes]) -> None:
        self.samples = samples
        self.encoded = encoded
        self.lengths = [len(e.ids) for e in encoded]
        self.num_supervised = [e.num_supervised for e in encoded]
        self._images = images
        self._preprocess = model.preprocessor
        self._pixels: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self.samples)

    def pixels(self, name: str) -> torch.Tensor:
        """float32 [3, H, W]. Raises BadImage, naming the picture."""
        if name not in self._pixels:
            try:
                pixels = self._preprocess(self._images[name])
            except BadImage as error:
                raise BadImage(f"picture {name!r}: {error}") from error
            self._pixels[name] = pixels
            self._num_bytes += pixels.nbytes
            while self._num_bytes > PIXEL_CACHE_BYTES:
                self._num_bytes -= self._pixels.popitem(last=False)[1].nbytes
            return pixels
        return self._pixels[name]

    def collate(self, indices: Sequence[int], weights: Mapping[int, float]) -> Batch:
        """weights: of each sample's tokens, by index. No index gives the filler: one token, nothing supervised."""
        rows = [self.encoded[i] for i in indices] or [Encoded(ids=[0], labels=[IGNORE])]
        shape = (len(rows), max(len(row.ids) for row in rows))
        ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        labels, weight = torch.full(shape, IGNORE), torch.zeros(shape)
        for n, row in enumerate(rows):
            length = len(row.ids)
            ids[n, :length], labels[n, :length] = torch.tensor(row.ids), torch.tensor(row.labels)
            mask[n, :length] = 1
            if indices:
                weight[n, :length] = weights[indices[n]]
        pixels = [self.pixels(name) for i in indices for name in self.samples[i].images]
        return Batch(ids_NT=ids, mask_NT=mask, labels_NT=labels, weight_NT=weight,
                     pixels=torch.stack(pixels) if pixels else None)


def prefetched(first: int, last: int, make: Callable[[int], Made]) -> Iterator[Made]:
    """``make(k)`` for k in [first, last), the next one made in the background while the last one is used."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        coming = pool.submit(make, first) if first < last else None
        for k in range(first, last):
            assert coming is not None
            current = coming.result()
            coming = pool.submit(make, k + 1) if k + 1 < last else None
            yield current
