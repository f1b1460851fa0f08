"""Loading refuses with one line that names cause and remedy, or repairs what it can."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.version import parse
from safetensors.torch import load_file, save_file
from torch import Tensor

from collabedit.errors import CollabEditError, InputError, ModelError
from collabedit.models import LanguageModel, gguf, load_model
from collabedit.models.devices import checked_device
from collabedit.models.loading import load_structure_only, resolve
from collabedit.models.quantisation import _while_read
from collabedit.models.report import check_report
from tests.conftest import make_model, save_model

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undamaged model directory."""
    return save_model(make_model("llama"), tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return shutil.copytree(whole, tmp_path / "model")


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_config(folder: Path, name: str = "config.json", **values: Any) -> None:
    path = folder / name
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, **values}), "utf-8")


def refusal(name: Path | str, kind: type[CollabEditError] = ModelError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load_model(str(name), device="cpu", **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def logits(hf: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = hf(torch.arange(2, 14)[None]).logits
    return found


def test_a_whole_model_is_loaded_as_it_is(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(str(whole), device="cpu")
    stored = load_file(whole / "model.safetensors")
    assert all(torch.equal(p, stored[name]) for name, p in model.hf.named_parameters())
    assert capsys.readouterr().err == ""


def test_missing_weights_are_named(folder: Path) -> None:
    change_weights(folder, lambda w: {k: v for k, v in w.items() if ".layers.2." not in k})
    message = refusal(folder)
    assert "lacks 9 tensors (model.layers.2.input_layernorm.weight, " in message
    assert "and 6 more" in message


def test_only_an_untied_head_can_be_missing(folder: Path) -> None:
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    change_config(folder, tie_word_embeddings=False)
    assert "lacks 1 tensor (lm_head.weight)" in refusal(folder)


def test_a_stored_copy_of_a_tied_head_does_no_harm(folder: Path) -> None:
    change_weights(
        folder, lambda w: {**w, "lm_head.weight": w["model.embed_tokens.weight"].clone()}
    )
    assert load_model(str(folder), device="cpu").structure.tied_head


def test_distinguishes_prefixed_names_from_missing_ones(folder: Path) -> None:
    change_weights(folder, lambda w: {f"base_model.model.{k}": v for k, v in w.items()})
    message = refusal(folder)
    assert "base_model.model.' + 'model." in message
    assert "save the model inside the wrapper" in message


def test_names_unexpected_weights(folder: Path) -> None:
    bias = "model.layers.0.mlp.down_proj.bias"
    change_weights(folder, lambda w: {**w, bias: torch.ones(32)})
    assert f"the checkpoint holds 1 tensor ({bias}) that the model does not have" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "transformer.h.0.attn.masked_bias",
        "v_head.summary.weight",
        "mtp.layers.0.mlp.up_proj.weight",
    ],
)
def test_ignores_computed_buffers_and_training_heads(folder: Path, name: str) -> None:
    change_weights(folder, lambda w: {**w, name: torch.ones(3)})
    load_model(str(folder), device="cpu")


def test_names_weights_of_another_size(folder: Path) -> None:
    change_config(folder, intermediate_size=64)
    message = refusal(folder)
    assert "model.layers.0.mlp.down_proj.weight" in message
    assert "(and 11 more)" in message
    if parse(transformers.__version__).major >= 5:  # older ones tell no sizes
        assert "is (32, 48) in the checkpoint, but (32, 64) in config.json" in message


def test_a_report_of_errors_is_passed_on(tiny_llama: LanguageModel) -> None:
    report = {"missing_keys": [], "unexpected_keys": [], "error_msgs": ["first\n  second"]}
    with pytest.raises(ModelError, match="name: first second"):
        check_report("name", tiny_llama.hf, report)


def test_no_copy_of_an_incomplete_gguf_file_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_weights(folder, lambda w: {k: v for k, v in w.items() if ".layers.2." not in k})

    def read(source: Path) -> tuple[Any, Any]:
        return None, gguf.load_checked(folder, str(source))

    monkeypatch.setattr(gguf, "_read", read)
    monkeypatch.setattr(gguf, "_check_version", lambda source: None)
    with pytest.raises(ModelError, match=r"m\.gguf: the checkpoint lacks 9 tensors"):
        gguf.convert_gguf(tmp_path / "m.gguf", tmp_path / "cache" / "m")
    assert list((tmp_path / "cache").iterdir()) == []


def test_git_lfs_pointers_are_named(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 268435456\n"
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_text(pointer)
        message = refusal(folder)
        assert f"{folder / name} is a Git LFS pointer" in message
        assert "git lfs pull" in message
        shutil.copy(folder / "config.json", folder / name)


@pytest.mark.parametrize("keep", [0, 5, 100, 60_000])
def test_truncated_weights_are_named(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(folder)
    assert str(path) in message
    assert "download it again" in message


def test_a_missing_shard_is_named(folder: Path) -> None:
    hf = load_model(str(folder), device="cpu").hf
    (folder / "model.safetensors").unlink()
    hf.save_pretrained(folder, max_shard_size="100KB")
    first, *_ = sorted(folder.glob("model-*.safetensors"))
    first.unlink()
    assert f"names {first.name}, which is missing" in refusal(folder)


def test_unread_files_may_be_missing_or_pointers(folder: Path) -> None:
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "consolidated.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    load_model(str(folder), device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"model_type": "no-such-model"}'])
def test_unreadable_configurations_are_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refusal(folder)


def test_a_pickle_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "was-run"
    (folder / "pytorch_model.bin").write_bytes(f"cos\nmkdir\n(S'{marker}'\ntR.".encode())
    message = refusal(folder)
    assert "safetensors" in message
    assert not marker.exists()


def test_attention_kernels_of_another_machine_are_replaced(folder: Path) -> None:
    expected = logits(load_model(str(folder), device="cpu").hf)
    change_config(folder, attn_implementation="flash_attention_2")
    assert torch.equal(logits(load_model(str(folder), device="cpu").hf), expected)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("consolidated.00.pth", "the publisher's own format"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("model.onnx", "ONNX"),
        ("weights.npz", "MLX"),
        ("mine.safetensors", "rename it"),
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json is missing"),
    ],
)
def test_names_weights_in_other_formats(folder: Path, name: str, message: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    refused = refusal(folder)
    assert name in refused
    assert message in refused


def test_a_link_to_a_missing_file_is_named(folder: Path) -> None:
    """As in a Hub cache whose blobs were removed."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "blob")
    assert "is a link to a file that is missing" in refusal(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": 3}])
def test_an_index_that_names_nothing_is_refused(folder: Path, index: Any) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "does not say which file holds which tensor" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_does_not_open_pipes(folder: Path, name: str) -> None:
    """Reading a pipe would block."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(
        CollabEditError, match=r"is not a regular file|no config.json|no model.safetensors"
    ):
        load_model(str(folder), device="cpu")


def test_integer_weights_count_as_packed(folder: Path) -> None:
    """As MLX saves them: without a known scale they are different numbers."""
    name = "model.layers.0.mlp.down_proj.weight"
    change_weights(folder, lambda w: {**w, name: (100 * w[name]).to(torch.int8)})
    change_config(folder, quantization={"bits": 8})
    assert f"{name} is packed (I8)" in refusal(folder)


def test_refuses_an_impossible_number_of_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=10**7)
    assert "more than 10,000 layers" in refusal(folder)
    with pytest.raises(ModelError, match="more than 10,000 layers"):
        load_structure_only(str(folder))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"hidden_act": "foo"}, "'foo' is missing from its files, or unknown to transformers")],
)
def test_names_values_unknown_to_transformers(folder: Path, values: Any, message: str) -> None:
    change_config(folder, **values)
    assert message in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()
    assert "there is no tokenizer in" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{}", "{", '{"version": "1.0"}'])
def test_an_unreadable_tokenizer_is_refused(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    message = refusal(folder)
    assert "cannot load the tokenizer of" in message
    assert "copy the tokenizer's files from the original model again" in message


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    def smaller(weights: Weights) -> Weights:
        name = "model.embed_tokens.weight"
        return {**weights, name: weights[name][:100].clone()}

    change_weights(folder, smaller)
    change_config(folder, vocab_size=100)
    assert "embeddings for 100 tokens, and" in refusal(folder)


def test_an_added_token_without_an_embedding_does_no_harm(folder: Path) -> None:
    model = load_model(str(folder), device="cpu")
    model.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder), device="cpu")
    assert loaded.tokenizer.pad_token_id >= loaded.hf.config.vocab_size


