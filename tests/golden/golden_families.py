"""Tiny models of every family that Llama's code does not cover, each with a LoRA adapter and ten training steps of it.

usage: python tests/golden/make_golden.py families
Makes families/<name>/{config.json, config_v5.json, model.safetensors, golden.safetensors, lora/, lora_golden.safetensors} and
families/facts.json. As in golden_tiny.py everything is computed with the model that transformers loads from the written folder, after
checking that config.json (as published models have it) and config_v5.json (as transformers 5 writes it) give the same logits bit for bit.
A family's `changes` are its specialities: each is left out once, and the logits must then move by more than 0.05."""
import copy
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GemmaConfig, GPT2Config, GraniteConfig, LlamaConfig,
                          Olmo2Config, Phi3Config, Qwen2Config, Qwen3Config, SmolLM3Config)
from transformers.activations import ACT2FN

from golden_common import HERE, greedy, versions, write_json, write_tensors
from golden_tiny import batch, load

FOLDER = HERE / "families"
LEAST_CHANGE, LEAST_MARGIN, LEAST_MARGIN_TRAINED = 0.05, 1e-3, 5e-3
SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             rms_norm_eps=1e-6, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2)
WIDE_HEADS = dict(SMALL, head_dim=16)
GEMMA = dict(WIDE_HEADS, bos_token_id=2, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True)
PHI3 = dict(SMALL, pad_token_id=0, rms_norm_eps=1e-5)
PHI3_LONG = dict(PHI3, sliding_window=4096, original_max_position_embeddings=16, max_position_embeddings=64)
FULL, SLIDING = "full_attention", "sliding_attention"


def rope(theta: float = 10000.0, **more) -> dict:
    return dict(dict(rope_type="default", rope_theta=theta), **more)


# --- what is left out: functions that change a copy of a model; `config(...)` builds it anew with other options instead ------------------

def config(**changes):
    """The same weights under another configuration."""
    def make(model):
        options = model.config.to_dict()
        options.update(changes)
        changed = type(model.config)(**options)
        changed._attn_implementation = "eager"
        other = type(model)(changed).eval()
        other.load_state_dict(model.state_dict())
        return other
    return make


def weights(ending: str, value: float = 0.0):
    """Every parameter whose name ends so, set to one value."""
    def make(model):
        other, found = copy.deepcopy(model), 0
        with torch.no_grad():
            for name, p in other.named_parameters():
                if name.endswith(ending):
                    p.fill_(value)
                    found += 1
        assert found, ending
        return other
    return make


def modules(ending: str, change):
    """change(parent, name, module) for every module whose name ends so."""
    def make(model):
        other, found = copy.deepcopy(model), 0
        for name, module in list(other.named_modules()):
            if name.endswith(ending):
                parent, _, last = name.rpartition(".")
                change(other.get_submodule(parent), last, module)
                found += 1
        assert found, ending
        return other
    return make


def identity(parent, name, module):
    setattr(parent, name, nn.Identity())


def activation(name: str, attribute: str):
    return modules("mlp", lambda parent, last, module: setattr(module, attribute, ACT2FN[name]))


def norm_weight_minus_one(model):
    """Gemma's norms multiply by 1 + weight; this copy multiplies by the weight alone."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in other.named_parameters():
            if "norm" in name:
                p.sub_(1.0)
    return other


def swap_halves(parent, name, module):
    with torch.no_grad():
        module.weight.copy_(module.weight.roll(module.weight.shape[0] // 2, 0))


class NormPerHead(nn.Module):
    """OLMo 2's norm applied to each head by itself instead of to all heads together."""

    def __init__(self, norm, heads):
        super().__init__()
        self.norm, self.heads = norm, heads

    def forward(self, x):
        parts = x.float().unflatten(-1, (self.heads, -1))
        parts = parts * torch.rsqrt(parts.pow(2).mean(-1, keepdim=True) + self.norm.variance_epsilon)
        return self.norm.weight * parts.flatten(-2)


def no_scale(model):
    other = copy.deepcopy(model)
    other.model.embed_tokens.embed_scale.fill_(1.0)
    return other


LONGROPE = dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.2, 1.5, 2.0], long_factor=[1.1, 1.8, 3.0, 5.0],
                original_max_position_embeddings=16, partial_rotary_factor=1.0)
