"""``FineTuneJob.spec``: fields, defaults, units and cross-field checks, a module a section.

Everything a user may write is here, also what nothing acts on yet: such fields carry :class:`NotYet` and are refused.
A field's docstring is its description in the CRD and in the reference.
"""

from finetune_api.spec.adapters import Freeze, Ia3, Lora, ModuleNames, Prefix, Prompt, VirtualTokens
from finetune_api.spec.data import TEMPLATE, Data, DataSource, DataSources, Prepare
from finetune_api.spec.evaluation import Evaluation, Gate, TextMetric
from finetune_api.spec.fields import PLAIN, Duration, Image, ObjectName, Quantity, SecretName, Share, Uri
from finetune_api.spec.finetunejob import FineTuneJobSpec
from finetune_api.spec.method import Dpo, Kto, Method, Orpo, Simpo
from finetune_api.spec.model import Combine, CombinedAdapter, ModelSource
from finetune_api.spec.running import OwnTrainer, Resources, RunPolicy, Scheduling, Tracker
from finetune_api.spec.storage import Checkpoint, Output, Storage
from finetune_api.spec.training import EarlyStopping, Plateau, RestoreBest, Training, Watched

__all__ = [
    "PLAIN",
    "TEMPLATE",
    "Checkpoint",
    "Combine",
    "CombinedAdapter",
    "Data",
    "DataSource",
    "DataSources",
    "Dpo",
    "Duration",
    "EarlyStopping",
    "Evaluation",
    "FineTuneJobSpec",
    "Freeze",
    "Gate",
    "Ia3",
    "Image",
    "Kto",
    "Lora",
    "Method",
    "ModelSource",
    "ModuleNames",
    "ObjectName",
    "Orpo",
    "Output",
    "OwnTrainer",
    "Plateau",
    "Prefix",
    "Prepare",
    "Prompt",
    "Quantity",
    "Resources",
    "RestoreBest",
    "RunPolicy",
    "Scheduling",
    "SecretName",
    "Share",
    "Simpo",
    "Storage",
    "TextMetric",
    "Tracker",
    "Training",
    "Uri",
    "VirtualTokens",
    "Watched",
]
