"""What is refused of a model's files before a library reads them, and that ordinary models pass."""

import json
import pickle
import shutil
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.models.model import load_model, load_tokenizer, require_matching_vocabulary
from finetune_trainer.models.modelcheck import require_loadable
from finetune_trainer.models.modelfiles import ModelFiles
from tests import tiny

URI = "s3://team-a/base/"
SMALL = {"vocab_size": 320, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
ORDINARY = {
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, hidden_size=32, intermediate_size=64)),
    "Llama, tied": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, hidden_size=32, intermediate_size=64, tie_word_embeddings=True)
    ),
    "Qwen": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, hidden_size=32, intermediate_size=64, max_window_layers=70, tie_word_embeddings=True)
    ),
    "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=320, n_positions=64)),
    "a long context": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, hidden_size=32, intermediate_size=64, max_position_embeddings=10_485_760)
    ),
}


@pytest.fixture
def copy(model_directory, tmp_path):
    """A copy of the tiny model, to be broken."""
    return shutil.copytree(model_directory, tmp_path / "copy")


def refused(directory) -> str:
    with pytest.raises(TrainerError) as caught:
        require_loadable(directory, directory, URI)
    assert caught.value.code is ExitCode.MODEL_INVALID
    assert str(directory) not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_model_passes_and_loads_whole_and_in_parts(tmp_path, name, dtype):
    torch.manual_seed(0)
    model = ORDINARY[name]().to(dtype)
    tiny.tokenizer().save_pretrained(tmp_path)
    for size in ("5GB", "20KB"):
        model.save_pretrained(tmp_path, max_shard_size=size)
        assert (tmp_path / "generation_config.json").exists()
        require_loadable(tmp_path, tmp_path, URI)
        loaded = load_model(ModelFiles(tmp_path, URI), LANGUAGE_MODEL, True, "fp32")
        assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight.float())
        require_matching_vocabulary(loaded, load_tokenizer(ModelFiles(tmp_path, URI)), URI)
        (tmp_path / "model.safetensors").unlink(missing_ok=True)


def test_the_links_of_the_hub_s_cache_are_no_links_elsewhere(model_directory, tmp_path):
    blobs, snapshot = tmp_path / "models--org--tiny" / "blobs", tmp_path / "models--org--tiny" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    shutil.copytree(model_directory, blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    require_loadable(snapshot, snapshot.parents[1], "hf://org/tiny")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(TrainerError, match=r"config\.json of hf://org/tiny is not a file of the model"):
        require_loadable(snapshot, snapshot.parents[1], "hf://org/tiny")


@pytest.mark.parametrize("target", ["/etc/passwd", "../other.json", "/dev/zero", "nowhere"])
def test_a_link_that_leads_elsewhere_is_refused(copy, target):
    (copy.parent / "other.json").write_text("{}")
    (copy / "generation_config.json").unlink()
    (copy / "generation_config.json").symlink_to(target)
    assert "generation_config.json of s3://team-a/base/ is not a file of the model" in refused(copy)


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json", "added_tokens.json"],
)
def test_code_is_refused_wherever_a_configuration_names_it(copy, name, key):
    path = copy / name
    content = json.loads(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps(content | {"inner": {key: {"AutoModel": "evil.Model"}}}))
    assert f"brings its own Python code ({key} in {name}), which is never run" in refused(copy)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"", "config.json of s3://team-a/base/ is not JSON: Expecting value"),
        ("config.json", b"[]", "config.json of s3://team-a/base/ holds a JSON list, not an object"),
        ("config.json", b"\xff\xfe", "config.json of s3://team-a/base/ is not JSON"),
        ("config.json", b'{"a":' * 100_000, "config.json of s3://team-a/base/ is nested too deeply"),
        ("config.json", b" " * (9 << 20), "config.json of s3://team-a/base/ has 9437184 bytes, and no such file needs"),
        ("tokenizer_config.json", b" " * (65 << 20), "tokenizer_config.json of s3://team-a/base/ has 68157440 bytes"),
        ("special_tokens_map.json", b"[1]", "special_tokens_map.json of s3://team-a/base/ holds a JSON list"),
        ("chat_template.jinja", b"x" * (2 << 20), "chat_template.jinja of s3://team-a/base/ has 2097152 bytes"),
    ],
)
def test_a_file_that_is_broken_or_far_too_large_is_named(copy, name, content, said):
    (copy / name).write_bytes(content)
    assert said in refused(copy)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_hidden_layers": 10**6}, "says num_hidden_layers 1000000, where a number from 0 to 1000 is expected"),
        ({"num_hidden_layers": 10**400}, "says num_hidden_layers 10000000000000000000000…, where"),
        ({"num_hidden_layers": -5}, "says num_hidden_layers -5, where"),
        ({"text_config": {"n_layer": 10**6}}, "says n_layer 1000000,"),
        ({"n_head": -1}, "says n_head -1, where a number from 0"),
        ({"pad_token_id": 2**63}, "says pad_token_id 9223372036854775808, where a number from -9223372036854775808"),
        ({"sliding_window": "wide"}, "says sliding_window wide, where a number is expected"),
        ({"output_hidden_states": 1.5}, "says output_hidden_states 1.5, where true or false is expected"),
        ({"num_labels": 10**9}, "says num_labels 1000000000,"),
        ({"num_local_experts": 10**9}, "says num_local_experts 1000000000,"),
        ({"n_positions": 10**12}, "says n_positions 1000000000000,"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised (gptq), and a model is trained"),
        ({"quantization_config": {"load_in_4bit": True}}, "is quantised (quantization_config in config.json)"),
        ({"quantization_config": "x"}, "is quantised (x)"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "is quantised (fp8)"),
    ],
)
def test_a_configuration_that_cannot_be_of_these_weights_is_refused(copy, settings, said):
    content = json.loads((copy / "config.json").read_bytes())
    (copy / "config.json").write_text(json.dumps(content | settings))
    assert said in refused(copy)


