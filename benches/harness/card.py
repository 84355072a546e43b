"""The graphics card: what it is, and the most memory that a process took of it. On the CPU, for benches/gpu --check, the process's own."""
import ctypes
import os
import subprocess
import threading
import time
from pathlib import Path


class Problem(Exception):
    """What stands against measuring, with what to do about it."""


def card(number):
    """The card's name, driver and memory in MiB, as nvidia-smi tells them."""
    fields = ["name", "driver_version", "memory.total"]
    command = ["nvidia-smi", f"--id={number}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        raise Problem("no NVIDIA GPU: nvidia-smi, which comes with the driver, does not run here; without one, `benches/gpu --check` tries "
                      "everything else on the CPU") from None
    values = [value.strip() for value in result.stdout.strip().split(",")]
    if result.returncode != 0 or len(values) != len(fields):
        said = (result.stdout + result.stderr).strip().splitlines()
        raise Problem(f"nvidia-smi finds no GPU {number}: {said[0] if said else 'it says nothing'}; `nvidia-smi -L` lists those there are")
    return dict(zip(fields, values))


class Watch:
    """Looks again and again, in a thread, at the memory of the processes that are asked for, and keeps the most."""

    def __init__(self, pause):
        self.lock, self.most, self.ended = threading.Lock(), {}, False
        self.thread = threading.Thread(target=self.look_on, args=(pause,), daemon=True)
        self.thread.start()

    def look_on(self, pause):
        while not self.ended:
            found = self.look()
            with self.lock:
                for key, value in found.items():
                    self.most[key] = max(value, self.most.get(key, 0))
            time.sleep(pause)

    def start(self):
        """Forgets what was most."""
        with self.lock:
            self.most = {}

    def close(self):
        self.ended = True
        self.thread.join()


class ProcessInfo(ctypes.Structure):
    """nvmlProcessInfo_v2_t of nvml.h."""
    _fields_ = [("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint)]


class MemoryInfo(ctypes.Structure):
    """nvmlMemory_t of nvml.h."""
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class CardMemory(Watch):
    """The most memory of the card by process: the numbers that nvidia-smi shows, from NVIDIA's management library, which it asks too.

    Where the driver does not tell processes apart, as in some containers, the growth of all that is in use on the card stands for one."""

    ALL = "all"
    # NVML_VALUE_NOT_AVAILABLE, which is -1 in an unsigned number.
    UNKNOWN = (1 << 64) - 1

    def __init__(self, number):
        try:
            self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            raise Problem("the driver's libnvidia-ml.so.1 cannot be loaded, so nothing tells how much memory a process takes") from None
        self.device = ctypes.c_void_p()
        status = self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(self.device))
        if status != 0:
            raise Problem(f"the driver's libnvidia-ml.so.1 does not open GPU {number} (status {status})")
        super().__init__(0.05)

    def look(self):
        count, infos = ctypes.c_uint(64), (ProcessInfo * 64)()
        found = {self.ALL: self.in_use()}
        if self.nvml.nvmlDeviceGetComputeRunningProcesses_v3(self.device, ctypes.byref(count), infos) == 0:
            found |= {info.pid: info.used for info in infos[:count.value] if info.used != self.UNKNOWN}
        return found

    def in_use(self):
        """What is in use on the card now, by all processes, in bytes."""
        memory = MemoryInfo()
        return memory.used if self.nvml.nvmlDeviceGetMemoryInfo(self.device, ctypes.byref(memory)) == 0 else 0

    def follow(self, pid):
        """All processes are followed."""

    def peak(self, pid, before):
        """The most since `start`, in bytes, and what that is; `before` was in use without the process."""
        with self.lock:
            if self.most.get(pid):
                return self.most[pid], "of the process, as nvidia-smi shows it"
            growth = self.most.get(self.ALL, 0) - before
        return (growth, "the growth of all that is in use on the card") if growth > 0 else (None, "not known")


class ResidentMemory(Watch):
    """The most resident memory of a process; Linux alone."""

    def __init__(self):
        self.pids, self.page = set(), os.sysconf("SC_PAGE_SIZE")
        super().__init__(0.01)

    def look(self):
        found = {}
        for pid in list(self.pids):
            try:
                found[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * self.page
            except (OSError, IndexError, ValueError):
                self.pids.discard(pid)
        return found

    def in_use(self):
        return 0

    def follow(self, pid):
        self.pids.add(pid)

    def peak(self, pid, before):
        with self.lock:
            return self.most.get(pid), "resident memory of the process"
