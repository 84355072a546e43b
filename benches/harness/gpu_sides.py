"""The two sides of benches/gpu: ours a process a row, theirs a server that imports its libraries once. Each gives for a row what it measured
or `error`; a side that fails or hangs ends no run."""
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from .card import CardMemory, Problem, ResidentMemory
from .gpu_rows import RANK, write_rows
from .work import ROOT, plain

BUILD = "scripts/with-cuda cargo build --release --features cuda --target-dir target/cuda"

# Seconds for one side of a row: what hangs must not take the time of all others.
LONGEST = 120


class Process:
    """A process whose lines of standard output come with a time limit, and whose standard error is kept for its last words."""

    def __init__(self, command, environment):
        self.errors = tempfile.TemporaryFile()
        # A session of its own, so that a profiler ends together with what it runs.
        self.process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=os.environ | environment, text=True, errors="replace",
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, start_new_session=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def line(self, until):
        """The next line, nothing at the end; TimeoutError after the moment `until` of time.monotonic()."""
        try:
            return self.lines.get(timeout=max(0.1, until - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None

    def to_the_end(self, until):
        """All lines until it ends by itself, and its exit status: nothing where it had to be ended. It never outlives this call."""
        self.process.stdin.close()
        lines = []
        try:
            while line := self.line(until):
                lines.append(line)
            return lines, self.process.wait()
        except TimeoutError:
            return lines, None
        finally:
            self.end()

    def end(self):
        """Ends the process and what it has started, if it has not ended by itself."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def last_words(self):
        """The error in what it wrote to standard error: the line that says so, else the last one."""
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().decode(errors="replace").splitlines() if line.strip()]
        return next((line for line in lines if line.startswith("error")), lines[-1] if lines else "it says nothing")


class Sides:
    """Both programs, the folder with what they load, and what a run was asked for."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.device, self.ftrepl = options.device, Path(options.ftrepl)
        self.deadline = time.monotonic() + options.limit
        # Theirs, while it runs; what was in use on the device before it; the number of words of each model that was made; where ours
        # finds CUDA's libraries, if not by itself.
        self.server, self.before, self.words, self.libraries = None, 0, {}, {}
        if self.device == "cuda":
            # The number by which nvidia-smi knows the card.
            self.environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(options.gpu)}
            self.memory = CardMemory(options.gpu)
        else:
            self.environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
            self.memory = ResidentMemory()

    def plain(self, text):
        """A text that has no paths of this machine and fits into a table."""
        return plain(text, {self.folder: "TMP"})

    @property
    def hard_end(self):
        """When what runs is ended: somewhat after the limit, so that the row that has begun can end."""
        return self.deadline + 40

    def end_of_row(self):
        """When a side that has begun now is ended."""
        return min(self.hard_end, time.monotonic() + LONGEST)

    def end_theirs(self):
        if self.server:
            self.server.end()
            self.server = None

    def close(self):
        self.end_theirs()
        self.memory.close()

    # ---- ours

    def check_ours(self, libraries=None):
        """Our version, once it is sure that it computes on the device. Nothing where it does not start and `libraries`, the folders in which
        PyTorch brings CUDA's, are not known yet: then they may be what it lacks."""
        if not self.ftrepl.exists():
            raise Problem(f"{self.ftrepl} is missing; build it with: {BUILD if self.device == 'cuda' else 'cargo build --release'}")
        if libraries is not None:
            # What scripts/with-cuda fetched was linked against.
            toolkit = ROOT / "target" / "cuda-toolkit" / "nvidia" / "cu13" / "lib"
            folders = [os.environ.get("LD_LIBRARY_PATH"), str(toolkit) if toolkit.is_dir() else None, *libraries]
            self.libraries = {"LD_LIBRARY_PATH": ":".join(folder for folder in folders if folder)}
        found = self.doctor()
        if isinstance(found, str):
            if libraries is None:
                return None
            raise Problem(f"{self.ftrepl} does not start: {found}; where CUDA's libraries are missing, `scripts/with-cuda` without a command "
                          "says which it needs and where they come from")
        if self.device == "cuda" and "cuda" not in found["gpu_support_in_this_build"]:
            raise Problem(f"{self.ftrepl} is built without CUDA; build it with: {BUILD}")
        if not found["device"].startswith(self.device):
            raise Problem(f"{self.ftrepl} does not open the GPU: {found['device']}")
        return found["version"]

    def doctor(self):
        """What `ftrepl doctor` finds, or why it does not run."""
        command = [self.ftrepl, "--json", "--device", self.device, "doctor"]
        environment = os.environ | self.our_environment | {"HF_HUB_OFFLINE": "1"}
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        try:
            return json.loads(result.stdout)
        except json.JSONDecodeError:
            return (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]

    @property
    def our_environment(self):
        return self.environment | self.libraries

    def command(self, row, steps):
        """Our command for so many steps of a row."""
        settings = {"model": self.model(row.model), "data": self.data(row), "dtype": row.dtype, "batch": self.batch(row), "seq": row.seq,
                    "steps": steps, "rate": row.rate, "checkpointing": int(row.checkpointing)}
        if row.method != "full":
            settings["adapter"] = self.adapter(row)
        given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        threads = ["--threads", 1] if self.device == "cpu" else []
        return [self.ftrepl, "--quiet", "--device", self.device, "--out", self.folder, *threads, "run", "benches/workloads/gpu_train.rhai", *given]

    def ours(self, row):
        warm = self.options.warm
        command = self.command(row, warm + self.options.steps)
        before = self.memory.in_use()
        self.memory.start()
        process = Process(command, self.our_environment)
        self.memory.follow(process.process.pid)
        lines, status = process.to_the_end(self.end_of_row())
        found = [json.loads(line) for line in lines if line.startswith("{")]
        steps = [line for line in found if "step" in line]
        memory = next((line["memory"] for line in found if "memory" in line), {})
        if status:
            return {"error": process.last_words() if status > 0 else f"ended by signal {-status}: {process.last_words()}"}
        timed = steps[warm:]
        # Where it was too slow, the steps that were done count.
        if len(timed) < min(2, self.options.steps):
            return {"error": f"stopped after {len(steps)} of {warm + self.options.steps} steps, as time ran out"}
        taken, what = self.memory.peak(process.process.pid, before)
        seconds = [step["seconds"] for step in timed]
        return {"seconds": seconds, "whole": sum(seconds), "tokens": [step["tokens"] for step in steps],
                "losses": [step["loss"] for step in steps], "memory": taken, "memory_is": what,
                "own_count": {key: value * 1e6 for key, value in memory.items() if key not in ("current", "peak")}}

    # ---- theirs

    def start_theirs(self):
        """Starts the server, and gives what it says of itself."""
        self.before = self.memory.in_use()
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        try:
            self.server = Process([self.options.python, "benches/peer/gpu_train.py", self.device], self.environment | quiet)
        except OSError as error:
            raise Problem(f"Python for theirs does not start: {error}; name one that has torch, transformers and peft with --python") from None
        found = self.answer()
        if "error" in found:
            raise Problem(f"the peer does not start with {self.options.python}: {found['error']}; it needs torch, transformers and peft "
                          "(--python names another; benches/peer/setup makes one)")
        if self.device == "cuda" and not found["available"]:
            built = f"is built for CUDA {found['cuda']}, but finds no usable card or driver" if found["cuda"] else "is built without CUDA"
            raise Problem(f"PyTorch {found['versions']['torch']} of {self.options.python} {built}; --python names a Python whose PyTorch has CUDA")
        self.memory.follow(self.server.process.pid)
        return found

    def answer(self):
        """The server's next answer; after an error it is ended, whatever it may still hold on the device."""
        try:
            line = self.server.line(self.end_of_row())
        except TimeoutError:
            found = {"error": "stopped, as time ran out"}
        else:
            found = json.loads(line) if line else {"error": f"it ended: {self.server.last_words()}"}
        if "error" in found:
            self.end_theirs()
        return found

    def ask(self, **task):
        if self.server is None:
            self.start_theirs()
        try:
            print(json.dumps(task, default=str), file=self.server.process.stdin, flush=True)
        except BrokenPipeError:
            pass
        return self.answer()

    def theirs(self, row):
        task = {"do": "train", "model": self.model(row.model), "adapter": "" if row.method == "full" else self.adapter(row), "data": self.data(row),
                "dtype": "f32" if row.masters else row.dtype, "autocast": row.masters or self.options.autocast, "batch": self.batch(row),
                "seq": row.seq, "warm": self.options.warm, "steps": self.options.steps, "rate": row.rate, "checkpointing": row.checkpointing}
        if self.server is None:
            self.start_theirs()
        pid = self.server.process.pid
        self.memory.start()
        found = self.ask(**task)
        if "error" not in found:
            found["memory"], found["memory_is"] = self.memory.peak(pid, self.before)
            found["own_count"] = {f"PyTorch, {key}": found[key] for key in ("allocated", "reserved") if key in found}
        return found

    # ---- what both load

    def model(self, name):
        """A model's folder, made when it is first asked for."""
        folder = self.folder / name
        if name not in self.words:
            self.words[name] = self.made(do="model", name=name, folder=folder)["words"]
        return folder

    def adapter(self, row):
        targets = "all-linear" if row.method == "lora-all" else "queries-and-values"
        folder = self.folder / f"{row.model}-{targets}"
        if not folder.exists():
            self.made(do="adapter", name=row.model, model=self.model(row.model), targets=targets, rank=RANK, folder=folder)
        return folder

    def made(self, **task):
        found = self.ask(**task)
        if "error" in found:
            raise Problem(f"what both sides load cannot be made: {found['error']}")
        return found

    def batch(self, row):
        return max(1, self.options.tokens // row.seq)

    def data(self, row):
        count = self.batch(row) * (self.options.warm + self.options.steps)
        path = self.folder / f"{row.model}-{row.seq}-{count}.jsonl"
        if not path.exists():
            write_rows(path, count, row.seq, self.words[row.model])
        return path