PARTIAL = dict(LONGROPE, short_factor=[1.0, 1.0], long_factor=[1.3, 4.0], partial_rotary_factor=0.5)
YARN = rope(100.0, rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
GEMMA3_ROPE = {FULL: rope(1000000.0, rope_type="linear", factor=8.0), SLIDING: rope(10000.0)}


class Family:
    """config_class(**options), the keys of config.json that published models leave out (`drop`) or have (`put`), and its specialities."""

    def __init__(self, config_class, options, changes, drop=(), put=None, std=0.15, small_changes=None):
        self.config_class, self.options, self.changes = config_class, options, changes
        self.drop, self.put, self.std, self.small_changes = drop, put or {}, std, small_changes or {}


FAMILIES = {
    "smollm3": Family(
        SmolLM3Config, dict(SMALL, no_rope_layers=[1, 0, 1], rope_parameters=rope(5000000.0), pad_token_id=0),
        {"layers_without_rope": config(no_rope_layers=[1, 1, 1]), "which_layers": config(no_rope_layers=[1, 1, 0]),
         "rope_in_the_other_layers": config(no_rope_layers=[0, 0, 0])},
        drop=["tie_word_embeddings"], put={"layer_types": [FULL] * 3, "max_window_layers": 28, "pretraining_tp": 2}),
    "qwen2": Family(
        Qwen2Config, dict(SMALL, tie_word_embeddings=False, rope_parameters=rope(1000000.0), max_window_layers=1),
        {"q_bias": weights("q_proj.bias"), "k_bias": weights("k_proj.bias"), "v_bias": weights("v_proj.bias"),
         "window_not_used": config(use_sliding_window=True, sliding_window=8, layer_types=[SLIDING] * 3)},
        drop=["rope_scaling"], put={"sliding_window": 8}),
    "qwen2_window": Family(
        Qwen2Config, dict(SMALL, tie_word_embeddings=False, rope_parameters=rope(1000000.0), use_sliding_window=True, sliding_window=8,
                          max_window_layers=1),
        {"window": config(layer_types=[FULL] * 3), "full_layers": config(layer_types=[SLIDING] * 3),
         "which_layers": config(layer_types=[SLIDING, FULL, FULL]), "window_of_8_and_not_9": config(sliding_window=9)},
        drop=["rope_scaling"]),
    "qwen3": Family(
        Qwen3Config, dict(WIDE_HEADS, tie_word_embeddings=True, rope_parameters=rope(1000000.0)),
        {"q_norm": modules("q_norm", identity), "k_norm": modules("k_norm", identity), "q_norm_weight": weights("q_norm.weight", 1.0),
         "k_norm_weight": weights("k_norm.weight", 1.0)},
        put={"max_window_layers": 28, "use_sliding_window": False, "sliding_window": None}),
    "gemma": Family(
        GemmaConfig, dict(GEMMA, num_key_value_heads=1, rope_parameters=rope()),
        {"embedding_scale": no_scale, "one_in_the_norms": norm_weight_minus_one, "gelu_and_not_silu": activation("silu", "act_fn")},
        drop=["tie_word_embeddings", "use_bidirectional_attention"], put={"hidden_act": "gelu"},
        small_changes={"gelu_by_tanh_and_not_erf": activation("gelu", "act_fn")}),
    "gemma2": Family(
        Gemma2Config, dict(GEMMA, rope_parameters=rope(), attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
                           query_pre_attn_scalar=24, sliding_window=8),
        {"attention_softcap": config(attn_logit_softcapping=None), "final_softcap": config(final_logit_softcapping=None),
         "query_scale_of_24_and_not_16": config(query_pre_attn_scalar=16), "window": config(layer_types=[FULL] * 3),
         "full_layers": config(layer_types=[SLIDING] * 3), "which_layers": config(layer_types=[FULL, SLIDING, FULL]),
         "window_of_8_and_not_9": config(sliding_window=9), "embedding_scale": no_scale, "one_in_the_norms": norm_weight_minus_one,
         "norm_after_attention": modules("post_attention_layernorm", identity),
         "norm_after_mlp": modules("post_feedforward_layernorm", identity)},
        drop=["tie_word_embeddings", "use_bidirectional_attention", "rope_scaling"],
        put={"hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"},
        std=0.3),
    "gemma3": Family(
        Gemma3TextConfig, dict(GEMMA, rope_parameters=GEMMA3_ROPE, query_pre_attn_scalar=24, sliding_window=8,
                               layer_types=[SLIDING, SLIDING, FULL]),
        {"q_norm": modules("q_norm", identity), "k_norm": modules("k_norm", identity), "q_norm_weight": weights("q_norm.weight"),
         "k_norm_weight": weights("k_norm.weight"), "query_scale_of_24_and_not_16": config(query_pre_attn_scalar=16),
         "window": config(sliding_window=1000), "window_of_8_and_not_9": config(sliding_window=9),
         "full_layers": config(layer_types=[SLIDING] * 3), "which_layers": config(layer_types=[SLIDING, FULL, SLIDING]),
         "local_base": config(rope_parameters={FULL: GEMMA3_ROPE[FULL], SLIDING: rope(1000000.0)}),
         "global_base": config(rope_parameters={FULL: dict(GEMMA3_ROPE[FULL], rope_theta=10000.0), SLIDING: rope()}),
         "linear_factor": config(rope_parameters={FULL: rope(1000000.0), SLIDING: rope()}),
         "linear_factor_on_global_layers_only": config(
             rope_parameters={FULL: GEMMA3_ROPE[FULL], SLIDING: dict(GEMMA3_ROPE[FULL], rope_theta=10000.0)}),
         "embedding_scale": no_scale, "one_in_the_norms": norm_weight_minus_one,
         "norm_after_attention": modules("post_attention_layernorm", identity),
         "norm_after_mlp": modules("post_feedforward_layernorm", identity)},
        drop=["tie_word_embeddings", "use_bidirectional_attention", "_sliding_window_pattern"],
        put={"sliding_window_pattern": 3, "rope_local_base_freq": 10000.0, "cache_implementation": "hybrid"}, std=0.25),
    "phi3": Family(
        Phi3Config, dict(PHI3, sliding_window=8, original_max_position_embeddings=2048, rope_parameters=rope(partial_rotary_factor=1.0)),
        {"window": config(sliding_window=None), "window_of_8_and_not_9": config(sliding_window=9),
         "gate_before_up": modules("gate_up_proj", swap_halves), "order_of_q_k_v": modules("qkv_proj", swap_halves)},
        put={"attention_bias": False}),
    "phi3_longrope": Family(
        Phi3Config, dict(PHI3_LONG, rope_parameters=LONGROPE),
        {"longrope": config(rope_parameters=rope(partial_rotary_factor=1.0)),
         "attention_factor": config(rope_parameters=dict(LONGROPE, attention_factor=1.0)),
         "long_factors": config(rope_parameters=dict(LONGROPE, long_factor=LONGROPE["short_factor"]))},
        put={"attention_bias": False}, std=0.3),
    "phi3_partial": Family(
        Phi3Config, dict(PHI3_LONG, tie_word_embeddings=True, rope_parameters=PARTIAL),
        {"partial_rotation": config(rope_parameters=dict(PARTIAL, partial_rotary_factor=1.0, short_factor=[1.0] * 4,
                                                        long_factor=[1.3, 4.0, 4.0, 4.0])),
         "attention_factor": config(rope_parameters=dict(PARTIAL, attention_factor=1.0)),
         "long_factors": config(rope_parameters=dict(PARTIAL, long_factor=PARTIAL["short_factor"]))},
        put={"attention_bias": False, "partial_rotary_factor": 0.5}, std=0.3),
    "olmo2": Family(
        Olmo2Config, dict(SMALL, pad_token_id=0, rope_parameters=rope(500000.0)),
        {"q_norm": modules("q_norm", identity), "k_norm": modules("k_norm", identity), "q_norm_weight": weights("q_norm.weight", 1.0),
         "k_norm_weight": weights("k_norm.weight", 1.0), "norm_after_attention": modules("post_attention_layernorm", identity),
         "norm_after_mlp": modules("post_feedforward_layernorm", identity),
         "q_norm_over_all_heads": modules("q_norm", lambda parent, name, module: setattr(parent, name, NormPerHead(module, 4))),
         "k_norm_over_all_heads": modules("k_norm", lambda parent, name, module: setattr(parent, name, NormPerHead(module, 2)))}),
    "granite": Family(
        GraniteConfig, dict(SMALL, pad_token_id=0, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=rope(),
                            embedding_multiplier=6.0, attention_multiplier=0.125, residual_multiplier=0.4, logits_scaling=1.6),
        {"embedding_multiplier": config(embedding_multiplier=1.0), "attention_multiplier": config(attention_multiplier=8 ** -0.5),
         "residual_multiplier": config(residual_multiplier=1.0), "logits_scaling": config(logits_scaling=1.0)}, std=0.25),
    "gpt2": Family(
        GPT2Config, dict(vocab_size=96, n_positions=32, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2),
        {"positions": weights("wpe.weight"), "c_attn_bias": weights("c_attn.bias"), "attn_c_proj_bias": weights("attn.c_proj.bias"),
         "c_fc_bias": weights("c_fc.bias"), "mlp_c_proj_bias": weights("mlp.c_proj.bias"), "ln_1_bias": weights("ln_1.bias"),
         "ln_2_bias": weights("ln_2.bias"), "ln_f_bias": weights("ln_f.bias"), "gelu_and_not_silu": activation("silu", "act")},
        drop=["scale_attn_by_inverse_layer_idx", "scale_attn_weights", "use_cache"], put={"n_ctx": 32},
        small_changes={"gelu_by_tanh_and_not_erf": activation("gelu", "act")}),
    "gpt2_scaled": Family(
        GPT2Config, dict(vocab_size=96, n_positions=32, n_embd=32, n_layer=3, n_head=4, n_inner=48, bos_token_id=1, eos_token_id=2,
                         scale_attn_by_inverse_layer_idx=True),
        {"scale_by_layer": config(scale_attn_by_inverse_layer_idx=False)}, put={"n_ctx": 32}, std=0.25),
    "llama_yarn": Family(
        LlamaConfig, dict(WIDE_HEADS, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=False,
                          rope_parameters=YARN),
        {"yarn": config(rope_parameters=rope(100.0)), "attention_factor": config(rope_parameters=dict(YARN, attention_factor=1.0)),
         "ramp": config(rope_parameters=rope(100.0, rope_type="linear", factor=4.0))}),
}
DROPPED_EVERYWHERE = ("rope_parameters", "dtype", "layer_types", "transformers_version")
VARIANTS = ("qwen2_window", "phi3_longrope", "phi3_partial", "gpt2_scaled", "llama_yarn")    # of a family above: their adapters have rank 1
GPT2_DROPPED = ("tie_word_embeddings", "add_cross_attention", "rope_scaling", "rope_theta", "pad_token_id", "reorder_and_upcast_attn")


# --- models -------------------------------------------------------------------------------------------------------------------------------

def randomise(model, seed: int, std: float) -> None:
    """Draws every parameter anew: matrices N(0, std), biases N(0, 0.15), norms' weights 1 + N(0, 0.15).

    Gemma's norms multiply by 1 + weight, so theirs are N(0, 0.15). Under a tied head the last norm multiplies by N(0, 1): with positive
    factors the last token's own row would always win."""
    generator = torch.Generator().manual_seed(seed)
    around_zero = "gemma" in model.config.model_type
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0.0, std if p.dim() > 1 else 0.15, generator=generator)
            if not around_zero and name.endswith("weight") and ("norm" in name or "ln_" in name):
                p.add_(1.0)
            if model.config.tie_word_embeddings and name.endswith(("model.norm.weight", "ln_f.weight")):
                p.normal_(-1.0 if around_zero else 0.0, 1.0, generator=generator)