def test_code_that_comes_with_a_model_runs_only_if_allowed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    marker = tmp_path / "was-run"
    (folder / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(marker)!r}).touch()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own-llama'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    change_config(folder, model_type="own-llama", auto_map=own)
    message = refusal(folder)
    assert "trust_remote_code=True" in message
    assert "--trust-remote-code" in message
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        load_structure_only(str(folder))
    assert not marker.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "own"))
    assert load_model(str(folder), device="cpu", trust_remote_code=True).structure.n_layers == 4
    assert marker.exists()


def test_models_of_another_kind_are_refused(folder: Path) -> None:
    config = transformers.CLIPConfig()
    config.save_pretrained(folder)
    assert "not as a causal language model (CLIPConfig)" in refusal(folder)
    with pytest.raises(ModelError, match="CLIPConfig"):
        load_structure_only(str(folder))


def test_names_what_is_not_a_model(folder: Path, tmp_path: Path) -> None:
    assert "a weights file; give the model's directory" in refusal(
        folder / "model.safetensors", InputError
    )
    assert "a file, not a model" in refusal(folder / "config.json", InputError)
    assert "no such file" in refusal(tmp_path / "none.GGUF", InputError)
    assert "does not exist" in refusal(tmp_path / "none", InputError)
    assert f"did you mean {folder}?" in refusal(tmp_path, InputError)
    cached = shutil.copytree(folder, tmp_path / "hub" / "models--me--it" / "snapshots" / "abc")
    assert f"did you mean {cached}?" in refusal(tmp_path / "hub", InputError)
    assert f"did you mean {cached}?" in refusal(tmp_path / "hub" / "models--me--it", InputError)
    (tmp_path / "some.GGUF").write_bytes(b"no GGUF")
    assert "is not a GGUF file" in refusal(tmp_path / "some.GGUF")
    (tmp_path / "two-00001-of-00003.gguf").write_bytes(b"GGUF")
    assert "is part 1 of 3 of a split GGUF file" in refusal(tmp_path / "two-00001-of-00003.gguf")
    assert "GGUF files, such as" in refusal(tmp_path, InputError)
    assert "no model at" in refusal("x" * 5000, InputError)
    assert "no model at" in refusal("~no-such-user/model", InputError)
    assert "the model's name is empty" in refusal(" ", InputError)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "give the directory of a model" in refusal(empty, InputError)


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("https://huggingface.co/gpt2", "gpt2"),
        ("https://huggingface.co/me/it/tree/main", "me/it"),
        ("hf://me/it", "me/it"),
    ],
)
def test_distinguishes_an_address_from_a_name(address: str, identity: str) -> None:
    assert f"give the Hub id {identity!r}" in refusal(address, InputError)


