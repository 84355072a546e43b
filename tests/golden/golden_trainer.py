"""Runs of transformers' Trainer, 20 optimiser steps each, on a tiny SmolLM2-shaped model and 40 fixed token sequences.

usage: python tests/golden/make_golden.py trainer
Makes trainer/base/ (the model), trainer/lora_init/ and trainer/loraplus_init/ (the adapters that runs d and n start from), trainer/data.json, one
trainer/run_<letter>.json a run and trainer/facts.json. The Trainer is the real one; a subclass only takes the `index` column out of each micro batch and notes it, in the
order in which batches are trained on."""
import inspect
import math
import os
import random
import shutil
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from golden_common import HERE, versions, write_json
from golden_tiny import load, randomise, save_as_hub

FOLDER = HERE / "trainer"
CONFIG = dict(vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              rms_norm_eps=1e-5, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
              rope_parameters=dict(rope_type="default", rope_theta=100000.0))
COMMON = dict(max_steps=20, logging_steps=1, seed=42, per_device_eval_batch_size=8)
RUNS = {
    "a": ("full", None, dict(learning_rate=5e-3, lr_scheduler_type="linear", per_device_train_batch_size=4)),
    "b": ("full", None, dict(learning_rate=5e-2, lr_scheduler_type="constant", per_device_train_batch_size=4, optim="sgd")),
    "c": ("full", None, dict(learning_rate=5e-3, lr_scheduler_type="cosine", per_device_train_batch_size=2, gradient_accumulation_steps=4,
                             warmup_steps=0.2, weight_decay=0.1, max_grad_norm=0.5)),
    "d": ("lora", None, dict(learning_rate=1e-2, lr_scheduler_type="cosine", per_device_train_batch_size=4, gradient_accumulation_steps=2)),
    "e": ("full", None, dict(learning_rate=2e-3, lr_scheduler_type="linear", per_device_train_batch_size=8)),
    "f": ("full", None, dict(learning_rate=2e-3, lr_scheduler_type="linear", per_device_train_batch_size=4, gradient_accumulation_steps=2)),
    # 37 rows, batch 2: 19 micro batches an epoch, the last of one row, the last group of three micro batches
    "g": ("full", 37, dict(learning_rate=2e-3, lr_scheduler_type="linear", per_device_train_batch_size=2, gradient_accumulation_steps=4,
                           weight_decay=0.01)),
    # epochs instead of max_steps, no clipping, data_seed apart from seed
    "h": ("full", 37, dict(learning_rate=2e-3, lr_scheduler_type="constant_with_warmup", per_device_train_batch_size=4, warmup_steps=0.15,
                           num_train_epochs=2, max_steps=-1, max_grad_norm=0.0, data_seed=7)),
    # the other optimisers, each with another schedule; j and o need bitsandbytes, k schedulefree
    "i": ("full", None, dict(learning_rate=5e-3, optim="adafactor", lr_scheduler_type="cosine_with_restarts", lr_scheduler_kwargs=dict(num_cycles=3),
                             per_device_train_batch_size=4, weight_decay=0.1)),
    "j": ("full", None, dict(learning_rate=1e-3, optim="lion_32bit", lr_scheduler_type="polynomial", lr_scheduler_kwargs=dict(lr_end=1e-4, power=2.0),
                             per_device_train_batch_size=4, warmup_steps=3, weight_decay=0.1)),
    "k": ("full", None, dict(learning_rate=5e-3, optim="schedule_free_adamw", lr_scheduler_type="constant", per_device_train_batch_size=4,
                             warmup_steps=4, weight_decay=0.1, optim_args="r=1.0,weight_lr_power=1.5", eval_strategy="steps", eval_steps=5)),
    "l": ("full", None, dict(learning_rate=1e-2, lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs=dict(factor=0.5, patience=0, threshold=0.07),
                             per_device_train_batch_size=4, eval_strategy="steps", eval_steps=2)),
    "m": ("full", None, dict(learning_rate=2e-2, optim="sgd", optim_args="momentum=0.9,nesterov=true", lr_scheduler_type="warmup_stable_decay",
                             lr_scheduler_kwargs=dict(num_decay_steps=8, decay_type="1-sqrt", min_lr_ratio=0.1), per_device_train_batch_size=4,
                             warmup_steps=4)),
    # LoRA+ by PEFT's create_loraplus_optimizer: A and a saved matrix, an embedding, B and norms; the last step is evaluated too
    "n": ("loraplus", None, dict(learning_rate=2e-3, lr_scheduler_type="cosine", per_device_train_batch_size=4, gradient_accumulation_steps=2,
                                 warmup_steps=3, weight_decay=0.1, eval_strategy="steps", eval_steps=8)),
    # every matrix is too small for 8 bits but the embedding (4096 elements), which the Trainer leaves in 32; 14 steps an epoch, so that the
    # last epoch ends early
    "o": ("full", None, dict(learning_rate=5e-3, optim="adamw_8bit", lr_scheduler_type="constant", per_device_train_batch_size=3,
                             weight_decay=0.1, eval_strategy="epoch")),
}
ADAPTERS = {
    "lora": ("lora_init", dict(target_modules=["q_proj", "v_proj"])),
    "loraplus": ("loraplus_init", dict(target_modules=["v_proj", "embed_tokens"], modules_to_save=["model.norm", "up_proj"])),
}
LORAPLUS = dict(loraplus_lr_ratio=8.0, loraplus_lr_embedding=5e-3)