def save_as_hub(name: str, model, folder: Path) -> None:
    """save_pretrained, then config.json rewritten as published models of the family have it; config_v5.json keeps the original."""
    family = FAMILIES[name]
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    (folder / "config_v5.json").write_text(path.read_text())
    keys = json.loads(path.read_text())
    parameters = copy.deepcopy(keys.get("rope_parameters"))
    gpt2 = keys["model_type"] == "gpt2"
    for key in DROPPED_EVERYWHERE + (("head_dim",) if "head_dim" not in family.options else ()):
        keys.pop(key, None)
    if parameters is not None:
        parameters = parameters.get(FULL, parameters)
        keys["rope_theta"] = parameters.pop("rope_theta")
        parameters.pop("partial_rotary_factor", None)
        if keys["model_type"] in ("phi3", "llama"):        # the older name of the key, which models of this kind still have
            parameters["type"] = parameters.pop("rope_type")
        if "original_max_position_embeddings" in keys:
            parameters.pop("original_max_position_embeddings", None)
        keys["rope_scaling"] = None if "default" in parameters.values() else parameters
    keys["torch_dtype"] = "float32"
    if keys.get("pad_token_id", 0) is None:
        del keys["pad_token_id"]
    for key in (*family.drop, *(GPT2_DROPPED if gpt2 else ())):
        keys.pop(key, None)
    if gpt2 and keys.get("n_inner", 0) is None:
        del keys["n_inner"]
    keys.update(family.put)
    path.write_text(json.dumps(dict(sorted(keys.items())), indent=2) + "\n")
    if name == "gpt2_scaled":                               # the layout of the first published GPT-2 files
        old = {k.removeprefix("transformer."): v for k, v in load_file(folder / "model.safetensors").items()}
        for layer in range(model.config.n_layer):
            old[f"h.{layer}.attn.bias"] = torch.ones(32, 32).tril()[None, None]
        save_file({k: old[k] for k in sorted(old)}, folder / "model.safetensors", metadata={"format": "pt"})
    os.chmod(folder / "model.safetensors", 0o644)


