"""From a picture's bytes to the vision tower's input: one function for training, evaluation and serving.

The backend is pinned to PIL: the torchvision one resizes a little differently, and a model must see at serving what it
saw in training. Nothing here is random, so a picture's pixels may be kept and used again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image

from llava.images import decode_image

if TYPE_CHECKING:
    from transformers import CLIPImageProcessorPil

ASPECTS = ("square", "pad")


class Preprocessor:
    """``square`` (the paper): shortest edge resized, centre cropped. ``pad``: first set on a square of mean colour."""

    def __init__(self, processor: CLIPImageProcessorPil, aspect: str) -> None:
        if aspect not in ASPECTS:
            raise ValueError(f"image_aspect {aspect!r} is none of {', '.join(ASPECTS)}")
        self.processor = processor
        self.aspect = aspect

    @classmethod
    def load(cls, vision_tower: Path, aspect: str) -> Preprocessor:
        """From the ``preprocessor_config.json`` beside the tower's weights. Raises FileNotFoundError without one."""
        from transformers import CLIPImageProcessorPil

        if not (Path(vision_tower) / "preprocessor_config.json").is_file():
            raise FileNotFoundError(f"{vision_tower} has no preprocessor_config.json, so nobody knows the picture size "
                                    "and colours that the tower was trained on")
        return cls(cast("CLIPImageProcessorPil", CLIPImageProcessorPil.from_pretrained(vision_tower)), aspect)

    def __call__(self, body: bytes) -> torch.Tensor:
        """float32 [3, H, W]. Raises llava.images.BadImage for what is no picture."""
        picture = decode_image(body)
        if self.aspect == "pad":
            picture = self._padded(picture)
        call = cast(Any, self.processor)
        return call(images=picture, return_tensors="pt")["pixel_values"][0]

    def _padded(self, picture: Image.Image) -> Image.Image:
        side = max(picture.size)
        mean = cast("list[float]", self.processor.image_mean)
        square = Image.new("RGB", (side, side), cast("tuple[int, int, int]", tuple(int(m * 255) for m in mean)))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square
