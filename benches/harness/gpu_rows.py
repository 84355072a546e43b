"""What benches/gpu measures: the rows, what they must reach, and the rows of text that both sides train on."""
import json
import random
from dataclasses import dataclass

MUST, AIM, AIM_MEMORY = 1.0, 1.5, 0.5
RANK = 16

# How far losses may differ, as a share. With the same precision on both sides: a quarter of bf16's rounding, as a loss is the mean over
# thousands of tokens. Where theirs has no f32 copies of bf16 weights its updates are rounded away in part: there the first loss, before any
# update, says whether the work is the same.
BF16, F32, NO_MASTERS = 2.0**-10, 1e-5, 0.01


@dataclass
class Row:
    """A training on both sides. `method`: "lora" (q and v), "lora-all" (all-linear) or "full"; `masters`: theirs, too, keeps f32 weights."""
    name: str
    model: str
    method: str
    seq: int
    checkpointing: bool = False
    masters: bool = False
    dtype: str = "bf16"

    @property
    def text(self):
        what = {"lora": f"LoRA r {RANK} on q and v", "lora-all": f"LoRA r {RANK} all-linear", "full": "full fine-tuning"}[self.method]
        parts = [what, self.model, self.dtype] + ["gradient checkpointing"] * self.checkpointing
        return ", ".join(parts + ["theirs with f32 weights under autocast"] * self.masters)

    @property
    def rate(self):
        """The learning rate: large enough for every step to show in the losses. AdamW moves every weight by about as much, so where all are
        trained, the larger the model, the smaller the rate."""
        if self.model == "tiny":
            return 1e-3
        return 2e-6 if self.method == "full" else 5e-4

    def allowed(self, device):
        """How far the first loss and how far the others may differ, as shares."""
        same = F32 if self.dtype == "f32" and device == "cpu" else BF16
        return same, (NO_MASTERS if self.method == "full" and self.dtype == "bf16" and not self.masters else same)


def name_of(model, method, seq, checkpointing=False, masters=False):
    parts = [method, model.removeprefix("llama-3.2-"), str(seq)]
    return "-".join(parts + ["checkpointing"] * checkpointing + ["masters"] * masters)


def row(size, method, seq, **more):
    model = f"llama-3.2-{size}"
    return Row(name_of(model, method, seq, **more), model, method, seq, **more)


# In the order of their weight: the last ones are missing where time runs out.
ROWS = [
    row("1b", "lora", 2048),
    row("1b", "full", 2048),
    row("3b", "lora", 2048),
    row("3b", "full", 2048),
    row("1b", "lora-all", 2048),
    row("3b", "lora-all", 2048),
    row("3b", "lora", 2048, checkpointing=True),
    row("3b", "full", 2048, checkpointing=True),
    row("1b", "full", 2048, masters=True),
    row("1b", "lora", 512),
    row("1b", "full", 512),
    row("3b", "lora", 512),
    row("3b", "full", 512),
    row("3b", "lora-all", 2048, checkpointing=True),
    row("1b", "lora-all", 512),
    row("3b", "lora-all", 512),
    row("3b", "full", 2048, masters=True),
]
QUICK = ["lora-1b-2048", "full-1b-2048", "lora-3b-2048", "lora-1b-512"]

CHECK_ROWS = [
    Row("lora", "tiny", "lora", 64),
    Row("lora-all", "tiny", "lora-all", 64),
    Row("full", "tiny", "full", 64),
    Row("full-masters", "tiny", "full", 64, masters=True),
    Row("lora-all-checkpointing", "tiny", "lora-all", 64, checkpointing=True),
    Row("full-checkpointing", "tiny", "full", 64, checkpointing=True, masters=True),
    Row("lora-all-f32", "tiny", "lora-all", 64, dtype="f32"),
    Row("full-f32", "tiny", "full", 32, dtype="f32"),
]


def write_rows(path, count, seq, vocabulary):
    """Texts of `seq` tokens with the end token, in the words of random_model.py's tokenizer. Small numbers are frequent, as words are in
    a language, so that there is something to learn."""
    drawn = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            words = (f"t{int(vocabulary ** drawn.random())}" for _ in range(seq - 1))
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
