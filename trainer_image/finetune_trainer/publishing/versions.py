"""What a process computes with: what may change the last bits of a result, though nothing of its worth."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("finetune-operator", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            continue
    return found


def made_with() -> dict[str, str]:
    """Versions, device and threads: a training that goes on with the same ones ends in the same bits."""
    import torch

    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return versions() | {"device": device, "threads": str(torch.get_num_threads())}
