"""Between the host's memory and an accelerator's, without either waiting for the other.

Only CUDA has both page-locked memory and streams; elsewhere these are plain copies. Page-locked
buffers come from torch's own pool, which gives one out again when the copy that used it is done.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. A copy onto a CUDA card is queued behind the card's work."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    # From ordinary memory the copy would wait until the card has done all that it was given.
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """Tensors on their way to the host, by name."""

    def __init__(self, tensors: Mapping[str, Tensor], copied: torch.cuda.Event | None = None):
        self._tensors = tensors
        self._copied = copied

    def arrays(self) -> dict[str, np.ndarray]:
        """The tensors as arrays, when they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return {name: tensor.numpy() for name, tensor in self._tensors.items()}


class Downloader:
    """Copies results off a device while it computes what comes next.

    Args:
        device: where the results are.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @torch.inference_mode()
    def start(self, tensors: Mapping[str, Tensor]) -> Download:
        """Begin to copy tensors; later work of the device does not wait for them."""
        if self._stream is None:
            return Download({name: t.contiguous().cpu() for name, t in tensors.items()})
        found = {name: tensor for name, tensor in tensors.items() if tensor.is_cpu}
        there = {name: t.contiguous() for name, t in tensors.items() if name not in found}
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for name, tensor in there.items():
                found[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                found[name].copy_(tensor, non_blocking=True)
                # Its memory is not for others until this stream has read it.
                tensor.record_stream(self._stream)
            # Blocking: waiting for it leaves the core to those who decode.
            copied = torch.cuda.Event(blocking=True)
            copied.record(self._stream)
        return Download(found, copied)
