"""The work that is measured: one process, the two programs' commands, the training rows, and the list of workloads."""
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "stdlib" / "data"
PROMPT = "The lighthouse keeper climbed the stairs every evening. One night"


# ---- one process

def output_of(command):
    """A command's output, or nothing where it fails."""
    try:
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def plain(text, names):
    """A text with paths by their names, and with nothing that would break a table."""
    for path, name in (names | {ROOT: ".", Path.home(): "~"}).items():
        text = text.replace(str(path), name)
    return " ".join(text.split()).replace("|", "\\|")


def run(command, environment):
    """Runs a process to its end. Gives the JSON it printed with `wall`, `first_step` (seconds from its start) and `peak_mb`, or
    `error`."""
    start = time.perf_counter()
    first_step, lines = None, []
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.PIPE, text=True, errors="replace")
        for line in process.stderr:
            if line.strip() == "first step done":
                first_step = time.perf_counter() - start
            lines.append(line.strip())
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    try:
        found = json.loads(text) or {}
    except json.JSONDecodeError:
        found = {}
    if process.returncode != 0:
        last = next((line for line in reversed(lines) if line), "")
        found = {"error": found.get("error") or f"exit status {process.returncode}: {last}"}
    kilobyte = 1 if sys.platform == "darwin" else 1024
    found |= {"wall": wall, "peak_mb": usage.ru_maxrss * kilobyte / 1e6}
    return found if first_step is None else found | {"first_step": first_step}


class Machine:
    """Where both programs are, and the two commands for a piece of work."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.ftrepl = Path(options.ftrepl).resolve()
        self.peer = Path(options.peer).resolve()
        self.python = self.peer / "venv" / "bin" / "python"
        self.model = self.peer / "smollm2"
        self.gguf = self.peer / "SmolLM2-135M-Instruct.Q4_1.gguf"

    def ours(self, work, threads):
        command = [self.ftrepl, "--json", "--quiet", "--device", "cpu", "--threads", threads, "--out", self.folder]
        parameters = self.parameters(work.both | work.ours_only)
        if work.name == "lesson":
            parameters.pop("data")
            command += ["lesson", "4", "--step", "experiment"] + (["--quick"] if parameters.pop("quick") else [])
        else:
            command += ["run", f"benches/workloads/{work.ours}.rhai"]
        for key, value in parameters.items():
            command += ["--set", f"{key}={value}"]
        return run([str(part) for part in command], {"CUDA_VISIBLE_DEVICES": ""})

    def theirs(self, work, threads):
        parameters = self.parameters(work.both | work.theirs_only) | {"threads": threads}
        command = [self.python, f"benches/peer/{work.theirs}.py"] + [f"{key}={value}" for key, value in parameters.items()]
        environment = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
                       "OMP_NUM_THREADS": str(threads)}
        return run([str(part) for part in command], environment)

    def parameters(self, given):
        """The parameters with MODEL and GGUF replaced by their paths."""
        paths = {"MODEL": self.model, "GGUF": self.gguf}
        return {key: paths.get(value, value) for key, value in given.items()}

    def plain(self, text):
        """A text without this machine's paths and with nothing that would break a table."""
        return plain(text, {self.folder: "TMP", self.peer: "PEER"})

    def warm(self):
        """Reads the large files once and imports the peer's libraries, so that no first run waits for the disk."""
        output_of([self.python, "-c", "import peft"])
        for path in (self.ftrepl, self.model / "model.safetensors", self.gguf):
            if path.exists():
                with open(path, "rb") as file:
                    while file.read(1 << 24):
                        pass


# ---- the data

def long_rows(path, count, tokens):
    """Rows that are cut to exactly `tokens` tokens: general texts end to end, eight characters for every token."""
    texts = [json.loads(line)["text"] for line in open(DATA / "general_text.jsonl", encoding="utf-8")]
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            text, at = "", i
            while len(text) < 8 * tokens:
                text += texts[at % len(texts)] + "\n"
                at += 1
            file.write(json.dumps({"text": text}) + "\n")
    return path


def short_rows(path, count):
    """An even pick of the short questions with answers about drugs."""
    rows = [json.loads(line) for line in open(DATA / "drug_qa.jsonl", encoding="utf-8")]
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            file.write(json.dumps({"text": rows[i * len(rows) // count]["text"]}) + "\n")
    return path


# ---- the work

@dataclass
class Work:
    """What one process does: the script of either side and the parameters."""
    name: str
    ours: str
    theirs: str
    both: dict
    ours_only: dict = field(default_factory=dict)
    theirs_only: dict = field(default_factory=dict)


def train_work(name, folder, steps, method="lora", dtype="f32", rank=16, batch=4, seq=128, short=False):
    path = folder / f"{'short' if short else seq}-{batch * steps}.jsonl"
    data = short_rows(path, batch * steps) if short else long_rows(path, batch * steps, seq)
    return Work(name, "train", "train", dict(
        model="MODEL", data=data, method=method, dtype=dtype, rank=rank, batch=batch, seq=seq, steps=steps))


def all_work(options, folder):
    steps, tokens = options.steps, options.tokens
    generation = dict(prompt=PROMPT, tokens=tokens)
    lesson = dict(model="MODEL", data=DATA, quick=int(options.lesson == "quick")) | ({"arms": options.arms} if options.arms else {})
    work = [
        train_work("lora-f32", folder, steps),
        train_work("lora-bf16", folder, steps, dtype="bf16"),
        train_work("first-step", folder, 2, short=True),
        train_work("full-f32", folder, steps, method="full"),
        train_work("full-short", folder, 3 * steps, method="full", batch=1, short=True),
        Work("generate-f32", "generate", "generate", generation | dict(model="MODEL", dtype="f32")),
        Work("generate-f32-plain", "generate", "generate", generation | dict(model="MODEL", dtype="f32"), ours_only=dict(guesses=0)),
        Work("generate-q4", "generate", "generate_gguf", generation | dict(model="GGUF", dtype="q4")),
        Work("generate-q4-plain", "generate", "generate_gguf", generation | dict(model="GGUF", dtype="q4"), ours_only=dict(guesses=0)),
        Work("general-qa", "general_qa", "general_qa", dict(model="MODEL", dtype="f32", tokens=20),
             theirs_only=dict(questions=DATA / "general_qa.jsonl", sample=options.sample)),
        Work("tiny", "tiny", "tiny", dict(repeats=5)),
        Work("lesson", "", "lesson", lesson),
    ]
    return {w.name: w for w in work}


# ---- measuring

def measure(machine, work, runs, threads):
    """Ours and theirs in turn; a side that failed is not run again. Gives two lists of results."""
    ours, theirs = [], []
    for number in range(runs):
        for side, found, go in (("ours", ours, machine.ours), ("theirs", theirs, machine.theirs)):
            if not any("error" in result for result in found):
                found.append(go(work, threads))
                state = found[-1].get("error", "").split("\n")[0] or f"{found[-1]['wall']:.1f} s, {found[-1]['peak_mb']:.0f} MB"
                print(f"{work.name}, run {number + 1} of {runs}, {side}: {state}", file=sys.stderr, flush=True)
    return ours, theirs
