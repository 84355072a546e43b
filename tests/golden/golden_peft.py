"""PEFT's variants of LoRA on families/qwen2 (and gpt2, qwen3), LoRA+'s parameter groups, and several adapters combined.

usage: python tests/golden/make_golden.py peft        (after `families`)
Makes peft/<variant>/{adapter_config.json, adapter_model.safetensors, golden.safetensors}, peft/several/ and peft/facts.json. Adapters are
saved by PEFT and loaded anew before their numbers are computed. The input is the base's, cut to 12 tokens."""
import copy
import shutil
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file

from golden_adapter import perturb
from golden_common import HERE, versions, write_json, write_tensors
from golden_families import LEAST_CHANGE, LEAST_MARGIN_TRAINED, lora_numbers, monotonous, save_adapter, tidy_adapter
from golden_tiny import load

FOLDER = HERE / "peft"
COMMON = dict(task_type="CAUSAL_LM", r=2, lora_alpha=4, lora_dropout=0.0)
Q_V = ["q_proj", "v_proj"]
VARIANTS = {
    "dora": ("qwen2", dict(target_modules=["q_proj", "down_proj"], use_dora=True)),
    "dora_gpt2": ("gpt2", dict(target_modules=["c_attn"], use_dora=True, fan_in_fan_out=True)),
    "lora_bias": ("qwen2", dict(target_modules=Q_V, lora_bias=True)),
    "rslora": ("qwen2", dict(target_modules=Q_V, use_rslora=True)),
    "modules_to_save": ("qwen2", dict(target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    "layers": ("qwen2", dict(target_modules=Q_V, layers_to_transform=[0, 2], layers_pattern="layers")),
    "layers_gpt2": ("gpt2", dict(target_modules=["c_attn", "c_fc"], layers_to_transform=1, layers_pattern=["h"], fan_in_fan_out=True)),
    # PEFT writes the keys of patterns in alphabetical order, and the first that matches counts: given in that order here
    "patterns": ("qwen2", dict(target_modules=["q_proj", "v_proj", "down_proj"],
                               rank_pattern={"down_proj": 1, r"layers\.[12]\.self_attn\.(q|v)_proj": 4, "v_proj": 3},
                               alpha_pattern={r"^model\.layers\.0\..*": 16, "v_proj": 5})),
    "exclude": ("qwen2", dict(target_modules="all-linear", exclude_modules=r".*\.layers\.1\..*|.*\.mlp\..*")),
    "exclude_list": ("qwen2", dict(target_modules=["q_proj", "v_proj", "o_proj"],
                                   exclude_modules=["o_proj", "model.layers.2.self_attn.v_proj"])),
    "tokens": ("qwen2", dict(target_modules=["v_proj"], trainable_token_indices="embedding")),
    "tokens_both": ("qwen2", dict(target_modules=["v_proj"], trainable_token_indices="both")),
    "tokens_tied": ("qwen3", dict(target_modules=["v_proj"], trainable_token_indices="embedding")),
    "pissa": ("qwen2", dict(target_modules=["q_proj", "down_proj"], init_lora_weights="pissa")),
    "pissa_gpt2": ("gpt2", dict(target_modules=["c_attn"], init_lora_weights="pissa", fan_in_fan_out=True)),
    "olora": ("qwen2", dict(target_modules=["q_proj", "down_proj"], init_lora_weights="olora")),
    "loraplus": ("qwen2", dict(target_modules=Q_V, bias="lora_only", modules_to_save=["lm_head"])),
    "loraplus_embedding": ("qwen2", dict(target_modules=["v_proj", "embed_tokens"])),
    "head": ("qwen2", dict(target_modules=["q_proj", "lm_head"])),
    "random_start": ("qwen2", dict(target_modules=Q_V, init_lora_weights=False)),
    # "norm" is the ending of every norm's name; lm_head is in both lists, and then has no adapter
    "saved_norms": ("qwen2", dict(target_modules=["q_proj", "lm_head"], modules_to_save=["norm", "lm_head"])),
    "saved_gpt2": ("gpt2", dict(target_modules=["c_attn"], modules_to_save=["h.1.attn.c_proj", "h.1.mlp.c_fc"], fan_in_fan_out=True)),
    # power iterations from a random start, which no two programs draw alike: so many that nothing is left of it
    "pissa_niter": ("qwen2", dict(target_modules=["q_proj", "down_proj"], init_lora_weights="pissa_niter_300")),
    # how A was found before training is no matter to who loads it: a plain adapter
    "eva": ("qwen2", dict(target_modules=Q_V, init_lora_weights="eva")),
}
LORAPLUS = dict(lr=1e-3, loraplus_lr_ratio=16, loraplus_weight_decay=0.01)
HALF, ALL = dict(density=0.5), dict(density=1.0)
WEIGHTS = {"usual": [0.7, 0.3], "negative": [1.2, -0.5], "dare": [0.4, 0.9]}
# name: kind, weights, settings. DARE drops values at random, which no two programs do alike: with density 1 it keeps all of them
COMBINATIONS = {
    "linear": ("linear", "usual", {}), "cat": ("cat", "usual", {}), "svd": ("svd", "usual", dict(svd_rank=4)),
    "ties": ("ties", "usual", HALF), "magnitude_prune": ("magnitude_prune", "usual", HALF),
    "negative.linear": ("linear", "negative", {}),
    "ties_svd": ("ties_svd", "usual", dict(HALF, svd_rank=4)),
    "magnitude_prune_svd": ("magnitude_prune_svd", "usual", dict(HALF, svd_rank=4)),
    "negative.svd": ("svd", "negative", dict(svd_rank=8)),
    "frequency.ties": ("ties", "usual", dict(HALF, majority_sign_method="frequency")),
    "frequency.ties_svd": ("ties_svd", "usual", dict(HALF, svd_rank=4, majority_sign_method="frequency")),
    "dare_linear": ("dare_linear", "dare", ALL), "dare_ties": ("dare_ties", "dare", ALL),
    "dare_linear_svd": ("dare_linear_svd", "dare", dict(ALL, svd_rank=4)),
    "dare_ties_svd": ("dare_ties_svd", "dare", dict(ALL, svd_rank=6)),
}
CLAMPS = [0.2, 0.9, 1.0]


def base_inputs(base: str):
    """The base's folder, its input of 12 tokens (three of the second row padding), and two prompts."""
    folder = HERE / "families" / base
    golden = load_file(folder / "golden.safetensors")
    inputs = {k: golden[k][:, :12].clone() for k in ("input_ids", "attention_mask", "labels")}
    inputs["attention_mask"][1, 9:], inputs["labels"][1, 9:] = 0, -100
    return folder, inputs, [golden["prompt.0"].tolist(), golden["prompt.1"].tolist()]


def masked_logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits * inputs["attention_mask"][..., None]


def loraplus_optimizer(model):
    return create_loraplus_optimizer(model, torch.optim.AdamW, betas=(0.9, 0.999), eps=1e-8, **LORAPLUS)


def groups_of(model) -> list[dict]:
    """LoRA+'s parameter groups by name: A (with saved modules), embeddings, B with everything of one dimension, and of these what does not
    decay (biases, nn.LayerNorm)."""
    names = {id(p): n for n, p in model.named_parameters()}
    return [{"lr": g["lr"], "weight_decay": g["weight_decay"], "parameters": [names[id(p)] for p in g["params"]]}
            for g in loraplus_optimizer(model).param_groups]


def make_variant(name: str, seed: int):
    """Writes a variant's files and returns its facts, or says why this seed will not do."""
    base, given = VARIANTS[name]
    folder, inputs, prompts = base_inputs(base)
    options = dict(COMMON, **given)
    tokens = sorted({inputs["input_ids"][0, 2].item(), inputs["input_ids"][0, 7].item(), inputs["input_ids"][1, 4].item()})
    if options.get("trainable_token_indices") == "embedding":
        options["trainable_token_indices"] = tokens
    elif options.get("trainable_token_indices") == "both":
        options["trainable_token_indices"] = {"embed_tokens": tokens[:2], "lm_head": tokens[1:]}
    target = FOLDER / name
    shutil.rmtree(target, ignore_errors=True)
    tensors, logits_base = dict(inputs), masked_logits(load(folder), inputs)
    torch.manual_seed(seed)
    model = get_peft_model(load(folder), LoraConfig(**options)).eval()
    decomposed = options.get("init_lora_weights") not in (None, False, "eva")
    if decomposed:
        tensors["logits_base"] = logits_base
        tensors["logits_start"] = masked_logits(model, inputs)
        with model.disable_adapter():
            tensors["logits_residual"] = masked_logits(model, inputs)
        off = (tensors["logits_start"] - logits_base).abs().max().item()
        assert off < 1e-4 < LEAST_CHANGE < (tensors["logits_residual"] - logits_base).abs().max(), name
        save_adapter(model, target, base)
    else:
        for parameter, p in model.named_parameters():
            if "magnitude" in parameter:                    # before it is moved: the norms of the weight's rows
                tensors[f"start.{parameter}"] = p.detach().clone()
        perturb(model, seed)
        unsaved = masked_logits(model, inputs)
        save_adapter(model, target, base)
        model = PeftModel.from_pretrained(load(folder), target, is_trainable=True).eval()
        assert torch.allclose(masked_logits(model, inputs), unsaved, atol=1e-5), name
        assert (unsaved - logits_base).abs().max() > LEAST_CHANGE, name
        merged = masked_logits(copy.deepcopy(model).merge_and_unload(), inputs)
        assert (merged - unsaved).abs().max() < 1e-4, name
        if options.get("use_dora") or options.get("lora_bias"):
            tensors["logits_merged"] = merged
    plus = name.startswith("loraplus")
    facts = {"base": base, "seed": seed, "options": given | {k: options[k] for k in ("trainable_token_indices",) if k in options}}
    if plus:
        facts["loraplus"] = dict(LORAPLUS)
        facts["groups"] = groups_of(model)
    made, numbers = lora_numbers(model, inputs, prompts, loraplus_optimizer if plus else None)
    if numbers["greedy_smallest_margin"] < LEAST_MARGIN_TRAINED or (monotonous(made["greedy"]) and not decomposed):
        return f"margin {numbers['greedy_smallest_margin']}, {made['greedy'].tolist()}"
    if numbers["float32_from_float64"]["after"] > 5e-5:
        return f"rounding decides a step: {numbers['float32_from_float64']}"
    tensors |= made
    if decomposed:
        tensors |= trained_and_converted(model, target, folder, base, inputs)
    write_tensors(target / "golden.safetensors", tensors)
    return facts | numbers


def trained_and_converted(model, target: Path, folder: Path, base: str, inputs) -> dict:
    """Saves the trained adapter as it is (PEFT takes the base apart anew when it loads it) and as plain LoRA of twice the rank for the
    untouched base."""
    trained = masked_logits(model, inputs)
    save_adapter(model, target / "trained", base)
    loaded = PeftModel.from_pretrained(load(folder), target / "trained").eval()
    assert torch.allclose(masked_logits(loaded, inputs), trained, atol=1e-4)
    with tempfile.TemporaryDirectory() as other:
        shutil.copytree(target, Path(other) / "initial", ignore=shutil.ignore_patterns("trained"))
        model.save_pretrained(target / "converted", path_initial_model_for_weight_conversion=str(Path(other) / "initial"))
    (target / "converted" / "README.md").unlink(missing_ok=True)
    tidy_adapter(target / "converted")
    plain = PeftModel.from_pretrained(load(folder), target / "converted").eval()
    converted = masked_logits(plain, inputs)
    assert torch.allclose(converted, trained, atol=1e-4) and plain.peft_config["default"].r == 4
    return {"logits_trained": trained, "logits_converted": converted}


def make_several() -> dict:
    """Two adapters on qwen2 (different targets, alphas and scales) and every way of adding them."""
    folder, inputs, _ = base_inputs("qwen2")
    target = FOLDER / "several"
    shutil.rmtree(target, ignore_errors=True)
    torch.manual_seed(1)
    model = get_peft_model(load(folder), LoraConfig(**dict(COMMON, r=4, lora_alpha=8, target_modules=Q_V)), adapter_name="a")
    model.add_adapter("b", LoraConfig(**dict(COMMON, r=4, lora_alpha=6, target_modules=["v_proj", "down_proj"])))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter, p in model.named_parameters():
            if "lora_" in parameter:
                p.normal_(0.0, 0.2, generator=generator)
    save_adapter(model, target, "qwen2")
    made = model
    model = PeftModel.from_pretrained(load(folder), target / "a", adapter_name="a")
    model.load_adapter(target / "b", adapter_name="b")
    model.eval()
    assert all(torch.equal(p, made.get_parameter(n)) for n, p in model.named_parameters())
    tensors = dict(inputs, logits_base=masked_logits(load(folder), inputs))
    for name in ("a", "b"):
        model.set_adapter(name)
        tensors[f"logits.{name}"] = masked_logits(model, inputs)
    model.base_model.set_adapter(["a", "b"])
    tensors["logits.a_and_b"] = masked_logits(model, inputs)
    facts = {"ways": {}}
    for way, (kind, weights, settings) in COMBINATIONS.items():
        name = way.replace(".", "_")
        model.add_weighted_adapter(["a", "b"], WEIGHTS[weights], name, combination_type=kind, **settings)
        model.set_adapter(name)
        tensors[f"logits.{way}"] = masked_logits(model, inputs)
        for module, layer in model.base_model.model.named_modules():      # of one block: A and B, of which svd fixes the product alone
            if name not in getattr(layer, "lora_A", {}) or ".layers.0." not in module:
                continue
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            if kind.endswith("svd"):
                tensors[f"product.{way}.{module}"] = b.double().matmul(a.double()).float()
            else:
                tensors[f"{way}.base_model.model.{module}.lora_A.weight"] = a
                tensors[f"{way}.base_model.model.{module}.lora_B.weight"] = b
        entry = model.peft_config[name]
        facts["ways"][way] = {"weights": WEIGHTS[weights], "options": {"combination_type": kind} | settings,
                              "r": entry.r, "lora_alpha": entry.lora_alpha, "target_modules": sorted(entry.target_modules)}
    both = [k for k in tensors if k.startswith("logits.")]
    least = min((tensors[x] - tensors[y]).abs().max().item() for i, x in enumerate(both) for y in both[:i])
    assert least > 0.02, least
    facts["least_difference_of_two"] = least
    write_tensors(target / "golden.safetensors", tensors)
    return facts


def make_clamps() -> None:
    """A and B of one module that "svd" gives, as they are (`a.whole`, `b.whole`) and cut off at some quantiles (`a.0.9`). The quantile is one of
    values with their signs, and singular vectors may have either sign: only what is done to the same vectors can be compared."""
    folder, _, _ = base_inputs("qwen2")
    target = FOLDER / "several"
    model = PeftModel.from_pretrained(load(folder), target / "a", adapter_name="a")
    model.load_adapter(target / "b", adapter_name="b")
    layer = model.base_model.model.model.layers[0].self_attn.v_proj
    tensors = {}
    for clamp in [None, *CLAMPS]:
        name, share = f"clamp_{clamp}".replace(".", "_"), "whole" if clamp is None else clamp
        model.add_weighted_adapter(["a", "b"], WEIGHTS["usual"], name, combination_type="svd", svd_rank=4, svd_clamp=clamp)
        tensors[f"a.{share}"], tensors[f"b.{share}"] = layer.lora_A[name].weight, layer.lora_B[name].weight
    assert not torch.equal(tensors["a.whole"], tensors["a.0.9"]) and not torch.equal(tensors["b.whole"], tensors["b.0.9"])
    write_tensors(target / "clamp.safetensors", tensors)


def make(args) -> None:
    facts = {"made_with": versions()}
    for number, name in enumerate(VARIANTS):
        for seed in range(3000 + 100 * number, 3100 + 100 * number):
            result = make_variant(name, seed)
            if isinstance(result, dict):
                break
            print(f"{name}: seed {seed}: {result}")
        assert isinstance(result, dict), name
        facts[name] = result
        print(name, result)
    facts["several"] = make_several()
    make_clamps()
    print("several", facts["several"])
    write_json(FOLDER / "facts.json", facts)
