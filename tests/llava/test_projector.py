"""The projector file, in our form and in the authors'."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from llava.projector import BadProjector, Projector, read_projector, write_projector

ONE = Projector(weight=torch.arange(6.0).reshape(3, 2), bias=torch.ones(3), new_token_embeddings=torch.eye(3)[:2])


@pytest.mark.parametrize("name", ["projector.safetensors", "mm_projector.bin"])
def test_both_forms_hold_the_same_projector(tmp_path, name):
    """What is written is read back from either file."""
    write_projector(ONE, tmp_path)
    read = read_projector(tmp_path / name)
    assert all(torch.equal(read.tensors()[k], v) for k, v in ONE.tensors().items())


def test_the_files_are_a_function_of_the_projector(tmp_path):
    """Two writes give the same bytes."""
    for name in ("a", "b"):
        write_projector(ONE, tmp_path / name)
    for file in ("projector.safetensors", "mm_projector.bin"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_authors_keys_are_kept(tmp_path):
    """The exchange file has the keys that the authors' loader looks for; theirs in half precision are read too."""
    write_projector(ONE, tmp_path)
    keys = torch.load(tmp_path / "mm_projector.bin", weights_only=True).keys()
    assert keys == {"model.mm_projector.weight", "model.mm_projector.bias", "model.embed_tokens.weight"}
    torch.save({"base_model.model.mm_projector.weight": torch.ones(3, 2).half(),
                "base_model.model.mm_projector.bias": torch.ones(3).half()}, tmp_path / "theirs.bin")
    assert read_projector(tmp_path / "theirs.bin").weight.dtype == torch.float32


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_runs_no_code(tmp_path, capsys):
    """A file that would execute something is refused without executing it."""
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"mm_projector.weight": Evil()}))
    with pytest.raises(BadProjector, match=r"evil\.bin"):
        read_projector(tmp_path / "evil.bin")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("tensors", [
    {"weight": torch.ones(3, 2)}, {"weight": torch.ones(3, 2), "bias": torch.ones(2)},
    {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3)},
    {"weight": torch.full((3, 2), float("nan")), "bias": torch.ones(3)},
    {"weight": torch.ones(3, 2), "bias": torch.ones(3), "new_token_embeddings": torch.ones(2, 4)}])
def test_what_is_no_linear_projector_is_refused(tmp_path, tensors):
    """A missing bias, another shape, a two-layer projector or no numbers: named, not guessed."""
    save_file(tensors, tmp_path / "p.safetensors")
    with pytest.raises(BadProjector, match=r"p\.safetensors"):
        read_projector(tmp_path / "p.safetensors")
    with pytest.raises(BadProjector, match=r"gone\.bin"):
        read_projector(tmp_path / "gone.bin")
