"""The licence that a model card names, beside those that the platform allows."""

import pytest

from finetune_api.run import ExitCode, ModelLocation
from finetune_api.spec import Storage
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.fetch import fetch_model
from finetune_trainer.models.licence import licence_of_card
from finetune_trainer.storage.store import Store


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Model", "apache-2.0"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\ntags: [x]\n---\nlicense: mit", None),
        ("# Model\nlicense: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("---\n- mit\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.system [id]\n---\n", None),
        ("\ufffd", None),
    ],
)
def test_the_head_of_a_card_names_the_licence(card, licence):
    assert licence_of_card(card.encode()) == licence


def test_a_model_in_s3_is_refused_before_it_is_fetched(s3, model_directory, tmp_path):
    store = Store(Storage(endpoint_url=s3.url))
    uri = s3.put_directory("models/licensed", model_directory)

    def fetched(*licences: str) -> bool:
        fetch_model(ModelLocation(uri=uri, licences=licences), store, tmp_path / "model")
        return (tmp_path / "model" / "config.json").exists()

    with pytest.raises(TrainerError, match="names no licence on its model card") as refused:
        fetched("mit")
    assert refused.value.code is ExitCode.MODEL_INVALID
    s3.put("models/licensed/README.md", b"---\nlicense: gpl-3.0\n---\n")
    with pytest.raises(TrainerError, match=r"has the licence gpl-3\.0, and the FineTuneProfile allows mit, bsd"):
        fetched("mit", "bsd")
    assert not (tmp_path / "model" / "config.json").exists()
    assert fetched("GPL-3.0")
