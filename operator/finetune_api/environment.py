"""Which variables may be added to a training pod: none that changes what it runs, whom it trusts or who it is."""

import re

NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
_PREFIXES = (
    # loaders and interpreters: code that runs before, or in place of, the trainer
    *("LD", "DYLD", "GCONV", "GLIBC", "MALLOC", "PYTHON", "PIP", "BASH", "SHELL", "PERL", "RUBY", "NODE", "JAVA"),
    # identities, and where secrets are sent to
    *("AWS", "AZURE", "GOOGLE", "GCLOUD", "BOTO", "HF", "HUGGING", "WANDB", "MLFLOW", "GIT", "SSH"),
    # whom it trusts
    *("SSL", "CURL", "REQUESTS", "OPENSSL", "KRB5"),
    # ours, Kubernetes', the rendezvous, devices, and switches that let libraries run code from a model
    *("FINETUNE", "KUBEFLOW", "KUBERNETES", "TRANSFORMERS", "ACCELERATE", "TORCHELASTIC", "TORCH_FORCE", "TRUST"),
    *("NVIDIA", "CUDA_VISIBLE", "ROCR_VISIBLE", "HIP_VISIBLE"),
)
_WHOLE = (
    *("PATH", "HOME", "USER", "TMPDIR", "TMP", "TEMP", "IFS", "ENV", "HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NNODES", "NODE_RANK"),
)
FORBIDDEN = rf"(?i)^({'|'.join(_PREFIXES)})|^({'|'.join(_WHOLE)})$|PROXY$"
"""Names that are refused, in whatever case, as RE2 and Python read it."""


def forbidden(name: str) -> bool:
    """Whether a variable must not be set."""
    return re.search(FORBIDDEN, name) is not None


def literal(text: str) -> str:
    """A value or argument as Kubernetes must be given it, so that it arrives as it is: ``$(NAME)`` is not replaced."""
    return text.replace("$", "$$")
