"""The projector alone: the small file that an alignment gives and that people pass around.

A projector is always ``weight`` [d, v] and ``bias`` [d] in float32, and ``new_token_embeddings`` [k, d] where the
recipe trains start and end tokens. It is read from ``projector.safetensors`` or from an ``mm_projector.bin`` in the
authors' layout; the latter is a pickle and is loaded with weights only, so that it can run no code.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

AUTHORS_KEYS = {"weight": "model.mm_projector.weight", "bias": "model.mm_projector.bias",
                "new_token_embeddings": "model.embed_tokens.weight"}


class BadProjector(ValueError):
    """The file is no linear projector, or does not fit the models. Names the file, what was found and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Projector:
    """weight: float32 [d, v]. bias: float32 [d]. new_token_embeddings: float32 [k, d] or None."""

    weight: torch.Tensor
    bias: torch.Tensor
    new_token_embeddings: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        named = {"weight": self.weight, "bias": self.bias, "new_token_embeddings": self.new_token_embeddings}
        return {name: t.detach().float().cpu().contiguous() for name, t in named.items() if t is not None}


def read_projector(path: Path | str) -> Projector:
    """From a ``.safetensors`` or an authors' ``.bin`` file. Raises BadProjector."""
    path = Path(path)
    try:
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_bin(path)
    except (OSError, RuntimeError, pickle.UnpicklingError, ValueError, KeyError, EOFError) as error:
        raise BadProjector(f"{path} cannot be read as a projector: {error}") from error
    if not {"weight", "bias"} <= tensors.keys():
        raise BadProjector(f"{path} has no linear projector (keys {', '.join(sorted(tensors)) or 'none'}); "
                           "one weight and one bias are needed, as LLaVA v1 has them")
    weight, bias, rows = tensors["weight"], tensors["bias"], tensors.get("new_token_embeddings")
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise BadProjector(f"{path}: weight {list(weight.shape)} and bias {list(bias.shape)} are no linear layer")
    if rows is not None and (rows.ndim != 2 or rows.shape[1] != weight.shape[0]):
        raise BadProjector(f"{path}: new token rows {list(rows.shape)} do not fit a width of {weight.shape[0]}")
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise BadProjector(f"{path}: {', '.join(bad)} has values that are no numbers")
    return Projector(weight=weight, bias=bias, new_token_embeddings=rows)


def write_projector(projector: Projector, folder: Path) -> None:
    """``projector.safetensors``, and ``mm_projector.bin`` with the authors' keys."""
    from safetensors.torch import save_file

    tensors = projector.tensors()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "projector.safetensors")
    torch.save({AUTHORS_KEYS[name]: tensor for name, tensor in tensors.items()}, folder / "mm_projector.bin")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(path).items()}


def _read_bin(path: Path) -> dict[str, torch.Tensor]:
    """The authors wrote several prefixes over time; what follows ``mm_projector.`` has always been the same."""
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    tensors = {}
    for key, tensor in loaded.items():
        if "mm_projector." in key:
            tensors[key.rpartition("mm_projector.")[2]] = tensor.float()
        elif key.endswith("embed_tokens.weight"):
            tensors["new_token_embeddings"] = tensor.float()
    return tensors
