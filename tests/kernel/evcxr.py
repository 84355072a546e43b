"""Notebooks in Rust: evcxr's kernel with a Lab, after `ftrepl jupyter install --rust`."""
import os
import time
import unittest

from jupyter_client.manager import KernelManager

SETUP = """:dep ftrepl = { path = "..", default-features = false }
use ftrepl::prelude::*;
let mut lab = Lab::new()?;"""


class Rust(unittest.TestCase):
    def start(self):
        manager = KernelManager(kernel_name="rust")
        manager.start_kernel(cwd=os.environ["FTREPL_NOTEBOOKS"])
        client = manager.client()
        client.start_channels()
        self.addCleanup(manager.shutdown_kernel, now=True)
        self.addCleanup(client.stop_channels)
        client.wait_for_ready(timeout=600)
        return client

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

    def result(self, client, message):
        """The text of what a cell results in that was sent before; None of a cell without a result."""
        # Answers to the questions whether the kernel is ready come first.
        while (reply := client.get_shell_msg(timeout=600))["parent_header"]["msg_id"] != message:
            pass
        self.assertEqual(reply["content"]["status"], "ok")
        text = None
        while True:
            told = client.get_iopub_msg(timeout=60)
            if told["parent_header"].get("msg_id") != message:
                continue
            if told["msg_type"] == "execute_result":
                text = told["content"]["data"]["text/plain"]
            if told["content"].get("execution_state") == "idle":
                return text

    def test_a_lab(self):
        self.client = self.start()
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

    def test_two_notebooks_at_once(self):
        """Each builds its cells in a folder of its own, so that neither runs the other's."""
        clients = [self.start(), self.start()]
        for code, of_first, of_second in [
            (SETUP, None, None),
            ('lab.run("let mine = {}; mine")', "10", "20"),
            ("let number = {};\nnumber + 1", "11", "21"),
            ('lab.run("mine + 2")', "12", "22"),
        ]:
            sent = [client.execute(code.replace("{}", text)) for client, text in zip(clients, ("10", "20"))]
            shown = [self.result(client, message) for client, message in zip(clients, sent)]
            self.assertEqual(shown, [of_first, of_second], code)



if __name__ == "__main__":
    unittest.main()
