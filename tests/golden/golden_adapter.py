"""LoRA adapters as PEFT writes them, on tiny/llama and tiny/llama_bias, with the numbers they give.

usage: python tests/golden/make_golden.py adapter [--model DIR/smollm2]      (after `tiny`)
Makes adapter/<variant>/{adapter_config.json, adapter_model.safetensors, adapter_golden.safetensors} and print_trainable.json. Each adapter
folder is loaded anew with PeftModel.from_pretrained before its numbers are computed."""
import contextlib
import io
import json
import math
import os

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from golden_common import HERE, versions, write_json, write_tensors
from golden_tiny import load

COMMON = dict(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, bias="none")
VARIANTS = {
    "adapter": ("llama", dict(COMMON, target_modules=["q_proj", "v_proj"])),
    "adapter_all_linear": ("llama_bias", dict(COMMON, target_modules="all-linear", use_rslora=True, bias="lora_only")),
    "adapter_modules_to_save": ("llama", dict(COMMON, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"])),
    "adapter_regex": ("llama", dict(COMMON, target_modules=r".*layers\.[01]\..*(q|o)_proj")),
    "adapter_patterns": ("llama", dict(COMMON, target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"down_proj": 2},
                                       alpha_pattern={r"layers.0.self_attn.q_proj": 16}, layers_to_transform=[0, 2])),
    "adapter_tied": ("llama_tied", dict(COMMON, target_modules=["k_proj", "gate_proj"], bias="none")),
}


def perturb(model, seed: int) -> None:
    """Gives every trainable parameter values of its own: lora_B is no longer zero, saved modules and biases have moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                noise = torch.randn(p.shape, generator=generator) * 0.2
                p.copy_(noise if "lora_B" in name else p + noise * 0.5)


def make(args) -> None:
    for number, (name, (base, options)) in enumerate(VARIANTS.items()):
        folder = HERE / "adapter" / name
        torch.manual_seed(300 + number)
        model = load(HERE / "tiny" / base)
        model.config._name_or_path = model.name_or_path = f"tiny/{base}"
        ids = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(400 + number))
        with torch.no_grad():
            logits_base = model(input_ids=ids).logits
        peft_model = get_peft_model(model, LoraConfig(**options))
        perturb(peft_model, 500 + number)
        with torch.no_grad():
            logits_unsaved = peft_model(input_ids=ids).logits
        peft_model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        os.chmod(folder / "adapter_model.safetensors", 0o644)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == f"tiny/{base}", config
        if isinstance(config["target_modules"], list):                # a set in PEFT: its order is not fixed
            config["target_modules"].sort()
        (folder / "adapter_config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")

        loaded = PeftModel.from_pretrained(load(HERE / "tiny" / base), folder, is_trainable=True).eval()
        out = loaded(input_ids=ids, labels=ids)
        assert torch.allclose(out.logits, logits_unsaved, atol=1e-5), f"{name}: not everything that was trained is in the saved file"
        out.loss.backward()
        tensors = {"input_ids": ids, "logits_base": logits_base, "logits_adapter": out.logits, "loss": out.loss.reshape(1)}
        for parameter, p in loaded.named_parameters():
            assert (p.grad is not None) == p.requires_grad, parameter
            if p.requires_grad:
                tensors[f"grad.{parameter}"] = p.grad
        with torch.no_grad(), loaded.disable_adapter():
            tensors["logits_disabled"] = loaded(input_ids=ids).logits
        merged = loaded.merge_and_unload()
        with torch.no_grad():
            tensors["logits_merged"] = merged(input_ids=ids).logits
        assert (tensors["logits_merged"] - out.logits).abs().max() < 1e-4, name
        write_tensors(folder / "adapter_golden.safetensors", tensors)
        away = (out.logits - logits_base).abs().max().item()
        print(f"{name}: moves logits by {away:.3f}; disabled equals base: {torch.equal(tensors['logits_disabled'], logits_base)}; "
              f"merged off by {(tensors['logits_merged'] - out.logits).abs().max().item():.1e}; loss {out.loss.item():.4f}")
    write_json(HERE / "print_trainable.json", trainable_facts(args))


def printed(model) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        model.print_trainable_parameters()
    return text.getvalue()


def parameters(model) -> list:
    return [{"name": n, "shape": list(p.shape), "requires_grad": p.requires_grad} for n, p in model.named_parameters()]


def trainable_facts(args) -> dict:
    rows = []
    bases = {name: HERE / "tiny" / name for name in ("llama", "llama_tied", "llama3", "llama_bias", "mistral")}
    if args.model is not None:
        bases["smollm2-135m-instruct"] = args.model
    for base, folder in bases.items():
        config = AutoConfig.from_pretrained(folder)
        for options in (dict(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"]), dict(r=16, lora_alpha=32, target_modules="all-linear"),
                        dict(r=8, target_modules=None), dict(r=4, target_modules=["q_proj"], bias="all"),
                        dict(r=4, target_modules=["q_proj"], bias="lora_only"), dict(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
                        dict(r=4, target_modules=["q_proj", "lm_head"]), dict(r=4, target_modules=["embed_tokens", "v_proj"])):
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
                peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
            trainable, everything = peft_model.get_nb_trainable_parameters()
            rows.append({"base": base, "options": options, "printed": printed(peft_model), "trainable": trainable, "all": everything,
                         "targeted": sorted(peft_model.targeted_module_names)[:7]})
    lists = {}
    for name in ("adapter", "adapter_all_linear", "adapter_modules_to_save"):
        base, options = VARIANTS[name]
        lists[name] = parameters(get_peft_model(load(HERE / "tiny" / base), LoraConfig(**options)))
    config = dict(COMMON, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(0)
    model = get_peft_model(load(HERE / "tiny" / "llama"), LoraConfig(**config))
    named = dict(model.named_parameters())
    a = {n: p for n, p in named.items() if "lora_A" in n}
    bound = math.sqrt(6 / ((1 + 5) * 32))
    assert all(p.abs().max() <= bound for p in a.values()) and max(p.abs().max().item() for p in a.values()) > 0.95 * bound
    assert all(torch.equal(p, torch.zeros_like(p)) for n, p in named.items() if "lora_B" in n)
    first = next(iter(a.values()))
    # which draws of the global generator A gets: A's and B's nn.Linear are initialised first, then A once more
    torch.manual_seed(0)
    nn.Linear(32, 4, bias=False); nn.Linear(4, 32, bias=False)
    replay = nn.init.kaiming_uniform_(torch.empty(4, 32), a=math.sqrt(5))
    init = {"lora_A": "kaiming_uniform_(a=sqrt(5)): uniform in +-1/sqrt(in_features)", "lora_B": "zeros", "bound_for_in_features_32": bound,
            "draw_order_A_linear_B_linear_then_A_again": torch.equal(first, replay),
            "first_lora_A_after_manual_seed_0": first.flatten().tolist()}
    print({k: v for k, v in init.items() if k != "first_lora_A_after_manual_seed_0"})
    return {"made_with": versions(), "init": init, "named_parameters": lists, "printed": rows}
