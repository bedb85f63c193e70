"""What a figure was measured on: machine and versions, in words that give no private path away."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from pipeline.machine import processor_name

PACKAGES = ("sketchfusion", "torch", "diffusers", "open_clip_torch", "zarr", "numpy")


def describe_machine() -> dict[str, str]:
    """Processor, cores, threads, accelerator, system and package versions, by name."""
    facts = {
        "processor": processor_name(),
        "cores": str(_n_cores()),
        "torch threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    facts["system"] = f"{platform.system()} {platform.machine()}"
    facts["python"] = platform.python_version()
    return facts | _versions()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # The project itself may run from a checkout that was never installed.
            continue
    return found


def _n_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
