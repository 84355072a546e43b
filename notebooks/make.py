"""Makes the notebooks of this folder from scripts/lesson04 and runs them.

    python notebooks/make.py                  all, for the kernel of ftrepl
    python notebooks/make.py --rust           all, for evcxr
    python notebooks/make.py 01 05            only these steps

Needs nbclient (pip), the program `ftrepl` with its kernel (`ftrepl jupyter install`), for --rust evcxr (`ftrepl jupyter install
--rust`). The scripts are the one source: change them, not the notebooks.
"""
import argparse
import pathlib
import subprocess
import sys

import nbformat
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = HERE.parent / "scripts" / "lesson04"


def slim(book):
    """Leaves out what is there twice: the HTML of a lone figure holds the SVG again."""
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/svg+xml" in data and data.get("text/html", "").strip().startswith("<img ") and data["text/html"].count("<") == 1:
                del data["text/html"]
    for key in ("language_info", "kernelspec"):
        # What the kernel says of itself changes with its version.
        book.metadata.get(key, {}).pop("version", None)


def make(script, arguments):
    kernel = "rust" if arguments.rust else "ftrepl"
    target = HERE / f"{script.stem}{'_rust' if arguments.rust else ''}.ipynb"
    subprocess.run([arguments.ftrepl, "convert", script, "--to", "ipynb", "--kernel", kernel, "-o", target], check=True)
    book = nbformat.read(target, 4)
    place = {"metadata": {"path": str(HERE)}}
    options = {"timeout": None, "startup_timeout": 600, "record_timing": False, "coalesce_streams": True}
    NotebookClient(book, kernel_name=kernel, resources=place, **options).execute()
    slim(book)
    nbformat.write(book, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help="beginnings of the scripts' names; all unless given")
    parser.add_argument("--rust", action="store_true", help="notebooks for evcxr")
    parser.add_argument("--ftrepl", default="ftrepl", help="the program")
    arguments = parser.parse_args()
    scripts = sorted(SCRIPTS.glob("*.rhai"))
    chosen = [s for s in scripts if not arguments.steps or any(s.name.startswith(step) for step in arguments.steps)]
    if not chosen:
        sys.exit(f"no script in {SCRIPTS} begins with {', '.join(arguments.steps)}")
    for script in chosen:
        make(script, arguments)


if __name__ == "__main__":
    main()