def check_both_configs(folder: Path, model, ids) -> None:
    """config.json and config_v5.json, read by transformers, give the same model; and the file holds the very weights that were made."""
    with tempfile.TemporaryDirectory() as other:
        shutil.copy(folder / "config_v5.json", Path(other) / "config.json")
        shutil.copy(folder / "model.safetensors", other)
        old, new = load(folder), load(Path(other))
    keys = [{k: v for k, v in m.config.to_dict().items() if not k.startswith("_")} for m in (old, new)]
    for key in keys[1]:
        assert without_type(keys[0][key]) == without_type(keys[1][key]), (key, keys[0][key], keys[1][key])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = [m.eval()(input_ids=ids).logits for m in (old, new, model)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2]), folder.name


def without_type(value):
    return {k: v for k, v in value.items() if k != "type"} if isinstance(value, dict) else value


def switches(model) -> bool:
    """Whether the model's RoPE frequencies depend on the length of the sequence."""
    parameters = getattr(model.config, "rope_parameters", None) or {}
    return parameters.get("rope_type") == "longrope"


def continuation(model, prompt: list[int], steps: int) -> tuple[list[int], float]:
    """Greedy continuation through the cache, checked against the whole sequence at once.

    With longrope the cache is computed anew when the sequence grows past original_max_position_embeddings, as in transformers' generate."""
    if not switches(model):
        answer, margin = greedy(model, prompt, steps)
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([prompt + answer])).logits[0].argmax(-1).tolist()
        assert whole[len(prompt) - 1:-1] == answer
        return answer, margin
    answer, margin = [], float("inf")
    with torch.no_grad():
        for _ in range(steps):
            top = model(input_ids=torch.tensor([prompt + answer])).logits[0, -1].topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            answer.append(top.indices[0].item())
        made = model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                              max_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert made[0, len(prompt):].tolist() == answer
    return answer, margin