def test_an_unknown_name_lists_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_args: object, **_options: object) -> None:
        raise OSError("no-such-model is not a local folder.\nIf this is a private repository ...")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", none)
    message = refusal("no-such-model")
    assert "built-in name (smollm2-135m" in message
    assert "If this is a private repository" in message


@pytest.mark.parametrize("name", ["gpu", "", "meta", "cuda:x"])
def test_devices_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="choose cpu") as caught:
        checked_device(name)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_here_is_refused() -> None:
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InputError, match=f"no device '{missing}' on this machine"):
        checked_device(missing)
    assert checked_device("cpu") == "cpu"
    assert checked_device("auto") == "auto"


def packed_fp8(weights: Weights, block: int = 16) -> Weights:
    packed: Weights = {}
    for name, weight in weights.items():
        if "proj" not in name:
            packed[name] = weight
            continue
        blocks = weight.view(weight.shape[0] // block, block, weight.shape[1] // block, block)
        scale = blocks.abs().amax((1, 3)) / 448
        values = (blocks / scale[:, None, :, None]).reshape(weight.shape)
        packed[name] = values.to(torch.float8_e4m3fn)
        packed[f"{name}_scale_inv"] = scale
    return packed


def unpacked_fp8(packed: Weights, block: int = 16) -> Weights:
    dense: Weights = {}
    for name, weight in packed.items():
        scale = packed.get(f"{name}_scale_inv")
        if scale is not None:
            spread = scale.repeat_interleave(block, 0).repeat_interleave(block, 1)
            dense[name] = weight.float() * spread
        elif not name.endswith("_scale_inv"):
            dense[name] = weight
    return dense


FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}


