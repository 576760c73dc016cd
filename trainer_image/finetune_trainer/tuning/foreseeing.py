"""What a training will come to, as far as data and the model's configuration tell, without any weights."""

from finetune_api.run import RunConfig
from finetune_api.status import Checked
from finetune_trainer.models.adapter import put_on
from finetune_trainer.models.dropout import set_dropout
from finetune_trainer.models.freezing import freeze
from finetune_trainer.models.model import lay_out, require_length, require_matching_vocabulary
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.data import Dataset
from finetune_trainer.preparation.duplicates import count_duplicates
from finetune_trainer.scaling.ranks import ALONE
from finetune_trainer.tuning.materials import prepare
from finetune_trainer.tuning.placement import Subject


def foresee(config: RunConfig, files: ModelFiles, data: Dataset) -> Checked:
    """Makes examples of the records, and lays the model out with its adapter, as a training begins.

    Raises:
        TrainerError: as that would.
    """
    materials = prepare(config, files, data, ALONE)
    subject = Subject.of(config, files, materials.recipe.head)
    model = lay_out(files, subject.head)
    require_matching_vocabulary(model, materials.tokenizer, files.name)
    require_length(model, materials.longest_row, files.name, subject.virtual_tokens)
    set_dropout(model, config.training.dropout, materials.recipe.dropout, files.name)
    if subject.adapter:
        put_on(model, subject.adapter, subject.head, files)
    elif config.method.freeze:
        freeze(model, config.method.freeze)
    return Checked(
        records=len(data.train),
        validation_records=len(data.validation),
        tokens=materials.train.tokens,
        longest=materials.longest,
        left_out=materials.train.dropped + materials.validation.dropped,
        duplicates=count_duplicates(data),
    )
