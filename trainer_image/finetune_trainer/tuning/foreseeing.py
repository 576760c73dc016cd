"""What a training will come to, as far as data and the model's configuration tell, without any weights."""

from finetune_api.run import RunConfig
from finetune_api.status import Checked
from finetune_trainer.models.model import lay_out
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.data import Dataset
from finetune_trainer.preparation.duplicates import count_duplicates
from finetune_trainer.scaling.ranks import ALONE
from finetune_trainer.tuning.materials import prepare
from finetune_trainer.tuning.placement import Subject, suit, with_trained


def foresee(config: RunConfig, files: ModelFiles, data: Dataset) -> Checked:
    """Makes examples of the records, and lays the model out with its adapter, as a training begins.

    Raises:
        TrainerError: as that would.
    """
    materials = prepare(config, files, data, ALONE)
    subject = Subject.of(config, files, materials.recipe.head)
    model = lay_out(files, subject.head)
    suit(config, subject, materials, model)
    with_trained(config, subject, model)
    return Checked(
        records=len(data.train),
        validation_records=len(data.validation),
        tokens=materials.train.tokens,
        longest=materials.longest,
        left_out=materials.train.dropped + materials.validation.dropped,
        cut=materials.train.cut + materials.validation.cut,
        duplicates=count_duplicates(data),
    )
