"""What every part of a report has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints


class Record(BaseModel):
    """Part of a report: cannot be changed, takes no unknown field, holds neither NaN nor infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _encodable(text: object) -> object:
    # A file name that is not UTF-8 reaches Python with lone surrogates, which JSON cannot hold.
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_encodable)]
"""Text from outside, such as a file or model name; what UTF-8 cannot hold is replaced."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
