"""``llavactl ask``: a question about a picture, answered by what is served, as it is written."""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.errors import one_message
from pipelines.settings import load_environment
from pipelines.stage import BadInput

if TYPE_CHECKING:
    from openai import OpenAI

SENT_AS_IS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
MAX_BYTES = 4_000_000
MAX_SIDE = 2048


@one_message
def command(
    picture: Annotated[Path, typer.Argument(help="a picture file", show_default=False)],
    question: Annotated[str, typer.Argument(help="what to ask about it", show_default=False)],
    model: Annotated[str | None, typer.Option(help="model to ask; by default the one that is served")] = None,
    url: Annotated[str | None, typer.Option(help="where it is served; by default the local address")] = None,
    max_tokens: Annotated[int, typer.Option(help="longest answer")] = 256,
    temperature: Annotated[float, typer.Option(help="0 gives the same answer each time")] = 0.0,
    debug: Annotated[bool, typer.Option(help="show tracebacks")] = False,
) -> int:
    """Ask what is served about a picture, through the OpenAI API.

    `llavactl ask photo.jpg "What is in the picture?"`
    """
    from openai import APIConnectionError, APIError, APIStatusError

    base = url.rstrip("/").removesuffix("/v1") if url else local_url()
    sent = data_uri(picture)
    client = open_client(base)
    try:
        model = model or client.models.list().data[0].id
        stream = client.chat.completions.create(
            model=model, max_tokens=max_tokens, temperature=temperature, stream=True,
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": sent}},
                                                   {"type": "text", "text": question}]}])
        finished = False
        for chunk in stream:
            choice = chunk.choices[0] if chunk.choices else None
            if choice:
                sys.stdout.write(choice.delta.content or "")
                sys.stdout.flush()
                finished = finished or choice.finish_reason is not None
        print()
    except APIStatusError as error:
        if error.response.headers.get("content-type", "").startswith("application/json"):
            said = error.body.get("message") if isinstance(error.body, dict) else None
            raise BadInput(f"{base} refused: {said or error.message}") from None
        raise BadInput(f"nothing is served at {base} (HTTP {error.status_code}); `make demo` or "
                       f"`llavactl run` serves a model there") from None
    except APIConnectionError:
        raise BadInput(f"nothing answers at {base}; `make demo` serves a model there, or give --url") from None
    except APIError as error:  # an error event in the middle of the stream
        print(f"\nerror: the answer broke off: {error.message}", file=sys.stderr)
        return 1
    if not finished:
        print("error: the connection was lost before the answer was complete", file=sys.stderr)
        return 1
    return 0


def local_url() -> str:
    load_environment()
    return f"http://{os.environ.get('LLAVA_SERVE_HOST', '127.0.0.1')}:{os.environ.get('LLAVA_SERVE_PORT', '8000')}"


def open_client(base: str) -> OpenAI:
    """A client that goes straight to the address, whatever proxies the environment names."""
    from openai import DefaultHttpxClient, OpenAI, Timeout

    return OpenAI(base_url=f"{base}/v1", api_key=os.environ.get("LLAVA_API_KEY", "none"), max_retries=1,
                  http_client=DefaultHttpxClient(trust_env=False, timeout=Timeout(180.0, connect=5.0)))


def data_uri(picture: Path) -> str:
    """The picture as the API takes it; other formats and very large files are sent as JPEG.

    Raises BadInput when there is no such file or it is no picture.
    """
    from PIL import Image

    from llava.images import BadImage, decode_image

    try:
        body = picture.expanduser().read_bytes()
    except OSError as error:
        raise BadInput(f"{picture}: {(error.strerror or 'cannot be read').lower()}") from None
    try:
        decoded = decode_image(body)
        kind = Image.open(io.BytesIO(body)).format
    except BadImage as error:
        raise BadInput(f"{picture}: {error}; give a picture file such as a JPEG or PNG") from None
    if kind not in SENT_AS_IS or len(body) > MAX_BYTES:
        decoded.thumbnail((MAX_SIDE, MAX_SIDE))
        out = io.BytesIO()
        decoded.save(out, "JPEG", quality=92)
        kind, body = "JPEG", out.getvalue()
    return f"data:{SENT_AS_IS[kind]};base64,{base64.b64encode(body).decode()}"
