#!/usr/bin/env python3
"""Writes a model with random weights in bfloat16, for measuring memory; it answers nonsense.

    python3 make_random.py qwen2|gemma3|llama-3.2-1b|llama-3.2-3b FOLDER

qwen2 and gemma3 have some 100 million parameters: qwen2 most of them in the embedding and the head, which are two; gemma3 in the
blocks, which have norms everywhere. The others have the published models' shapes (minutes; with PyTorch seconds, see
benches/peer/random_model.py, which takes names and shapes from here). The tokenizer is that of tiny-random, which `ftrepl model path
tiny-random` makes, with more tokens. Needs Python's standard library alone.
"""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

from make_llama32_3b import CONFIG as LLAMA_3B
from make_llama32_3b import bf16, write_shard

COMMON = {"torch_dtype": "bfloat16", "bos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
CONFIGS = {
    "qwen2": COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 73728,
        "tie_word_embeddings": False,
        "rope_theta": 1000000.0,
    },
    "gemma3": COMMON
    | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_hidden_layers": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "vocab_size": 8192,
        "query_pre_attn_scalar": 256,
        "sliding_window": 256,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
    },
    "llama-3.2-1b": LLAMA_3B | {"head_dim": 64, "hidden_size": 2048, "num_attention_heads": 32, "num_hidden_layers": 16},
    "llama-3.2-3b": LLAMA_3B,
}


def shapes(config):
    """Name and shape of every tensor."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    biases, gemma = config["model_type"] == "qwen2", config["model_type"] == "gemma3_text"
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for i in range(config["num_hidden_layers"]):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        for name, width in [("q", queries), ("k", keys), ("v", keys)]:
            yield f"{attention}.{name}_proj.weight", [width, hidden]
            if biases:
                yield f"{attention}.{name}_proj.bias", [width]
        yield f"{attention}.o_proj.weight", [hidden, queries]
        yield f"{mlp}.gate_proj.weight", [inner, hidden]
        yield f"{mlp}.up_proj.weight", [inner, hidden]
        yield f"{mlp}.down_proj.weight", [hidden, inner]
        norms = ["input_layernorm", "post_attention_layernorm"]
        if gemma:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
            yield f"{attention}.q_norm.weight", [head]
            yield f"{attention}.k_norm.weight", [head]
        for norm in norms:
            yield f"model.layers.{i}.{norm}.weight", [hidden]
    yield "model.norm.weight", [hidden]
    if not config.get("tie_word_embeddings", True):
        yield "lm_head.weight", [config["vocab_size"], hidden]


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in CONFIGS:
        sys.exit(__doc__)
    config, folder = CONFIGS[sys.argv[1]], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    normal = NormalDist(0.0, 0.02)
    quantiles = [bf16(normal.inv_cdf((i + 0.5) / 65536)) for i in range(65536)]
    write_shard(folder / "model.safetensors", list(shapes(config)), quantiles, random.Random(0))
    tiny = Path(subprocess.run(["ftrepl", "model", "path", "tiny-random"], check=True, capture_output=True, text=True).stdout.strip())
    for file in ["tokenizer_config.json", "chat_template.jinja"]:
        shutil.copy(tiny / file, folder)
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    # What the model says with its other tokens has to be text too.
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary.update({f"Ġt{i}": i for i in range(len(vocabulary), config["vocab_size"])})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