def rows() -> list[dict]:
    """40 sequences of 6 to 16 tokens that a model can learn (x -> 3x + 5 mod 120, with noise); 0 to 5 leading labels are -100."""
    rng = random.Random(5)
    made = []
    for index in range(40):
        x, ids = rng.randrange(120), [1]
        for _ in range(rng.randint(6, 16) - 1):
            x = rng.randrange(120) if rng.random() < 0.15 else (3 * x + 5) % 120
            ids.append(8 + x)
        prefix = rng.randint(0, 5) if index % 2 else 0
        made.append({"index": index, "input_ids": ids, "labels": [-100] * prefix + ids[prefix:]})
    return made


def collate(items: list[dict]) -> dict:
    """Right-pads with token 0, mask 0, label -100."""
    longest = max(len(r["input_ids"]) for r in items)
    pad = lambda r, key, value: r[key] + [value] * (longest - len(r["input_ids"]))
    return {
        "input_ids": torch.tensor([pad(r, "input_ids", 0) for r in items]),
        "attention_mask": torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in items]),
        "labels": torch.tensor([pad(r, "labels", -100) for r in items]), "index": torch.tensor([r["index"] for r in items]),
    }


class RecordingTrainer(Trainer):
    """The Trainer, which also notes what each micro batch held and what loss it gave."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        index = inputs.pop("index").tolist()
        tokens, targets = int(inputs["attention_mask"].sum()), int((inputs["labels"][:, 1:] != -100).sum())
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.noted.append({"step": self.state.global_step + 1, "rows": index, "tokens": tokens, "targets": targets,
                           "num_items_in_batch": None if num_items_in_batch is None else int(num_items_in_batch), "loss": loss.item()})
        return loss

    def prediction_step(self, model, inputs, *args, **kwargs):
        inputs.pop("index")
        return super().prediction_step(model, inputs, *args, **kwargs)


class Norms(TrainerCallback):
    """The gradient norm after clipping, just before the optimiser's step."""

    def __init__(self):
        self.after = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        squares = [p.grad.double().pow(2).sum() for p in model.parameters() if p.grad is not None]
        self.after.append(torch.stack(squares).sum().sqrt().item())


def run(letter: str, data: list[dict]) -> dict:
    kind, limit, given = RUNS[letter]
    options = {**COMMON, **given}
    model = load(FOLDER / "base")
    if kind in ADAPTERS:
        model = PeftModel.from_pretrained(model, FOLDER / ADAPTERS[kind][0], is_trainable=True)
    optimizer = None
    if kind == "loraplus":
        optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=options["learning_rate"], loraplus_weight_decay=options["weight_decay"],
                                              **LORAPLUS)
    train = data[:limit] if limit else data
    norms = Norms()
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(output_dir=out, report_to="none", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
                                      save_strategy="no", dataloader_pin_memory=False, **options)
        trainer = RecordingTrainer(model=model, args=arguments, train_dataset=train, eval_dataset=data[:8], data_collator=collate,
                                   callbacks=[norms], optimizers=(optimizer, None))
        trainer.noted = []
        result = trainer.train()
        evaluations = [h["eval_loss"] for h in trainer.state.log_history if "eval_loss" in h]
        evaluation = trainer.evaluate()["eval_loss"]
        evaluation_all = trainer.evaluate(eval_dataset=data)["eval_loss"]
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in trainer.optimizer.param_groups]
    steps = [h for h in trainer.state.log_history if "loss" in h]
    micro = trainer.noted
    model.eval()
    with torch.no_grad():
        batch = collate(data[:8]); batch.pop("index")
        direct = model(**batch).loss.item()
    assert abs(direct - evaluation) < 1e-6, (direct, evaluation)
    assert check_order(micro, len(train), arguments) and check_loss(micro, steps)
    print(letter, kind, f"loss {steps[0]['loss']:.5f} -> {steps[-1]['loss']:.5f}, eval {evaluation:.5f}, steps {len(steps)}, lr {steps[0]['learning_rate']}"
          f" .. {steps[-1]['learning_rate']}, grad norm {max(s['grad_norm'] for s in steps):.3f} max")
    return {
        "made_with": versions(), "kind": kind, **({"adapter": ADAPTERS[kind][0]} if kind in ADAPTERS else {}), "rows_used": len(train),
        "training_arguments": options, **({"loraplus": LORAPLUS} if optimizer else {}),
        "optimizer": {"class": type(trainer.optimizer.optimizer).__name__,
                      "settings": {k: v for k, v in trainer.optimizer.defaults.items() if k not in ("lr", "weight_decay") and isinstance(v, (int, float, tuple, bool))}},
        "warmup_steps": arguments.get_warmup_steps(trainer.state.max_steps), "total_steps": trainer.state.max_steps,
        "loss": [s["loss"] for s in steps], "grad_norm": [s["grad_norm"] for s in steps], "grad_norm_after_clipping": norms.after,
        "learning_rate": [s["learning_rate"] for s in steps], "epoch": [s["epoch"] for s in steps], "train_loss": result.training_loss,
        **({"eval_loss": evaluations} if evaluations else {}),
        "eval_loss_rows_0_to_7": evaluation, "eval_loss_all_rows_batch_8": evaluation_all,
        "tokens": sum(m["tokens"] for m in micro), "target_tokens": sum(m["targets"] for m in micro),
        **(loraplus_groups(trainer.optimizer, groups) if optimizer else {"decay": groups[0], "no_decay": groups[1]}),
        "final_norms": {n: p.detach().double().norm().item() for n, p in model.named_parameters() if p.requires_grad},
        "micro_batches": micro,
    }


