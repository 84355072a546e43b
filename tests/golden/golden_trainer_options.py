"""Runs of transformers' Trainer with the options that choose a model, end a training early, smooth the labels or drop a batch.

usage: python tests/golden/make_golden.py trainer_options
Needs trainer/ and makes trainer_options/<name>.json: what was given, the whole log, and what the run left: its state, its checkpoints, its
parameters."""
import shutil
import tempfile
from pathlib import Path

from transformers import EarlyStoppingCallback, TrainingArguments

from golden_common import HERE, versions, write_json
from golden_tiny import load
from golden_trainer import FOLDER as TRAINER
from golden_trainer import RecordingTrainer, collate, rows

FOLDER = HERE / "trainer_options"
# So few rows and so high a rate that the loss on other rows falls, and then rises again.
OVERFIT = dict(learning_rate=2e-2, lr_scheduler_type="constant", per_device_train_batch_size=8, max_steps=24, eval_strategy="steps",
               eval_steps=2, save_strategy="steps", save_steps=2, logging_steps=4)
PLAIN = dict(learning_rate=5e-3, per_device_train_batch_size=4, save_strategy="no", logging_steps=1)
# name: rows trained on, rows evaluated on, arguments, EarlyStoppingCallback
RUNS = {
    "best": ((0, 8), (20, 28), dict(OVERFIT, load_best_model_at_end=True, save_total_limit=2), None),
    "best_alone": ((0, 8), (20, 28), dict(OVERFIT, load_best_model_at_end=True, save_total_limit=1), None),
    "worst": ((0, 8), (20, 28), dict(OVERFIT, max_steps=8, load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True),
              None),
    # the best evaluation has no checkpoint: the model is that of the best before it that has one
    "coarse": ((0, 8), (20, 28), dict(OVERFIT, load_best_model_at_end=True, save_steps=8), None),
    "epochs": ((0, 8), (20, 28), dict(OVERFIT, load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch", max_steps=-1,
                                      num_train_epochs=3, per_device_train_batch_size=4), None),
    "patience": ((0, 8), (20, 28), dict(OVERFIT, load_best_model_at_end=True, metric_for_best_model="loss"), dict(early_stopping_patience=3)),
    "threshold": ((0, 8), (20, 28), dict(OVERFIT, load_best_model_at_end=True), dict(early_stopping_patience=2, early_stopping_threshold=0.2)),
    "fractions": ((0, 40), (0, 8), dict(PLAIN, max_steps=11, logging_steps=0.25, eval_strategy="steps", eval_steps=0.3, save_strategy="steps",
                                        save_steps=0.4), None),
    "drop_last": ((0, 37), (0, 8), dict(PLAIN, num_train_epochs=2, gradient_accumulation_steps=2, dataloader_drop_last=True,
                                        eval_strategy="epoch", per_device_eval_batch_size=3), None),
    "smoothing": ((0, 40), (0, 8), dict(PLAIN, max_steps=12, gradient_accumulation_steps=2, label_smoothing_factor=0.2, eval_strategy="steps",
                                        eval_steps=4), None),
}


def run(name: str, data: list[dict]) -> dict:
    trained, evaluated, given, stopping = RUNS[name]
    model = load(TRAINER / "base")
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(output_dir=out, report_to="none", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
                                      dataloader_pin_memory=False, seed=42, **given)
        trainer = RecordingTrainer(model=model, args=arguments, train_dataset=data[slice(*trained)], eval_dataset=data[slice(*evaluated)],
                                   data_collator=collate, callbacks=[EarlyStoppingCallback(**stopping)] if stopping else [])
        trainer.noted = []
        result = trainer.train()
        state = trainer.state
        checkpoints = sorted((folder.name for folder in Path(out).glob("checkpoint-*")), key=lambda name: int(name.split("-")[1]))
        evaluation = trainer.evaluate()["eval_loss"]
    log = [entry for entry in state.log_history if "train_runtime" not in entry][:-1]
    best = None if state.best_model_checkpoint is None else Path(state.best_model_checkpoint).name
    shown = " ".join(f"{entry['step']}:{entry['eval_loss']:.4f}" for entry in log if "eval_loss" in entry)
    print(f"{name}: {state.global_step} steps, best {state.best_metric} at {state.best_global_step} in {best}, kept {checkpoints}\n    {shown}")
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss")
    return {
        "made_with": versions(), "training_arguments": {**given, **(stopping or {})}, "rows_trained": trained, "rows_evaluated": evaluated,
        "log_history": [{key: entry[key] for key in keys if key in entry} for entry in log],
        "global_step": state.global_step, "train_loss": result.training_loss, "best_metric": state.best_metric,
        "best_global_step": state.best_global_step, "best_model_checkpoint": best, "checkpoints": checkpoints, "eval_loss_of_the_model": evaluation,
        "final_norms": {n: p.detach().double().norm().item() for n, p in model.named_parameters()},
        "micro_batches": [m["rows"] for m in trainer.noted],
    }


def make(args) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    data = rows()
    for name in RUNS:
        write_json(FOLDER / f"{name}.json", run(name, data))
