"""Tiny models of the Llama and Mistral families with their logits, losses, gradients and greedy continuations.

usage: python tests/golden/make_golden.py tiny
Makes tiny/<name>/{config.json, model.safetensors, golden.safetensors} and tiny/facts.json. config.json is written in the form the hub's
models have (rope_theta and rope_scaling at the top level), config_v5.json as transformers 5 writes it (rope_parameters); everything is computed with the model that transformers loads from
the written folder, after checking that it reads the same RoPE numbers."""
import json
import os

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from golden_common import HERE, greedy, versions, write_json, write_tensors

SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             rms_norm_eps=1e-5, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2)
ROPE = dict(rope_type="default", rope_theta=10000.0)
LLAMA3 = dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64, rope_theta=500000.0)
MODELS = {
    "llama": (LlamaConfig, dict(SMALL, tie_word_embeddings=False, rope_parameters=ROPE)),
    "llama_tied": (LlamaConfig, dict(SMALL, hidden_size=24, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
                                     rope_parameters=dict(ROPE, rope_theta=100000.0))),
    # head_dim differs from hidden_size / num_attention_heads: its 8 frequencies fall in all three branches of the llama3 rule
    "llama3": (LlamaConfig, dict(SMALL, head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "llama_bias": (LlamaConfig, dict(SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rope_parameters=ROPE)),
    "mistral": (MistralConfig, dict(SMALL, sliding_window=8, tie_word_embeddings=False, rope_parameters=ROPE)),
}
WITHOUT_HEAD_DIM = ("llama_tied", "mistral")    # as in SmolLM2's and Mistral-7B's published config.json


def randomise(model, seed: int, std: float = 0.15) -> None:
    """Draws every parameter anew: weights and biases N(0, std), norms 1 + N(0, std), so that nothing is trivially small or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0.0, std, generator=generator)
            if "norm" in name:
                p.add_(1.0)


def save_as_hub(model, folder, keep_head_dim: bool = True) -> None:
    """save_pretrained, then config.json rewritten with the keys that published models have; config_v5.json keeps the original."""
    model.save_pretrained(folder)
    os.chmod(folder / "model.safetensors", 0o644)
    rope = dict(model.config.rope_parameters)
    path = folder / "config.json"
    (folder / "config_v5.json").write_text(path.read_text())
    config = json.loads(path.read_text())
    if not keep_head_dim:
        del config["head_dim"]
    for key in ("rope_parameters", "dtype", "layer_types", "pad_token_id"):
        config.pop(key, None)
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = "float32"
    config["initializer_range"] = 0.02
    path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)
    read = AutoModelForCausalLM.from_pretrained(folder).config
    assert read.rope_parameters == model.config.rope_parameters, (read.rope_parameters, model.config.rope_parameters)
    assert read.head_dim == model.config.head_dim and read.dtype == torch.float32
    assert getattr(read, "sliding_window", None) == getattr(model.config, "sliding_window", None)


def load(folder):
    """The model as transformers loads it from the folder; plain (eager) attention in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def batch(vocab: int, seed: int):
    """input_ids, attention_mask and labels [2, 20]; the second row's last five positions are padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (2, 20), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 15:], mask[1, 15:] = 0, 0
    labels = torch.where(mask == 1, ids, -100)
    return ids, mask, labels


def make(args) -> None:
    facts = {"made_with": versions()}
    for number, (name, (config_class, options)) in enumerate(MODELS.items()):
        folder = HERE / "tiny" / name
        torch.manual_seed(number)
        model_class = LlamaForCausalLM if config_class is LlamaConfig else MistralForCausalLM
        model = model_class(config_class(**options))
        randomise(model, 100 + number)
        save_as_hub(model, folder, keep_head_dim=name not in WITHOUT_HEAD_DIM)
        model = load(folder)
        ids, mask, labels = batch(options["vocab_size"], 200 + number)
        out = model(input_ids=ids, attention_mask=mask, labels=labels)
        out.loss.backward()
        logits = out.logits.detach() * mask[..., None]
        prompts = [ids[0, :10].tolist(), ids[1, :5].tolist()]
        answers, margins = zip(*(greedy(model, p, 12) for p in prompts))
        assert min(margins) > 1e-3, (name, margins)
        for prompt, answer in zip(prompts, answers):            # the cache must agree with the whole sequence at once
            with torch.no_grad():
                whole = model(input_ids=torch.tensor([prompt + answer])).logits[0].argmax(-1).tolist()
            assert whole[len(prompt) - 1:-1] == answer, name
        tensors = {
            "input_ids": ids, "attention_mask": mask, "labels": labels, "logits": logits, "loss": out.loss.reshape(1),
            "prompt.0": torch.tensor(prompts[0]), "prompt.1": torch.tensor(prompts[1]), "greedy": torch.tensor(answers),
            "inv_freq": model.model.rotary_emb.inv_freq,
        }
        for parameter, p in model.named_parameters():
            assert p.grad is not None and p.grad.abs().max() > 0, parameter
            tensors[f"grad.{parameter}"] = p.grad
        write_tensors(folder / "golden.safetensors", tensors)
        facts[name] = {"loss": out.loss.item(), "parameters": model.num_parameters(), "greedy_smallest_margin": min(margins),
                       "parameter_names": [n for n, _ in model.named_parameters()]}
        facts[name].update(what_matters(name, model, ids, mask, logits))
        print(name, {k: v for k, v in facts[name].items() if k != "parameter_names"})
    write_json(HERE / "tiny" / "facts.json", facts)


def what_matters(name, model, ids, mask, logits) -> dict:
    """How far the logits move when the model's speciality is left out: a test that passes without it would be worthless."""
    if name not in ("llama3", "mistral"):
        return {}
    config = type(model.config)(**model.config.to_dict())
    if name == "llama3":
        config.rope_parameters = dict(rope_type="default", rope_theta=500000.0)
    else:
        config.sliding_window = None
    config._attn_implementation = "eager"
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed = other(input_ids=ids, attention_mask=mask).logits * mask[..., None]
    return {"largest_change_without_it": (changed - logits).abs().max().item()}