def rope_tensors(model) -> dict:
    """inv_freq and the factor on cos and sin; of both kinds of layer (Gemma 3) or lengths (longrope)."""
    rotary = getattr(getattr(model, "model", None), "rotary_emb", None)
    if rotary is None:
        return {}
    if hasattr(rotary, "full_attention_inv_freq"):
        return {f"inv_freq.{kind}": getattr(rotary, f"{kind}_inv_freq") for kind in (FULL, SLIDING)}
    scale = {"attention_factor": torch.tensor([float(rotary.attention_scaling)])}
    if switches(model):
        return scale | {"inv_freq.short": rotary.original_inv_freq, "inv_freq.long": rotary.long_inv_freq}
    return ({} if rotary.attention_scaling == 1.0 else scale) | {"inv_freq": rotary.inv_freq}


def base_numbers(name: str, model, seed: int):
    """The tensors of golden.safetensors and the family's facts."""
    family = FAMILIES[name]
    ids, mask, labels = batch(96, seed)
    out = model(input_ids=ids, attention_mask=mask, labels=labels)
    out.loss.backward()
    logits = out.logits.detach() * mask[..., None]
    prompts = [ids[0, :10].tolist(), ids[1, :5].tolist()]
    answers, margins = zip(*(continuation(model, p, 12) for p in prompts))
    tensors = {
        "input_ids": ids, "attention_mask": mask, "labels": labels, "logits": logits, "loss": out.loss.reshape(1),
        "prompt.0": torch.tensor(prompts[0]), "prompt.1": torch.tensor(prompts[1]), "greedy": torch.tensor(answers), **rope_tensors(model),
    }
    for parameter, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 1e-6, parameter
        tensors[f"grad.{parameter}"] = p.grad
    if switches(model):                                     # below original_max_position_embeddings: the short factors
        short, short_mask, short_labels = ids[:, :12], mask[:, :12].clone(), labels[:, :12].clone()
        short_mask[1, 9:], short_labels[1, 9:] = 0, -100
        with torch.no_grad():
            out_short = model(input_ids=short, attention_mask=short_mask, labels=short_labels)
        tensors |= {"short.input_ids": short, "short.attention_mask": short_mask, "short.labels": short_labels,
                    "short.logits": out_short.logits * short_mask[..., None], "short.loss": out_short.loss.reshape(1)}
    model.zero_grad()
    changes = {}
    for label, change in (family.changes | family.small_changes).items():
        with torch.no_grad():
            changed = change(model)(input_ids=ids, attention_mask=mask).logits * mask[..., None]
        changes[label] = (changed - logits).abs().max().item()
    facts = {"loss": out.loss.item(), "parameters": model.num_parameters(), "greedy_smallest_margin": min(margins),
             "largest_change_without_it": changes, "parameter_names": [n for n, _ in model.named_parameters()]}
    return tensors, facts


