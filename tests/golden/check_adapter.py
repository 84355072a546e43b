"""The way back: adapters and models that ftrepl wrote, loaded by PEFT and transformers, give ftrepl's logits.

usage: python tests/golden/check_adapter.py FTREPL      (FTREPL: the built program; pip install torch transformers peft)
Trains adapters of every kind for five steps, saves and merges them, saves the models, and compares all with PyTorch."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
TRAIN = """
let model = AutoModelForCausalLM::from_pretrained(param("base", ""));
let ids = [5, 17, 40, 3, 88, 61, 2, 9];
manual_seed(0);
let peft_model = get_peft_model(model, LoraConfig(CONFIG));
let train = |peft_model, ids| {
    let optimizer = optim::AdamW(peft_model.parameters().filter(|p| p.requires_grad), #{ lr: 0.05 });
    for step in 0..5 { peft_model.forward(ids, #{ labels: ids }).loss.backward(); optimizer.step(); optimizer.zero_grad(); }
};
train.call(peft_model, ids);
"""
ONE = TRAIN + """
peft_model.save_pretrained("adapter");
let converted = param("convert", "") == "yes";
if converted { peft_model.save_pretrained("converted", #{ convert_to_lora: true }); }
let adapted = peft_model.forward(ids).logits.to_list();
let merged = ();
if param("merge", "yes") == "yes" {
    let whole = peft_model.merge_and_unload();
    whole.save_pretrained("merged");
    merged = whole.forward(ids).logits.to_list();
}
#{ ids: ids, adapted: adapted, merged: merged }
"""
SEVERAL = TRAIN + """
peft_model.add_adapter("other", LoraConfig(#{ r: 4, lora_alpha: 6, target_modules: ["v_proj", "down_proj"] }));
peft_model.set_adapter("other");
train.call(peft_model, ids);
peft_model.add_weighted_adapter(["default", "other"], [0.7, -0.3], "sum", #{ combination_type: "cat" });
peft_model.save_pretrained("adapter");
let logits = #{};
for names in [["default"], ["other"], ["default", "other"], ["sum"]] {
    peft_model.set_adapter(names);
    logits[names.reduce(|a, b| if a == () { b } else { a + "+" + b }, ())] = peft_model.forward(ids).logits.to_list();
}
#{ ids: ids, logits: logits }
"""
BASES = {"qwen2": HERE / "families/qwen2", "gpt2": HERE / "families/gpt2", "qwen3": HERE / "families/qwen3"}
BASES |= {name: HERE / "tiny" / name for name in ("llama", "llama_bias", "llama_tied", "mistral")}
Q_V = 'target_modules: ["q_proj", "v_proj"]'
KINDS = [(base, f'r: 4, lora_alpha: 16, {targets}, use_rslora: {rslora}, bias: "all"', {})
         for base in ("llama", "llama_bias", "llama_tied", "mistral")
         for targets, rslora in ((Q_V, "false"), ('target_modules: "all-linear"', "true"))]
KINDS += [
    ("qwen2", 'r: 4, use_dora: true, target_modules: ["q_proj", "down_proj"]', {}),
    ("gpt2", 'r: 4, use_dora: true, target_modules: ["c_attn", "c_fc"]', {}),
    ("qwen2", f"r: 4, lora_bias: true, {Q_V}", {}),
    ("qwen2", f'r: 4, init_lora_weights: "pissa", {Q_V}', {"convert": "yes"}),
    ("gpt2", 'r: 4, init_lora_weights: "pissa", target_modules: ["c_attn"]', {"convert": "yes"}),
    ("qwen2", f'r: 4, init_lora_weights: "olora", {Q_V}', {"convert": "yes"}),
    ("qwen2", f'r: 4, init_lora_weights: "pissa", use_rslora: true, {Q_V}', {"convert": "yes"}),
    ("qwen2", f'r: 4, init_lora_weights: "orthogonal", {Q_V}', {}),
    ("qwen2", f'r: 4, layers_to_transform: [0, 2], layers_pattern: "layers", {Q_V}', {}),
    ("gpt2", 'r: 4, layers_to_transform: 1, layers_pattern: ["h"], target_modules: ["c_attn"]', {}),
    ("qwen2", f'r: 4, rank_pattern: #{{ v_proj: 2 }}, alpha_pattern: #{{ q_proj: 16 }}, exclude_modules: ".*layers.1.*", {Q_V}', {}),
    ("qwen2", 'r: 4, modules_to_save: ["lm_head"], target_modules: ["v_proj"]', {}),
    ("qwen2", 'r: 4, target_modules: ["v_proj", "embed_tokens"]', {}),
    ("qwen2", 'r: 4, target_modules: ["v_proj"], trainable_token_indices: [5, 88]', {}),
    ("qwen2", 'r: 4, target_modules: ["v_proj"], trainable_token_indices: #{ embed_tokens: [5], lm_head: [17, 40] }', {}),
    ("qwen3", 'r: 4, target_modules: ["v_proj"], trainable_token_indices: [5, 88]', {}),
    ("qwen3", 'r: 4, target_modules: ["v_proj", "embed_tokens"]', {"merge": "no"}),
    ("qwen3", 'r: 4, target_modules: ["v_proj"], trainable_token_indices: #{ embed_tokens: [5], lm_head: [5] }', {}),
    ("qwen2", 'r: 4, target_modules: ["q_proj", "lm_head"]', {}),
    ("qwen3", 'r: 4, target_modules: ["q_proj", "lm_head"]', {"merge": "no"}),
    ("qwen2", 'r: 4, target_modules: ["q_proj", "lm_head"], modules_to_save: ["norm", "lm_head"]', {}),
    ("qwen3", 'r: 4, target_modules: ["q_proj"], modules_to_save: ["embed_tokens"]', {"merge": "no"}),
    ("gpt2", 'r: 4, target_modules: ["c_attn"], modules_to_save: ["attn.c_proj", "c_fc", "ln_f"]', {}),
    ("qwen2", 'r: 4, init_lora_weights: "pissa", target_modules: ["q_proj", "embed_tokens"]', {"convert": "yes"}),
    ("qwen2", f'r: 4, init_lora_weights: "pissa", modules_to_save: ["lm_head"], bias: "all", {Q_V}', {"convert": "yes"}),
    ("qwen2", 'r: 4, layers_to_transform: 1, target_modules: ["v_proj", "model.layers.0.self_attn.q_proj"]', {}),
]


def run(text: str, base: str, config: str, out: str, settings: dict) -> dict:
    script = Path(out, "script.rhai")
    script.write_text(text.replace("CONFIG", f"#{{ {config} }}"))
    command = [sys.argv[1], "run", script, "--set", f"base={BASES[base]}", "--out", out, "--json"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{base} {config}: {done.stderr}"
    return json.loads(done.stdout)


def model_of(base: str):
    return AutoModelForCausalLM.from_pretrained(BASES[base])


def difference(model, ids, logits) -> float:
    """The largest difference, as a share of the largest logit where that is above 1."""
    logits = torch.tensor(logits)
    with torch.no_grad():
        return (model.eval()(ids).logits - logits).abs().max().item() / max(1, logits.abs().max().item())


for base, config, settings in KINDS:
    with tempfile.TemporaryDirectory() as out:
        ours = run(ONE, base, config, out, settings)
        ids = torch.tensor([ours["ids"]])
        found = {"adapter": difference(PeftModel.from_pretrained(model_of(base), f"{out}/adapter"), ids, ours["adapted"])}
        if settings.get("convert"):
            found["converted"] = difference(PeftModel.from_pretrained(model_of(base), f"{out}/converted"), ids, ours["adapted"])
        if settings.get("merge") != "no":
            found["merged"] = difference(AutoModelForCausalLM.from_pretrained(f"{out}/merged"), ids, ours["merged"])
        print(f"{base:11}", ", ".join(f"{what} {value:.1e}" for what, value in found.items()), "|", config)
        assert all(value < 1e-5 for value in found.values()), "ftrepl's files do not give its logits in PyTorch"

with tempfile.TemporaryDirectory() as out:
    ours = run(SEVERAL, "qwen2", f"r: 4, {Q_V}", out, {})
    model = PeftModel.from_pretrained(model_of("qwen2"), f"{out}/adapter")
    for name in ("other", "sum"):
        model.load_adapter(f"{out}/adapter/{name}", adapter_name=name)
    for names, logits in ours["logits"].items():
        model.base_model.set_adapter(names.split("+"))
        value = difference(model, torch.tensor([ours["ids"]]), logits)
        print(f"several     {names} {value:.1e}")
        assert value < 1e-5, "ftrepl's files do not give its logits in PyTorch"