def loraplus_groups(optimizer, names: list[list[str]]) -> dict:
    """LoRA+'s groups that hold a parameter: the rate that the schedule multiplies, the decay, the names."""
    return {"groups": [{"lr": group["initial_lr"], "weight_decay": group["weight_decay"], "parameters": parameters}
                       for group, parameters in zip(optimizer.param_groups, names) if parameters]}


def check_order(micro, count, arguments) -> bool:
    """The rule: epoch e draws torch.randperm(n) from a generator seeded with (data_seed or seed) + e."""
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    seen = [i for m in micro for i in m["rows"]]
    ruled = []
    for epoch in range(math.ceil(len(seen) / count)):
        ruled += torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return seen == ruled[:len(seen)]


def check_loss(micro, steps) -> bool:
    """The logged loss is the sum over the group's micro batches of (summed token losses / target tokens of the whole group)."""
    for number, logged in enumerate(steps, 1):
        group = [m for m in micro if m["step"] == number]
        assert all(m["num_items_in_batch"] == sum(g["targets"] for g in group) for m in group)
        if abs(sum(m["loss"] for m in group) - logged["loss"]) > 1e-5:
            return False
    return True


def make(args) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    randomise(model, 77, std=0.1)
    save_as_hub(model, FOLDER / "base", keep_head_dim=False)
    for seed, (folder, given) in enumerate(ADAPTERS.values(), 2):
        torch.manual_seed(seed)
        base = load(FOLDER / "base")
        base.config._name_or_path = base.name_or_path = "trainer/base"
        lora = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, **given))
        lora.peft_config["default"].target_modules = given["target_modules"]
        lora.save_pretrained(FOLDER / folder)
        (FOLDER / folder / "README.md").unlink(missing_ok=True)
        os.chmod(FOLDER / folder / "adapter_model.safetensors", 0o644)
    data = rows()
    write_json(FOLDER / "data.json", data)
    results = {letter: run(letter, data) for letter in RUNS}
    for letter, result in results.items():
        write_json(FOLDER / f"run_{letter}.json", result)
    apart = max(abs(x - y) for x, y in zip(results["e"]["loss"], results["f"]["loss"]))
    print("e and f: losses apart by at most", apart)
    decay = {}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
    for name, model in (("llama_bias", load(HERE / "tiny" / "llama_bias")), ("gpt2", gpt2)):
        with tempfile.TemporaryDirectory() as out:
            trainer = Trainer(model=model, args=TrainingArguments(output_dir=out, report_to="none", use_cpu=True))
            decayed = set(trainer.get_decay_parameter_names(model))
        decay[f"{name}_decay"] = [n for n, _ in model.named_parameters() if n in decayed]
        decay[f"{name}_no_decay"] = [n for n, _ in model.named_parameters() if n not in decayed]
    accepted = inspect.signature(TrainingArguments.__init__).parameters
    with tempfile.TemporaryDirectory() as out:
        ratios = {}
        for total in (20, 33, 60, 100):
            for warmup in (0, 0.05, 0.1, 0.2, 0.99, 1, 1.9, 3):
                ratios[f"{warmup} of {total}"] = TrainingArguments(output_dir=out, use_cpu=True, warmup_steps=warmup).get_warmup_steps(total)
        defaults = TrainingArguments(output_dir=out, use_cpu=True)
        names = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "num_train_epochs", "max_steps",
                 "warmup_steps", "logging_steps", "save_steps", "seed", "data_seed", "per_device_train_batch_size", "per_device_eval_batch_size",
                 "gradient_accumulation_steps", "gradient_checkpointing", "dataloader_drop_last")
        defaults = {n: getattr(defaults, n) for n in names} | {n: getattr(defaults, n).value for n in ("optim", "lr_scheduler_type",
                                                                                                    "save_strategy", "logging_strategy")}
    write_json(FOLDER / "facts.json", {
        "made_with": versions(), "e_f_largest_loss_difference": apart, "warmup_ratio_is_an_argument": "warmup_ratio" in accepted,
        "defaults": defaults, "warmup_steps_used": ratios, **decay,
    })
