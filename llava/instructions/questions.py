"""The published instruction lists, word for word (arXiv 2304.08485, appendix, Tables 11 and 12), and how one is drawn.

A draw is a hash of the seed and of what it is for, never a stream: it does not depend on any other sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

BRIEF = (  # Table 11: instructions for brief image description
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "Offer a succinct explanation of the picture presented.",
    "Summarize the visual content of the image.",
    "Give a short and clear explanation of the subsequent image.",
    "Share a concise interpretation of the image provided.",
    "Present a compact description of the photo's key features.",
    "Relay a brief, clear account of the picture shown.",
    "Render a clear and concise summary of the photo.",
    "Write a terse but informative summary of the picture.",
    "Create a compact narrative representing the image presented.",
)

DETAILED = (  # Table 12: instructions for detailed image description
    "Describe the following image in detail.",
    "Provide a detailed description of the given image.",
    "Give an elaborate explanation of the image you see.",
    "Share a comprehensive rundown of the presented image.",
    "Offer a thorough analysis of the image.",
    "Explain the various aspects of the image before you.",
    "Clarify the contents of the displayed image with great detail.",
    "Characterize the image using a well-detailed description.",
    "Break down the elements of the image in a detailed manner.",
    "Walk through the important details of the image.",
    "Portray the image with a rich, descriptive narrative.",
    "Narrate the contents of the image with precision.",
    "Analyze the image in a comprehensive and detailed manner.",
    "Illustrate the image through a descriptive explanation.",
    "Examine the image closely and share its details.",
    "Write an exhaustive depiction of the given image.",
)


def drawn(seed: int, *about: str) -> int:
    """64 uniform bits for a seed and what is drawn for."""
    return int.from_bytes(hashlib.sha256("\t".join((str(seed), *about)).encode()).digest()[:8], "big")


def draw_instruction(instructions: Sequence[str], seed: int, *about: str) -> str:
    """One instruction, uniformly."""
    return instructions[drawn(seed, "instruction", *about) % len(instructions)]


def place_image(question: str, seed: int, *about: str) -> str:
    """The question with ``<image>`` on its own line, before or after it with equal chance (paper, section 4.2)."""
    return f"<image>\n{question}" if drawn(seed, "image first", *about) % 2 else f"{question}\n<image>"
