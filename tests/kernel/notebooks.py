"""The committed notebooks: made from the scripts as they are now, and the quick ones give again what is in them."""
import os
import pathlib
import subprocess
import unittest

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Those that take seconds and need no model.
QUICK = ("01", "02", "05", "06")


def converted(script, kernel):
    target = pathlib.Path.cwd() / f"{script.stem}_{kernel}.ipynb"
    subprocess.run(
        [os.environ["FTREPL_PROGRAM"], "convert", script, "--to", "ipynb", "--kernel", kernel, "-o", target],
        check=True, stdout=subprocess.DEVNULL,
    )
    return nbformat.read(target, 4)


def told(cell):
    """What a cell shows, as text."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append(output.get("text") or output.get("data", {}).get("text/plain") or output.get("evalue"))
    return "".join(texts)


class Notebooks(unittest.TestCase):
    def test_they_are_made_from_the_scripts(self):
        scripts = sorted((ROOT / "scripts" / "lesson04").glob("*.rhai"))
        self.assertGreaterEqual(len(scripts), 9)
        for script in scripts:
            for kernel, suffix in (("ftrepl", ""), ("rust", "_rust")):
                with self.subTest(script=script.name, kernel=kernel):
                    kept = nbformat.read(ROOT / "notebooks" / f"{script.stem}{suffix}.ipynb", 4)
                    nbformat.validate(kept)
                    made = converted(script, kernel)
                    self.assertEqual([c.source for c in kept.cells], [c.source for c in made.cells])
                    # Run from the first to the last cell, without an error.
                    code = [cell for cell in kept.cells if cell.cell_type == "code"]
                    self.assertEqual([cell.execution_count for cell in code], list(range(1, len(code) + 1)))
                    kinds = {output.output_type for cell in code for output in cell.outputs}
                    self.assertNotIn("error", kinds)
                    size = (ROOT / "notebooks" / f"{script.stem}{suffix}.ipynb").stat().st_size
                    self.assertLess(size, 400_000)

    def test_the_quick_ones_give_the_same_again(self):
        for script in sorted((ROOT / "scripts" / "lesson04").glob("*.rhai")):
            if not script.name.startswith(QUICK):
                continue
            with self.subTest(script=script.name):
                kept = nbformat.read(ROOT / "notebooks" / f"{script.stem}.ipynb", 4)
                made = converted(script, "ftrepl")
                NotebookClient(made, kernel_name="ftrepl").execute()
                for before, after in zip(kept.cells, made.cells):
                    self.assertEqual(told(before), told(after), before.source)


if __name__ == "__main__":
    unittest.main()
