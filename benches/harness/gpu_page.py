"""What benches/gpu shows of its measurements: a row of the table, and under the table what stands behind each row."""
import statistics

from .gpu_rows import AIM, AIM_MEMORY, MUST
from .tables import number, ratio_of, shown

COLUMNS = ["row", "work", "ours [tokens/s]", "theirs", "ratio", "ours [GB]", "theirs", "share", "losses", "met"]
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"

# Characters of an error that a cell shows.
LONGEST = 160


def error_of(results):
    """What ended one of the runs, short enough for a cell."""
    error = next((result["error"] for result in results if "error" in result), None)
    return error if error is None or len(error) <= LONGEST else error[:LONGEST].rpartition(" ")[0] + " ..."


def rates(results):
    """Tokens a second of every timed step of every run, or the text of an error."""
    error = error_of(results)
    return error or [tokens / seconds for result in results
                     for tokens, seconds in zip(result["tokens"][-len(result["seconds"]):], result["seconds"])]


def memory(results):
    """Gigabytes at the peak of every run, or the text of an error."""
    error = error_of(results)
    if not error and any(result["memory"] is None for result in results):
        error = "not known"
    return error or [result["memory"] / 1e9 for result in results]


def compared(ours, theirs):
    """The largest difference of the first losses and of the others, as shares, over the runs; nothing where a side failed."""
    if error_of(ours) or error_of(theirs):
        return None
    differences = [[abs(a - b) / abs(b) for a, b in zip(mine["losses"], other["losses"])] for mine, other in zip(ours, theirs)]
    return max(run[0] for run in differences), max(max(run[1:], default=0.0) for run in differences)


def same_tokens(ours, theirs):
    """Whether the steps that both did had as many tokens."""
    return all(a == b for mine, other in zip(ours, theirs) for a, b in zip(mine["tokens"], other["tokens"]))


def agree(row, ours, theirs, device):
    """Whether both did the same work: as many tokens, and losses that differ by no more than the row allows."""
    found = compared(ours, theirs)
    return found is not None and same_tokens(ours, theirs) and all(a <= b for a, b in zip(found, row.allowed(device)))


def losses_cell(row, ours, theirs, device):
    found = compared(ours, theirs)
    if found is None:
        return ""
    return f"{'agree' if agree(row, ours, theirs, device) else 'DIFFER'} ({max(found):.1e})"


def verdict(row, ours, theirs, device):
    """What is met: nothing, the must, or the aim as well. On the CPU nothing is to be met but that both do the same."""
    ratio = ratio_of(rates(ours), rates(theirs), "speed")
    share = ratio_of(memory(ours), memory(theirs), "share")
    if ratio is None:
        return "failed"
    if not agree(row, ours, theirs, device) or (device == "cuda" and ratio < MUST):
        return "no"
    if device == "cpu":
        return ""
    return "must and aim" if ratio >= AIM and share is not None and share <= AIM_MEMORY else "must"


def cell(values, sides):
    return " ".join(shown(values, "", sides).split())


def table_row(row, ours, theirs, sides):
    speeds, sizes = (rates(ours), rates(theirs)), (memory(ours), memory(theirs))
    # A failure stands where the speed would.
    size_cells = ["" if error_of(side) else cell(size, sides) for side, size in zip((ours, theirs), sizes)]
    ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in (ratio_of(*speeds, "speed"), ratio_of(*sizes, "share"))]
    cells = [row.name, f"{row.text}, {sides.batch(row)} x {row.seq}", *(cell(speed, sides) for speed in speeds), ratios[0], *size_cells, ratios[1],
             losses_cell(row, ours, theirs, sides.device), verdict(row, ours, theirs, sides.device)]
    return f"| {' | '.join(cells)} |"


def side_note(results):
    """The speed of whole runs, first and last loss, and what the memory is."""
    first = results[0]
    whole = statistics.median(sum(result["tokens"][-len(result["seconds"]):]) / result["whole"] for result in results)
    counts = "".join(f", {name} {value / 1e9:.2f} GB" for name, value in first["own_count"].items())
    return (f"{number(whole)} tokens/s over the whole of {len(first['seconds'])} steps, loss {first['losses'][0]:.4f} to "
            f"{first['losses'][-1]:.4f}{counts}")


def notes(measured, sides):
    """Lines under the table about every row that both sides finished, and what the memory is."""
    lines, kinds = [], {"ours": set(), "theirs": set()}
    for row, ours, theirs in measured:
        for side, results in (("ours", ours), ("theirs", theirs)):
            kinds[side] |= {result["memory_is"] for result in results if "error" not in result}
        if compared(ours, theirs) is None:
            continue
        first, others = compared(ours, theirs)
        allowed = row.allowed(sides.device)
        lines.append(f"- {row.name}: ours {side_note(ours)}; theirs {side_note(theirs)}; losses differ by at most {first:.1e} in the first step "
                     f"(allowed {allowed[0]:.1e}), {others:.1e} later ({allowed[1]:.1e})"
                     + ("" if same_tokens(ours, theirs) else "; OTHER TOKENS"))
    what = [f"{side} {' and '.join(sorted(found))}" for side, found in kinds.items() if found]
    if what:
        lines.insert(0, f"- memory: the most of it at once: {'; '.join(what)}")
    return ["", "In detail:", "", *lines] if lines else []
