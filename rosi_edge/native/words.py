"""What llama.cpp says when it refuses a file, in words for whoever has the file."""

from __future__ import annotations

import re

_SPLIT = (
    "Get a file whose image or audio part lies in a file of its own (mmproj), or convert it with llama.cpp"
)
_UPDATE = "Update rosi-edge, or choose another model"
CONVERT = "Convert the model again with a current llama.cpp, or get another file of it"
_PHRASES: tuple[tuple[str, str, str], ...] = (
    (
        r"key (\S+) has wrong type (.+) but expected type (\w+)",
        r"\1 is stored as \2, and llama.cpp reads only \3",
        CONVERT,
    ),
    (r"(?:array )?key not found in model: (\S+)", r"\1 is missing", CONVERT),
    (
        r"(?:key )?(\S+) has wrong array length; expected (\d+), got (\d+)",
        r"\1 has \3 values, and \2 are needed",
        CONVERT,
    ),
    (
        r"tensor '(.+?)' has wrong shape; expected (.+), got (.+)",
        r"the tensor \1 does not fit the file's settings, which ask for (\2) where it has (\3)",
        CONVERT,
    ),
    (r"cannot find tokenizer vocab", "tokenizer.ggml.tokens is missing", CONVERT),
    (r"missing tensor '(.+?)'", r"the tensor \1 is missing", CONVERT),
    (
        r"wrong number of tensors; expected (\d+), got (\d+)",
        r"of its \1 tensors, \2 belong to the model as llama.cpp knows it",
        _SPLIT,
    ),
    (r"unknown model architecture: '(.*)'", r"llama.cpp does not know the architecture \1", _UPDATE),
    (
        r"id_to_token\.size\(\) == token_to_id\.size\(\)",
        "a token is listed twice in tokenizer.ggml.tokens",
        CONVERT,
    ),
    (
        r"bad special token: '(\S+)' = (\d+), using default id (-?\d+)",
        r"\1 is \2, which is outside the vocabulary",
        CONVERT,
    ),
)


def in_plain_words(said: str) -> tuple[str, str]:
    """The reason and the advice for one line that llama.cpp logged; the line itself where it is not known."""
    for pattern, reason, advice in _PHRASES:
        if found := re.search(pattern, said):
            return re.sub(r" {2,}", " ", found.expand(reason)), advice
    return re.sub(r"^(\S+: )?(error loading model[^:]*: )*", "", said), CONVERT
