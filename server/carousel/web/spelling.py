"""The texts of single tokens, and long lists of them, in JSON."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from carousel.bundle.tokenizer import Tokenizer


def spell(tokenizer: Tokenizer, index: int) -> str:
    """Returns the token's text, or its bytes where they are no text: two tokens never share a spelling."""
    content = tokenizer.token_bytes(index)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{one:02x}" for one in content)


def write_listing(name: str, items: Iterable[Mapping[str, Any]], rest: Mapping[str, Any]) -> bytes:
    """Returns the JSON object of `rest` with the list of `items` first, under `name`; `rest` is not empty. Each item is
    written alone: json.dumps lets no other thread run, and the event loop would wait for the whole list."""
    listed = ", ".join(map(json.dumps, items))
    return f"{{{json.dumps(name)}: [{listed}], {json.dumps(rest)[1:]}".encode()
