"""The base that knows nothing yet: the same every time, and whole."""

from pathlib import Path

from safetensors.torch import load_file
from tokenizers import Tokenizer

from examples.quickstart.new_model import END_OF_TEXT, create_base

TEXT = ["Return the size of the file.", "Close the file and forget what was in it."] * 20


def test_the_same_text_makes_the_same_model_and_a_tokenizer_that_loses_nothing(tmp_path: Path) -> None:
    sizes = [create_base(TEXT, tmp_path / name) for name in ("first", "second")]
    assert sizes[0] == sizes[1] > 100_000
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [file.name for file in first] == [file.name for file in second]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    weights = load_file(tmp_path / "first/model.safetensors")
    tokenizer = Tokenizer.from_file(str(tmp_path / "first/tokenizer.json"))
    assert len(weights["model.embed_tokens.weight"]) == tokenizer.get_vocab_size()
    encoded = tokenizer.encode("Grüße an 🙂 def f(x):\n")
    assert tokenizer.decode(encoded.ids) == "Grüße an 🙂 def f(x):\n"
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
