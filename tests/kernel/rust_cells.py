"""Cells of Rust in a notebook of the language, in a build with the feature rust-cells."""
import time
import unittest

from jupyter_client.manager import start_new_kernel


class RustCells(unittest.TestCase):
    def setUp(self):
        self.manager, self.client = start_new_kernel(kernel_name="ftrepl")

    def tearDown(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run_cell(self, code):
        messages = []
        reply = self.client.execute_interactive(code, output_hook=messages.append, timeout=600)
        shown = [(m["msg_type"], m["content"]) for m in messages if m["msg_type"] not in ("status", "execute_input")]
        return reply["content"], shown

    def text(self, code):
        _, shown = self.run_cell(code)
        return [content["data"]["text/plain"] for kind, content in shown if kind == "execute_result"][0]

    def test_values_cross_both_ways(self):
        self.run_cell("let n = 20; let rate = 0.5; let name = \"a \\\"b\\\"\"; let rows = [#{ a: 1 }]; let w = tensor([[1.0, 2.0], [3.0, 4.0]]);")
        cell = """%%rust -i n,rate,name,rows,w -o twice,text,doubled
println!("from rust: {}", rows[0]["a"]);
let twice: i64 = n * 2 + 2;
let text: String = format!("{name} {rate}");
let doubled: Tensor = Tensor { shape: w.shape.clone(), data: w.data.iter().map(|x| x * 2.0).collect() };"""
        reply, shown = self.run_cell(cell)
        self.assertEqual(reply["status"], "ok", reply)
        printed = "".join(c["text"] for kind, c in shown if kind == "stream" and c["name"] == "stdout")
        self.assertIn("from rust: 1", printed)
        self.assertEqual(self.text("twice"), "42")
        self.assertEqual(self.text("text"), "\"a \\\"b\\\" 0.5\"")
        self.assertEqual(self.text("doubled.sum()"), "tensor(20.)")
        self.assertEqual(self.text("doubled.shape"), "[2, 2]")
        # Variables of Rust stay for the next cell, whose last value is shown.
        self.assertEqual(self.text("%%rust\ntwice + 1"), "43")
        # What does not compile, and what is not there.
        self.assertEqual(self.run_cell("%%rust\nlet x: i64 = \"no\";")[0]["status"], "error")
        self.assertIn("no variable `gone`", self.run_cell("%%rust -i gone\n1")[0]["evalue"])
        # An interrupt ends the cell and keeps the session.
        self.client.execute("%%rust\nloop { std::thread::sleep(std::time::Duration::from_millis(10)); }")
        time.sleep(8)
        self.manager.interrupt_kernel()
        self.assertEqual(self.client.get_shell_msg(timeout=30)["content"]["ename"], "Interrupted")
        self.assertEqual(self.text("twice"), "42")


if __name__ == "__main__":
    unittest.main()
