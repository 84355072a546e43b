#!/usr/bin/env python3
"""Writes a model of the size and configuration of Llama-3.2-3B-Instruct with random weights: 6.4 GB in two shards.

    python3 make_llama32_3b.py FOLDER

Needs Python's standard library alone and less than 200 MB of memory. There is no tokenizer: the model is for measuring, it
answers nonsense. Matrices are normal with standard deviation 0.02 in bfloat16, norms are ones.
"""

import array
import json
import random
import struct
import sys
from pathlib import Path
from statistics import NormalDist

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 24,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
GENERATION = {
    "bos_token_id": 128000,
    "do_sample": True,
    "eos_token_id": [128001, 128008, 128009],
    "temperature": 0.6,
    "top_p": 0.9,
    "transformers_version": "4.45.0.dev0",
}
# Blocks from this one on are in the second shard.
SECOND_SHARD = 20
CHUNK = 1 << 22


def bf16(value):
    """The bits of the bfloat16 nearest to a number."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def shapes():
    """Name and shape of every tensor, in the order of the file."""
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    queries = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    yield "model.embed_tokens.weight", [CONFIG["vocab_size"], hidden]
    for i in range(CONFIG["num_hidden_layers"]):
        block = f"model.layers.{i}"
        yield f"{block}.input_layernorm.weight", [hidden]
        yield f"{block}.mlp.down_proj.weight", [hidden, inner]
        yield f"{block}.mlp.gate_proj.weight", [inner, hidden]
        yield f"{block}.mlp.up_proj.weight", [inner, hidden]
        yield f"{block}.post_attention_layernorm.weight", [hidden]
        yield f"{block}.self_attn.k_proj.weight", [keys, hidden]
        yield f"{block}.self_attn.o_proj.weight", [hidden, queries]
        yield f"{block}.self_attn.q_proj.weight", [queries, hidden]
        yield f"{block}.self_attn.v_proj.weight", [keys, hidden]
    yield "model.norm.weight", [hidden]


def shard_of(name):
    parts = name.split(".")
    return 1 if name == "model.norm.weight" or (parts[1] == "layers" and int(parts[2]) >= SECOND_SHARD) else 0


def elements(shape):
    return shape[0] * (shape[1] if len(shape) == 2 else 1)


def write_shard(path, tensors, quantiles, generator):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        end = offset + 2 * elements(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            if len(shape) == 1:
                array.array("H", [bf16(1.0)] * shape[0]).tofile(file)
                continue
            left = elements(shape)
            while left:
                count = min(left, CHUNK)
                # Sixteen random bits choose a quantile of the normal distribution.
                drawn = array.array("H", generator.randbytes(2 * count))
                array.array("H", map(quantiles.__getitem__, drawn)).tofile(file)
                left -= count
            print(name, flush=True)
    return offset


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.byteorder != "little":
        sys.exit("safetensors files are little-endian and this machine is not")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    normal = NormalDist(0.0, 0.02)
    quantiles = [bf16(normal.inv_cdf((i + 0.5) / 65536)) for i in range(65536)]
    generator = random.Random(0)
    weight_map, total = {}, 0
    for shard in (0, 1):
        file = f"model-0000{shard + 1}-of-00002.safetensors"
        tensors = [(name, shape) for name, shape in shapes() if shard_of(name) == shard]
        total += write_shard(folder / file, tensors, quantiles, generator)
        weight_map.update({name: file for name, _ in tensors})
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    for name, value in [
        ("model.safetensors.index.json", index),
        ("generation_config.json", GENERATION),
        # Last: a folder with a configuration is complete.
        ("config.json", CONFIG),
    ]:
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
