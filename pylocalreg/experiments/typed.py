"""What a file of a run may hold: every field of its type and within its bounds, and nothing unknown."""

import reprlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Index = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Typed(BaseModel):
    """A number is no text, a fraction no count, NaN no number; nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def problems(error: Exception) -> str:
    """Every field that does not fit, in one line; another error's own text."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}, not {_SHORT.repr(item['input'])}"
        if item["loc"]
        else item["msg"]
        for item in error.errors()
    )


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
