"""What is shown of the measurements: the rows and what they must reach, the notes under the table, the tables of growth."""
import json
import statistics
from dataclasses import dataclass
from typing import Callable

from .work import measure, train_work


# ---- what a row shows: a number out of a process's result

def tokens_per_second(found):
    """The median over the steps, the first one left out, or over the repeats of a generation."""
    rates = [tokens / seconds for tokens, seconds in zip(found["tokens"], found["seconds"])]
    return statistics.median(rates[1:] if "losses" in found else rates)


def peak(found):
    return found["peak_mb"]


def first_step(found):
    return found["first_step"]


def microseconds(found):
    return statistics.median(found["seconds"][1:]) * 1e6


def seconds_for_all(found):
    """Seconds for all questions; where only a sample was asked, scaled up."""
    return found["seconds"] * found["total"] / len(found["right"])


def minutes(found):
    return found["wall"] / 60


@dataclass
class Row:
    """A row of the table. `kind`: "speed" (ratio ours / theirs), "time" (theirs / ours), "share" (ours / theirs, at most `must`)."""
    name: str
    work: str
    text: str
    value: Callable
    unit: str
    kind: str
    must: float
    aim: str


ROWS = [
    Row("lora-f32", "lora-f32", "LoRA r 16 on q and v, f32, batch 4 x 128", tokens_per_second, "tokens/s", "speed", 1.2, "1.5"),
    Row("lora-bf16", "lora-bf16", "the same, bf16", tokens_per_second, "tokens/s", "speed", 1.5, "2"),
    Row("full-f32", "full-f32", "full fine-tuning, f32, batch 4 x 128", tokens_per_second, "tokens/s", "speed", 1.25, "1.6"),
    Row("full-short", "full-short", "full fine-tuning, f32, short rows, batch 1", tokens_per_second, "tokens/s", "speed", 2, "3"),
    Row("memory-lora", "lora-f32", "peak memory, LoRA, f32, batch 4 x 128", peak, "MB", "share", 0.5, "0.35"),
    Row("memory-full", "full-f32", "peak memory, full fine-tuning, f32, batch 4 x 128", peak, "MB", "share", 0.7, "0.55"),
    Row("generate-f32", "generate-f32", "greedy generation, one stream, f32", tokens_per_second, "tokens/s", "speed", 2.5, "memory bandwidth"),
    Row("generate-f32-plain", "generate-f32-plain", "the same, nothing guessed (`prompt_lookup_num_tokens: 0`)", tokens_per_second, "tokens/s", "speed", 2.5, "memory bandwidth"),
    Row("generate-q4", "generate-q4", "greedy generation, one stream, Q4_1, against llama.cpp", tokens_per_second, "tokens/s", "speed", 0.7, "1.2"),
    Row("generate-q4-plain", "generate-q4-plain", "the same, nothing guessed", tokens_per_second, "tokens/s", "speed", 0.7, "1.2"),
    Row("general-qa", "general-qa", "general_qa, all questions, 20 tokens, f32", seconds_for_all, "s", "time", 10, "20"),
    Row("tiny", "tiny", "the lesson's TinyModel, one step", microseconds, "µs", "time", 20, "40"),
    Row("first-step", "first-step", "process start to first LoRA step, the lesson's rows, batch 4, f32", first_step, "s", "time", 5, "10"),
    Row("first-step-128", "lora-f32", "the same, batch 4 x 128", first_step, "s", "time", 5, "10"),
    Row("lesson", "lesson", "lesson 4, the whole experiment", minutes, "min", "time", 4, "8"),
]


# ---- a row's cells

def values(results, value):
    """The numbers of one side, or the text of its error."""
    error = next((result["error"] for result in results if "error" in result), None)
    if error:
        return error.splitlines()[0]
    try:
        return [value(result) for result in results]
    except (KeyError, TypeError, IndexError, ZeroDivisionError, statistics.StatisticsError) as problem:
        return f"the script's result lacks what this row needs ({problem!r})"


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def shown(found, unit, machine):
    if isinstance(found, str):
        return f"failed: {machine.plain(found)}"
    spread = f" ({number(min(found))}–{number(max(found))})" if len(found) > 1 else ""
    return f"{number(statistics.median(found))} {unit}{spread}"