# --- LoRA ---------------------------------------------------------------------------------------------------------------------------------

def save_adapter(peft_model, folder: Path, base: str) -> None:
    """PEFT's save_pretrained with the base's name instead of a path, lists in a fixed order."""
    for entry in peft_model.peft_config.values():
        entry.base_model_name_or_path = base
    peft_model.base_model.model.config._name_or_path = peft_model.base_model.model.name_or_path = base
    peft_model.save_pretrained(folder)
    for path in (folder, *(p for p in folder.iterdir() if p.is_dir())):
        (path / "README.md").unlink(missing_ok=True)
        if (path / "adapter_config.json").exists():
            tidy_adapter(path)


def tidy_adapter(folder: Path) -> None:
    os.chmod(folder / "adapter_model.safetensors", 0o644)
    keys = json.loads((folder / "adapter_config.json").read_text())
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(keys.get(key), list):                 # sets in PEFT: their order is not fixed
            keys[key].sort()
    (folder / "adapter_config.json").write_text(json.dumps(dict(sorted(keys.items())), indent=2) + "\n")


def ten_steps(model, inputs: dict, optimizer=None) -> list[float]:
    """Ten steps of AdamW (1e-2, no weight decay, no clipping) on one full batch; the loss before each."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for _ in range(10):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def lora_numbers(peft_model, inputs: dict, prompts, make_optimizer=None):
    """Logits, loss and gradients with the adapter on; then ten steps, what they leave, and the greedy continuations after them.

    The ten steps are made once more in float64: the difference says how closely another float32 implementation can agree."""
    optimizer = make_optimizer(peft_model) if make_optimizer else None
    mask = inputs["attention_mask"][..., None]
    out = peft_model(**inputs)
    out.loss.backward()
    tensors = {"logits": out.logits.detach() * mask, "loss": out.loss.reshape(1)}
    for parameter, p in peft_model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, parameter
        if p.requires_grad:
            tensors[f"grad.{parameter}"] = p.grad.clone()
            assert p.grad.abs().max() > 1e-7, parameter
    peft_model.zero_grad()
    double = copy.deepcopy(peft_model).double()
    losses = ten_steps(peft_model, inputs, optimizer)
    double_losses = ten_steps(double, inputs, make_optimizer(double) if make_optimizer else None)
    tensors["losses"] = torch.tensor(losses)
    off = 0.0
    for (parameter, p), (_, q) in zip(peft_model.named_parameters(), double.named_parameters()):
        if p.requires_grad:
            tensors[f"after.{parameter}"] = p.detach().clone()
            off = max(off, (p.double() - q).abs().max().item())
    answers, margins = zip(*(continuation(peft_model, p, 12) for p in prompts))
    tensors["greedy"] = torch.tensor(answers)
    facts = {"loss": losses[0], "loss_after_ten_steps": losses[-1], "greedy_smallest_margin": min(margins),
             "float32_from_float64": {"losses": max(abs(a - b) for a, b in zip(losses, double_losses)), "after": off}}
    return tensors, facts


def make_lora(name: str, folder: Path, seed: int, inputs: dict, prompts, logits_base):
    """An adapter on every linear layer, saved by PEFT, loaded anew, and its numbers."""
    torch.manual_seed(seed)
    options = dict(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear")
    if name in VARIANTS:
        options.update(r=1, lora_alpha=2)
    if name.startswith("gpt2"):
        options["fan_in_fan_out"] = True
    peft_model = get_peft_model(load(folder), LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter, p in peft_model.named_parameters():
            if "lora_B" in parameter:
                p.normal_(0.0, 0.05, generator=generator)
    save_adapter(peft_model, folder / "lora", name)
    loaded = PeftModel.from_pretrained(load(folder), folder / "lora", is_trainable=True).eval()
    with torch.no_grad():
        merged = copy.deepcopy(loaded).merge_and_unload()
        logits_merged = merged(**inputs).logits * inputs["attention_mask"][..., None]
    tensors, facts = lora_numbers(loaded, inputs, prompts)
    tensors["logits_merged"] = logits_merged
    assert (logits_merged - tensors["logits"]).abs().max() < 1e-4, name
    facts["moves_logits_by"] = (tensors["logits"] - logits_base).abs().max().item()
    assert facts["moves_logits_by"] > LEAST_CHANGE, name
    return tensors, facts


def monotonous(answers) -> bool:
    """A continuation of one or two tokens over and over hardly tests the cache."""
    return any(len(set(answer)) < 4 for answer in answers.tolist())


def make_family(name: str, seed: int) -> dict | str:
    """Writes a family's files and returns its facts, or says why this seed will not do."""
    family = FAMILIES[name]
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(family.config_class(**family.options), dtype=torch.float32)
    randomise(made, seed, family.std)
    save_as_hub(name, made, folder)
    check_both_configs(folder, made, batch(96, seed)[0])
    model = load(folder)
    tensors, facts = base_numbers(name, model, seed)
    if facts["greedy_smallest_margin"] < LEAST_MARGIN or monotonous(tensors["greedy"]):
        return f"margin {facts['greedy_smallest_margin']}, {tensors['greedy'].tolist()}"
    small = {k: v for k, v in facts["largest_change_without_it"].items() if v < (1e-4 if k in family.small_changes else LEAST_CHANGE)}
    if small:
        return f"too small {small}"
    inputs = {k: tensors[k] for k in ("input_ids", "attention_mask", "labels")}
    prompts = [tensors["prompt.0"].tolist(), tensors["prompt.1"].tolist()]
    lora_tensors, lora_facts = make_lora(name, folder, seed, inputs, prompts, tensors["logits"])
    if lora_facts["greedy_smallest_margin"] < LEAST_MARGIN_TRAINED or monotonous(lora_tensors["greedy"]):
        return f"after training: margin {lora_facts['greedy_smallest_margin']}, {lora_tensors['greedy'].tolist()}"
    if lora_facts["float32_from_float64"]["after"] > 5e-5:
        return f"rounding decides a step: {lora_facts['float32_from_float64']}"
    write_tensors(folder / "golden.safetensors", tensors)
    write_tensors(folder / "lora_golden.safetensors", lora_tensors)
    return {"seed": seed, **facts, "lora": lora_facts}


def make(args) -> None:
    facts = {"made_with": versions()}
    for number, name in enumerate(FAMILIES):
        for seed in range(1000 + 100 * number, 1100 + 100 * number):
            result = make_family(name, seed)
            if isinstance(result, dict):
                break
            print(f"{name}: seed {seed}: {result}")
        assert isinstance(result, dict), name
        facts[name] = result
        print(name, {k: v for k, v in result.items() if k != "parameter_names"})
    write_json(FOLDER / "facts.json", facts)
