"""Where the time of our steps goes on the card, by kernel: NVIDIA's profilers around one short training, and a table of what they counted.

Nsight Systems (nsys) lets the program run as it is; Nsight Compute (ncu), the second choice, stops at every kernel to time it alone."""
import csv
import glob
import shutil
import time
from pathlib import Path

from .card import Problem
from .gpu_sides import Process
from .tables import number
from .work import ROOT

SHOWN = 30


def find(name):
    """A profiler's program: on the PATH, else where CUDA's toolkit and NVIDIA's packages put it."""
    places = [f"/usr/local/cuda/bin/{name}", f"/opt/nvidia/nsight-compute/*/{name}", f"/opt/nvidia/nsight-systems/*/bin/{name}"]
    return shutil.which(name) or next((path for place in places for path in sorted(glob.glob(place), reverse=True)), None)


def table_in(lines, column):
    """The rows of the CSV whose head names `column`: before it profilers write what they are doing."""
    start = next((at for at, line in enumerate(lines) if column in line and line.count(",") >= 3), None)
    return [] if start is None else list(csv.DictReader(lines[start:]))


def kernels(rows, name, nanoseconds, launches=None):
    """Seconds and launches by kernel. Rows without a time, such as that of the units, count nothing."""
    found = {}
    for row in rows:
        try:
            spent = float(row[nanoseconds].replace(",", "")) / 1e9
            count = int(row[launches].replace(",", "")) if launches else 1
        except (KeyError, ValueError, AttributeError):
            continue
        before = found.get(row[name], (0.0, 0))
        found[row[name]] = (before[0] + spent, before[1] + count)
    return found


def run(command, sides):
    """Runs a command to its end; its lines of output. Fails with its last words."""
    process = Process(command, sides.our_environment)
    lines, status = process.to_the_end(sides.hard_end)
    if status != 0:
        raise Problem("stopped, as time ran out" if status is None else f"exit status {status}: {process.last_words()}")
    return lines


def with_nsys(program, sides, row, file):
    steps = 4
    run([program, "profile", "--trace=cuda,cublas", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true", "-o", file,
         *sides.command(row, steps)], sides)
    report = file.with_suffix(".nsys-rep")
    lines = run([program, "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", "--output", "-", report], sides)
    return kernels(table_in(lines, "Total Time (ns)"), "Name", "Total Time (ns)", "Instances"), steps, report


def with_ncu(program, sides, row, file):
    steps, report = 1, file.with_suffix(".csv")
    run([program, "--clock-control", "none", "--target-processes", "all", "--metrics", "gpu__time_duration.sum", "--print-units", "base",
         "--csv", "--page", "raw", "--log-file", report, *sides.command(row, steps)], sides)
    lines = report.read_text(errors="replace").splitlines()
    return kernels(table_in(lines, '"Kernel Name"'), "Kernel Name", "gpu__time_duration.sum"), steps, report


def profile(sides, row):
    """Prints the table for one row."""
    programs = {name: find(name) for name in ("nsys", "ncu")}
    if not any(programs.values()):
        raise Problem("neither nsys (Nsight Systems) nor ncu (Nsight Compute) is installed; both come with CUDA's toolkit and from NVIDIA alone")
    folder = ROOT / "target" / "gpu-profile"
    folder.mkdir(parents=True, exist_ok=True)
    # What is loaded is made by theirs, which then leaves the card alone.
    sides.command(row, 1)
    sides.end_theirs()
    for name, way in (("nsys", with_nsys), ("ncu", with_ncu)):
        if programs[name] is None:
            continue
        start = time.monotonic()
        try:
            found, steps, report = way(programs[name], sides, row, folder / row.name)
        except Problem as problem:
            print(f"{name}: {sides.plain(str(problem))}", flush=True)
            continue
        if found:
            show(found, steps, f"{row.name} under {name}, {steps} step(s), {time.monotonic() - start:.0f} s in all; its report: "
                               f"{Path(report).relative_to(ROOT)}")
            return
        print(f"{name}: no kernel in what it wrote to {Path(report).relative_to(ROOT)}", flush=True)
    raise Problem("no profiler gave a table")


def show(found, steps, title):
    total = sum(seconds for seconds, _ in found.values())
    print(f"# {title}\n\nKernels take {number(total * 1e3 / steps)} ms a step, {sum(count for _, count in found.values()) / steps:.0f} launches.\n")
    print("| ms a step | share | launches a step | µs each | kernel |\n|---|---|---|---|---|")
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    for name, (seconds, count) in ordered[:SHOWN]:
        short = (name if len(name) <= 100 else name[:97] + "...").replace("|", "\\|")
        print(f"| {number(seconds * 1e3 / steps)} | {seconds / total:.1%} | {number(count / steps)} | {number(seconds * 1e6 / count)} | `{short}` |")
    if len(ordered) > SHOWN:
        print(f"\n{len(ordered) - SHOWN} more kernels take {number(sum(s for _, (s, _) in ordered[SHOWN:]) * 1e3 / steps)} ms a step.")
