"""JSON that others wrote, in bounded memory: metadata of models and recordings, files, answers."""

import json
from typing import Any, Final

LARGEST_BYTES: Final = 2**23
"""Far above any metadata of ours. Parsed, a byte of JSON may take thirty of memory."""


def parsed_json(text: str | bytes) -> Any:  # noqa: ANN401 - JSON may hold anything
    """Return the value that the text describes, as `json.loads` does.

    Raises:
        ValueError: It is longer than `LARGEST_BYTES`, too deeply nested, or not JSON, or it has an
            integer of thousands of digits.
        TypeError: It is neither text nor bytes.
    """
    if isinstance(text, str | bytes) and len(text) > LARGEST_BYTES:
        raise ValueError(f"{len(text)} bytes of JSON, more than {LARGEST_BYTES}")
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:
        raise ValueError("JSON with an integer of thousands of digits") from error
    except RecursionError as error:
        raise ValueError("JSON that is too deeply nested") from error
