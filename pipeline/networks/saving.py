"""Safetensors files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cache.storage.files import replacing

_OS_ERROR = re.compile(r"os error (\d+)")


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors, from any device, to a safetensors file, which is replaced as a whole.

    Raises OSError.
    """
    ours = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as new:
        try:
            save_file(ours, str(new), metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            # A full or a read-only disk.
            number = _OS_ERROR.search(str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from None