def test_fp8_is_unpacked_edited_and_saved_dense(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_weights(folder, packed_fp8)
    change_config(folder, quantization_config=FP8)
    if _while_read(FP8) is None:
        assert "its weights are packed (fp8)" in refusal(folder)
        return
    model = load_model(str(folder), device="cpu")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "unpacking its weights (fp8)" in said
    expected = unpacked_fp8(load_file(folder / "model.safetensors"))
    for name, parameter in model.hf.named_parameters():
        assert parameter.dtype == torch.float32
        # transformers may round what it unpacks to bfloat16
        torch.testing.assert_close(parameter, expected[name], rtol=2**-8, atol=0)
    model.weight("model.layers.1.mlp.down_proj.weight").add_(0.5)
    save_model(model, tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert "quantization_config" not in json.loads((tmp_path / "saved/config.json").read_text())
    again = load_model(str(tmp_path / "saved"), device="cpu")
    assert torch.equal(logits(again.hf), logits(model.hf))


@pytest.mark.parametrize(
    ("packed", "named"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}, "gptq"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}, "awq"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt"),
        ({"quant_method": "of-next-year"}, "of-next-year"),
        ({"bits": 3}, "an unknown format"),
    ],
)
def test_other_packed_weights_are_refused_before_any_work(
    folder: Path, packed: dict[str, Any], named: str
) -> None:
    change_config(folder, quantization_config=packed)
    message = refusal(folder)
    assert f"its weights are packed ({named})" in message
    assert "unpacked original" in message
    with pytest.raises(ModelError, match="packed"):
        load_structure_only(str(folder))


@pytest.mark.parametrize(
    ("packed", "bits"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"load_in_8bit": True}, 8),
    ],
)
def test_names_bitsandbytes_if_it_is_missing(
    folder: Path, packed: dict[str, Any], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collabedit.models.quantisation.find_spec", lambda name: None)
    change_config(folder, quantization_config=packed)
    message = refusal(folder)
    assert f"packed (bitsandbytes, {bits} bits)" in message
    assert "pip install bitsandbytes" in message


@pytest.mark.filterwarnings("ignore")  # of the package
@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_is_unpacked_and_saved_dense(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    whole = make_model("llama", hidden_size=64, intermediate_size=128)
    whole.hf.save_pretrained(tmp_path / "whole")
    asked: Any = transformers.BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    packed = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole", quantization_config=asked, dtype=torch.float32
    )
    packed.save_pretrained(tmp_path / "packed")
    whole.tokenizer.save_pretrained(tmp_path / "packed")
    model = load_model(str(tmp_path / "packed"), device="cpu")
    for name, parameter in model.hf.named_parameters():
        assert parameter.dtype == torch.float32
        exact = whole.hf.get_parameter(name)  # within half a step of the coarsest grid
        step = exact.abs().max() / (127 if bits == 8 else 3)
        assert (parameter - exact).abs().max() <= step
    model.hf.save_pretrained(tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert "quantization_config" not in json.loads((tmp_path / "saved/config.json").read_text())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model.hf))


