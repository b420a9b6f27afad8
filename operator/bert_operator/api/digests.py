"""Content hashes of JSON values: request keys, config names, desired-state hashes."""

import hashlib
import json


def digest(value: object) -> str:
    """Hash a JSON value by its canonical text: 64 hex digits of SHA-256. Key order doesn't matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
