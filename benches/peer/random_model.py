"""Models and adapters with random numbers, made by PyTorch in seconds, that both sides of benches/gpu load: the shapes of Llama 3.2,
weights in bfloat16 with standard deviation 0.02, and a tokenizer of words: "t7" is the token 7. Nothing is fetched.

Names and shapes are those of tests/large/make_random.py, which needs no PyTorch and takes minutes."""
import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "large"))
from make_random import CONFIGS, shapes  # noqa: E402

TINY = CONFIGS["llama-3.2-1b"] | {
    "head_dim": 16, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "vocab_size": 2048, "bos_token_id": 1792, "eos_token_id": [1793],
}
QUERIES_AND_VALUES = ["q_proj", "v_proj"]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config_of(name):
    """The configuration of "tiny" or of a model that make_random.py knows."""
    return TINY if name == "tiny" else CONFIGS[name]


def write_json(path, value):
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def generator(device):
    return torch.Generator(device).manual_seed(0)


def write_model(folder, name, device):
    """A model with its tokenizer in the Hugging Face layout. Matrices are drawn on the device."""
    config, random = config_of(name), generator(device)
    tensors = {}
    for tensor, shape in shapes(config):
        if len(shape) == 1:
            tensors[tensor] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            tensors[tensor] = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=random).cpu()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, config)
    write_json(folder / "config.json", config)


def write_tokenizer(folder, config):
    """A word a token, so that a text says exactly which tokens it is."""
    start, end = config["bos_token_id"], config["eos_token_id"][0]
    words = [f"t{i}" for i in range(config["vocab_size"])]
    words[start], words[end] = "<|begin_of_text|>", "<|end_of_text|>"
    special = [{"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
               for i in (start, end)]
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": words[end]},
    })
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": words[start], "eos_token": words[end], "pad_token": words[end],
        "model_max_length": config["max_position_embeddings"],
    })


def write_adapter(folder, name, model, targets, rank, device):
    """A LoRA adapter in PEFT's files for the model in the folder `model`. B is not zero as in a fresh one, so that the first loss depends
    on the adapter and every gradient of it is there from the first step."""
    config, random = config_of(name), generator(device)
    tensors = {}
    for tensor, shape in shapes(config):
        module = tensor.removesuffix(".weight")
        if module.rpartition(".")[2] not in targets:
            continue
        outputs, inputs = shape
        bound = 1 / math.sqrt(inputs)
        a = torch.empty(rank, inputs, device=device).uniform_(-bound, bound, generator=random)
        b = torch.empty(outputs, rank, device=device).normal_(0, 0.01, generator=random)
        tensors |= {f"base_model.model.{module}.lora_A.weight": a.cpu(), f"base_model.model.{module}.lora_B.weight": b.cpu()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model), "r": rank, "lora_alpha": 2 * rank,
        "lora_dropout": 0.0, "bias": "none", "target_modules": targets, "inference_mode": True,
    })
