"""Notebooks in Rust: evcxr's kernel with a Lab, after `ftrepl jupyter install --rust`."""
import os
import time
import unittest

from jupyter_client.manager import KernelManager

SETUP = """:dep ftrepl = { path = "..", default-features = false }
use ftrepl::prelude::*;
let mut lab = Lab::new()?;"""


class Rust(unittest.TestCase):
    def run_cell(self, code):
        messages = []
        began = time.monotonic()
        reply = self.client.execute_interactive(code, output_hook=messages.append, timeout=600)
        shown = [(m["msg_type"], m["content"]) for m in messages if m["msg_type"] not in ("status", "execute_input")]
        return reply["content"]["status"], shown, time.monotonic() - began

    def data(self, code):
        status, shown, seconds = self.run_cell(code)
        self.assertEqual(status, "ok", shown)
        return [content["data"] for kind, content in shown if kind == "execute_result"][0], seconds

    def test_a_lab(self):
        manager = KernelManager(kernel_name="rust")
        manager.start_kernel(cwd=os.environ["FTREPL_NOTEBOOKS"])
        self.client = manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=600)
            self.assertEqual(self.run_cell(SETUP)[0], "ok")
            data, _ = self.data('lab.run(r#"let w = tensor([1.0, 2.0]); w"#)')
            self.assertEqual(data["text/plain"], "tensor([1., 2.])")
            # Values cross, and the library's types have faces.
            data, _ = self.data('let w: Tensor = lab.get("w")?;\nw')
            self.assertEqual(data["text/plain"], "tensor([1., 2.])\nshape [2], f32")
            data, _ = self.data('lab.set("x", 5.0); lab.run("x * 2")')
            self.assertEqual(data["text/plain"], "10.0")
            data, _ = self.data("lab.run(\"plot([3, 1, 2])\")")
            self.assertTrue(data["image/svg+xml"].startswith("<svg") and "<img" in data["text/html"])
            # A script's error fails the cell where it is, and nothing is lost.
            status, shown, _ = self.run_cell('lab.run("foo(w)");\nprintln!("not reached");')
            printed = "".join(content["text"] for kind, content in shown if kind == "stream")
            self.assertEqual(status, "error")
            self.assertIn("no function is called `foo`", printed)
            self.assertNotIn("not reached", printed)
            times = []
            for code in ('lab.run("w.sum()")', 'lab.run("w.sum() + 1")', 'lab.run("w.sum() + 2")'):
                data, seconds = self.data(code)
                times.append(seconds)
            self.assertEqual(data["text/plain"], "tensor(5.)")
            self.assertLess(min(times), 1.5, times)
        finally:
            self.client.stop_channels()
            manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    unittest.main()