def test_objects_within_objects_are_looked_at_however_deep_they_are(copy):
    content = json.loads((copy / "config.json").read_bytes())
    inner: dict[str, object] = {"auto_map": {"AutoModel": "evil.Model"}}
    for _ in range(900):
        inner = {"inner": inner}
    (copy / "config.json").write_text(json.dumps(content | inner))
    assert "brings its own Python code" in refused(copy)


def test_an_empty_quantisation_is_none(copy):
    content = json.loads((copy / "config.json").read_bytes())
    (copy / "config.json").write_text(json.dumps(content | {"quantization_config": None}))
    require_loadable(copy, copy, URI)


def weights(header, data=b"", length=None) -> bytes:
    """A safetensors file as its format says: the header's length, the header, the tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a safetensors file but empty"),
        (b"\x10" + b"\0" * 20, "is not a safetensors file, or not whole"),
        (weights(b"{}", length=2**60), "header too large"),
        (weights(b"{}", length=2**64 - 1), "header too large"),
        (weights(b"["), "invalid JSON in header"),
        (weights(b"[" * 10**6), "invalid JSON in header"),
        (weights({"a": ONE | {"data_offsets": [0, 2**60]}}, bytes(8)), "invalid shape, data type, or offset"),
        (weights({"a": ONE | {"data_offsets": [8, 0]}}, bytes(8)), "invalid"),
        (weights({"a": ONE | {"shape": [2**40, 2**40]}}, bytes(8)), "overflow"),
        (weights({"a": ONE, "b": ONE}, bytes(8)), "invalid offset"),
        (weights({"a": ONE}, bytes(4)), "incomplete metadata"),
        (weights({"a": ONE}, bytes(9)), "incomplete metadata"),
        (weights({"a": ONE | {"dtype": "F7"}}, bytes(8)), "unknown variant"),
        (pickle.dumps({"a": 1}), "but a pickle"),
        (b"GGUF\3\0\0\0\0", "but a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "but a pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "but a web page"),
    ],
)
def test_weights_that_are_not_what_their_name_or_header_says_are_refused(copy, content, said):
    (copy / "model.safetensors").write_bytes(content)
    message = refused(copy)
    assert message.startswith("model.safetensors of s3://team-a/base/ is not a safetensors file")
    assert said in message
    assert "Upload it again, or write it with save_pretrained." in message


def test_a_pickle_within_a_zip_archive_is_told_from_a_safetensors_file(copy):
    torch.save({"a": torch.zeros(2)}, copy / "model.safetensors")
    assert zipfile.is_zipfile(copy / "model.safetensors")
    assert "is not a safetensors file but a zip archive, as torch.save writes it" in refused(copy)


def test_weights_of_eight_bits_are_refused(copy):
    held = load_file(copy / "model.safetensors")
    held["lm_head.weight"] = held["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(held, copy / "model.safetensors", metadata={"format": "pt"})
    assert "is quantised (lm_head.weight is F8_E4M3), and a model is trained from its full weights" in refused(copy)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "model-2.safetensors"}}, "names model-2.safetensors, which is not there"),
        ({"weight_map": {"a": "../copy/model-1.safetensors"}}, "names ../copy/model-1.safetensors, which is not"),
        ({"weight_map": {"a": "config.json"}}, "names config.json, which is not there"),
        ({"weight_map": {"a": 5}}, "names 5, which is not there"),
        ({"weight_map": []}, "has no weight_map"),
        ({}, "has no weight_map"),
        ([], "holds a JSON list"),
    ],
)
def test_an_index_names_parts_that_are_there_and_nothing_else(copy, index, said):
    (copy / "model.safetensors").rename(copy / "model-1.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refused(copy)
    assert message.startswith("model.safetensors.index.json of s3://team-a/base/")
    assert said in message
