"""``adapter: ia3``: vectors that scale what modules give, or what feed-forward blocks take."""

from typing import Any

from transformers import PreTrainedModel

from finetune_api.run import ExitCode
from finetune_api.spec import Ia3, Method
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.adapter import Adapter
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.targets import linear_modules, require_modules


class Ia3Adapter(Adapter):
    """See the module."""

    what = "An IA³ adapter"
    kind = "ia3"
    mend = "Correct spec.method.ia3."
    rate = 15.0

    def __init__(self, method: Method) -> None:
        self._ia3 = method.ia3 or Ia3()

    def settings(self) -> dict[str, object]:
        return {f"ia3.{name}": value for name, value in self._ia3.to_dict().items()}

    def config(self, model: PreTrainedModel, head: Head, files: ModelFiles) -> Any:
        from peft import IA3Config
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

        targets, inner = self._ia3.target_modules, self._ia3.feedforward_modules
        if targets is None and model.config.model_type not in KNOWN:
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"IA³ has no default modules for {files.name}, whose architecture is {model.config.model_type}. Name "
                "those to scale in spec.method.ia3.targetModules (keys, values and the last layer of each feed-forward "
                "block), and which of them are feed-forward in spec.method.ia3.feedforwardModules. It has: "
                f"{', '.join(linear_modules(model))}.",
            )
        if targets is None:
            return IA3Config(task_type=head.peft_task)
        require_modules(model, targets, "spec.method.ia3.targetModules")
        return IA3Config(task_type=head.peft_task, target_modules=list(targets), feedforward_modules=list(inner or ()))