def ratio_of(ours, theirs, kind):
    """The ratio of the medians, or nothing where a side failed."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return None
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    return theirs / ours if kind == "time" else ours / theirs


def table_row(row, measured, machine):
    ours, theirs = (values(results, row.value) for results in measured)
    ratio = ratio_of(ours, theirs, row.kind)
    sign = "≤" if row.kind == "share" else "≥"
    if ratio is None:
        verdict = "failed"
    else:
        verdict = "yes" if (ratio <= row.must if row.kind == "share" else ratio >= row.must) else "no"
    cells = [row.name, row.text, shown(ours, row.unit, machine), shown(theirs, row.unit, machine),
             "" if ratio is None else f"{ratio:.2f}", f"{sign} {row.must:g}", row.aim, verdict]
    return f"| {' | '.join(cells)} |"


# ---- what stands under the table: whether both sides did the same work

def losses_note(name, ours, theirs):
    same = "the same tokens" if ours["tokens"] == theirs["tokens"] else f"OTHER TOKENS: {ours['tokens']} and {theirs['tokens']}"
    ends = [f"{found['losses'][0]:.4f} to {found['losses'][-1]:.4f}" for found in (ours, theirs)]
    return f"{name}: {len(ours['losses'])} steps, {same}; loss from {ends[0]}, theirs from {ends[1]}"


def text_note(name, ours, theirs):
    same = "the same text" if ours["text"].strip() == theirs["text"].strip() else "the texts differ"
    note = f"{name}: {ours['tokens'][0]} and {theirs['tokens'][0]} new tokens, {same}"
    if "weights_gb" in theirs:
        speed = tokens_per_second(ours) * theirs["weights_gb"]
        note += f"; {theirs['weights_gb']:.3f} GB of weights a token make {speed:.1f} GB/s, this machine reads {theirs['memory_gb_per_second']:.1f} GB/s"
    return note


def questions_note(name, ours, theirs):
    asked = theirs["asked"]
    return (f"{name}: ours answers all {ours['total']} questions ({sum(ours['right'])} right); theirs was asked an even sample of {len(asked)}, one by "
            f"one, and its time is scaled by {theirs['total'] / len(asked):.2f}; of that sample ours has {sum(ours['right'][i] for i in asked)} "
            f"right, theirs {sum(theirs['right'])}")


def tiny_note(name, ours, theirs):
    return f"{name}: task A's loss grows {ours['ratio']:.2f} times in ours, {theirs['ratio']:.2f} times in theirs"


def lesson_note(machine, ours, theirs):
    """A table of the arms."""
    mine = {arm["arm"]: arm for arm in json.loads((machine.folder / "results.json").read_text())["arms"]}
    lines = ["", "The lesson's arms, one run each side (other random numbers, so the accuracies are near, not equal):", "",
             "| arm | training, ours [s] | theirs | measuring, ours [s] | theirs | general questions right, ours | theirs |",
             "|---|---|---|---|---|---|---|"]
    for arm in theirs["arms"]:
        own = mine[arm["arm"]]
        trained = number(own["train"]["seconds"]) if own["train"] else "0"
        lines.append(f"| {arm['arm']} | {trained} | {number(arm['training'])} | {number(own['seconds_measuring'])} | {number(arm['measuring'])} | "
                     f"{own['general']['overall_accuracy']:.1%} | {arm['general']:.1%} |")
    return lines


def notes(measured, machine):
    """Lines about the first run of everything that both sides finished."""
    lines, arms = [], []
    for name, (ours, theirs) in measured.items():
        if "error" in ours[0] or "error" in theirs[0]:
            continue
        makers = {"generate-f32": text_note, "generate-q4": text_note, "generate-f32-plain": text_note, "generate-q4-plain": text_note, "general-qa": questions_note, "tiny": tiny_note}
        if name == "lesson":
            arms = lesson_note(machine, ours[0], theirs[0])
        else:
            lines.append("- " + makers.get(name, losses_note)(name, ours[0], theirs[0]))
    head = ["", "Whether both did the same work, in the first run:", ""] if lines else []
    return head + lines + arms


# ---- growth

GROWTH = {
    "sequence": ("seq", [64, 128, 256, 512, 1024, 2048], dict(batch=1)),
    "batch": ("batch", [1, 2, 4, 8, 16], dict(seq=128)),
    "threads": ("threads", [1, 2], dict(batch=4, seq=128)),
    "rank": ("rank", [4, 16, 64, 256], dict(batch=4, seq=128)),
}


def growth(machine, options, emit):
    for title, (key, points, fixed) in GROWTH.items():
        setting = ", ".join(f"{name} {value}" for name, value in fixed.items())
        emit(f"\n### LoRA by {title} ({setting}; {options.growth_runs} run(s) of {options.growth_steps} steps)\n")
        emit(f"| {title} | ours [tokens/s] | theirs | ratio | ours [MB] | theirs | share |")
        emit("|---|---|---|---|---|---|---|")
        for point in points:
            given = fixed | {key: point}
            threads = given.pop("threads", options.threads)
            work = train_work(f"{title} {point}", machine.folder, options.growth_steps, **given)
            measured = measure(machine, work, options.growth_runs, threads)
            cells = [str(point)]
            for value, kind in ((tokens_per_second, "speed"), (peak, "share")):
                ours, theirs = (values(results, value) for results in measured)
                ratio = ratio_of(ours, theirs, kind)
                cells += [shown(ours, "", machine), shown(theirs, "", machine), "" if ratio is None else f"{ratio:.2f}"]
            emit(f"| {' | '.join(cell.strip() for cell in cells)} |")
