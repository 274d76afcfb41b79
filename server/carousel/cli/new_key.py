"""`carousel new-key`: a key for sealed states."""

import base64
import secrets

_NUM_BYTES = 32  # what ChaCha20-Poly1305 takes


def new_key() -> None:
    """Print a new key for the setting seal_keys. Keep it secret: its owner can read and create states."""
    print(base64.b64encode(secrets.token_bytes(_NUM_BYTES)).decode())
