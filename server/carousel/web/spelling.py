"""The texts of single tokens, in JSON."""

from carousel.bundle.tokenizer import Tokenizer


def spell(tokenizer: Tokenizer, index: int) -> str:
    """Returns the token's text, or its bytes where they are no text: two tokens never share a spelling."""
    content = tokenizer.token_bytes(index)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{one:02x}" for one in content)