@pytest.mark.parametrize("form", ["float-quantized", "pack-quantized"])
def test_names_compressed_tensors_if_it_is_missing(
    folder: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collabedit.models.quantisation.find_spec", lambda name: None)
    weights = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    packed = {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}
    change_config(folder, quantization_config=packed)
    message = refusal(folder)
    assert "packed (compressed-tensors)" in message
    assert "pip install compressed-tensors; or use the unpacked original" in message
    with pytest.raises(ModelError, match="packed"):
        load_structure_only(str(folder))


def lora(folder: Path, **settings: Any) -> dict[str, Tensor]:
    """Put an adapter into a folder; returns the changes of the weights."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none"}
    change_config(folder, "adapter_config.json", **{**config, **settings})
    generator = torch.Generator().manual_seed(0)
    tensors: Weights = {}
    changes = {}
    for layer in (0, 2):
        path = f"model.layers.{layer}.mlp.down_proj"
        a = torch.randn(2, 48, generator=generator)
        b = torch.randn(32, 2, generator=generator)
        tensors[f"base_model.model.{path}.lora_A.weight"] = a
        tensors[f"base_model.model.{path}.lora_B.weight"] = b
        changes[f"{path}.weight"] = b.double() @ a.double()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return changes


@pytest.mark.parametrize(("rank_stable", "scale"), [(False, 3.0), (True, 6 / 2**0.5)])
def test_an_adapter_beside_the_weights_is_merged_and_named(
    folder: Path, rank_stable: bool, scale: float, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = lora(folder, use_rslora=rank_stable)
    model = load_model(str(folder), device="cpu")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "merged the LoRA adapter" in said
    stored = load_file(folder / "model.safetensors")
    for name, parameter in model.hf.named_parameters():
        expected = stored[name].double() + scale * changes.get(name, torch.zeros(()))
        assert torch.equal(parameter, expected.float())
    assert model.structure.down_projection == "mlp.down_proj"
    assert model.hf.config.name_or_path == str(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"peft_type": "IA3"},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"r": 0},
        {"lora_alpha": None},
    ],
)
def test_adapters_that_are_more_than_a_product_are_refused(
    folder: Path, settings: dict[str, Any]
) -> None:
    lora(folder, **settings)
    message = refusal(folder)
    assert "the adapter beside the weights cannot be merged here" in message
    assert "merge_and_unload" in message


def test_adapters_that_do_not_fit_are_refused(folder: Path) -> None:
    lora(folder)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    renamed = {key.replace("layers.2", "layers.9"): value for key, value in tensors.items()}
    save_file(renamed, path)
    assert "no module model.layers.9.mlp.down_proj" in refusal(folder)
    save_file({key: value[:, :1].clone() for key, value in tensors.items()}, path)
    assert "more than pairs of matrices" in refusal(folder)
    wide = {k: torch.ones(2, 40) if "lora_A" in k else v for k, v in tensors.items()}
    save_file(wide, path)
    assert "is (32, 48) in the model, but (32, 40) in the adapter" in refusal(folder)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2)}, path)
    assert "more than pairs of matrices" in refusal(folder)
    path.unlink()
    assert "cannot be merged" in refusal(folder)


def test_an_adapter_alone_is_named_as_one(folder: Path) -> None:
    lora(folder, base_model_name_or_path="example/base")
    (folder / "config.json").unlink()
    assert "it is an adapter of example/base, not a model" in refusal(folder, InputError)


def test_files_are_resolved_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "Model.GGUF"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr("collabedit.models.loading.convert_gguf", lambda source, target: source)
    assert resolve(str(path)) == str(path)


JUNK: list[Any] = [None, 0, -1, "x", [], {}, True, 1e9, ["a"], {"a": 1}, "gpt2"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_files_load_or_fail_with_one_line(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("fuzz") / "model")
    path = folder / data.draw(
        st.sampled_from(["config.json", "tokenizer_config.json", "tokenizer.json"])
    )
    if data.draw(st.booleans()):
        values = json.loads(path.read_text("utf-8"))
        values[data.draw(st.sampled_from(sorted(values)))] = data.draw(st.sampled_from(JUNK))
        path.write_text(json.dumps(values), "utf-8")
    else:
        path = data.draw(st.sampled_from([path, folder / "model.safetensors"]))
        content = bytearray(path.read_bytes())
        offset = data.draw(st.integers(0, min(500, len(content) - 1)))
        content[offset] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
    said = ""
    try:
        load_model(str(folder), device="cpu")
    except CollabEditError as error:
        said = str(error)
    assert "\n" not in said
