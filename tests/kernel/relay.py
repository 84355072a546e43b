"""What stands between Jupyter and another program's kernel: here our own, started as evcxr is."""
import json
import os
import pathlib
import signal
import sys
import time
import unittest

from jupyter_client.manager import KernelManager

# Records of a task that lasts long enough to be shown, among what else a cell does.
CELL = """
print("before");
sleep(0.1);
for step in 1..=RECORDS {
    print("\\u001e" + `progress {"task":"train","done":${step},"total":5,"unit":"steps","message":"","loss":${2.5 / step},"finished":${step == 5}}`);
    sleep(0.3);
}
print("after");
6 * 7
"""


def processes(word):
    """The identities of processes with this word in their command."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if word.encode() in command:
            found.append(int(folder.name))
    return found


class Relay(unittest.TestCase):
    def start(self):
        folder = pathlib.Path(os.environ["JUPYTER_PATH"]) / "kernels" / "relayed"
        folder.mkdir(parents=True, exist_ok=True)
        program = os.environ["FTREPL_PROGRAM"]
        inner = ["sh", "-c", f'exec "{program}" kernel "$2"', "sh", "--control_file", "{connection_file}"]
        spec = {"argv": [program, "rust-kernel", *inner], "display_name": "relayed", "language": "rhai", "interrupt_mode": "message"}
        (folder / "kernel.json").write_text(json.dumps(spec))
        self.manager = KernelManager(kernel_name="relayed")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.addCleanup(self.manager.shutdown_kernel, now=True)
        self.addCleanup(self.client.stop_channels)
        self.client.wait_for_ready(timeout=60)

    def run_cell(self, code):
        messages = []
        reply = self.client.execute_interactive(code, output_hook=messages.append, timeout=60)
        kept = [m for m in messages if m["msg_type"] not in ("status", "execute_input")]
        return reply["content"]["status"], kept

    def test_records_become_an_output_that_is_rewritten(self):
        self.start()
        status, messages = self.run_cell(CELL.replace("RECORDS", "5"))
        self.assertEqual(status, "ok")
        printed = [m["content"]["text"] for m in messages if m["msg_type"] == "stream"]
        self.assertEqual("".join(printed), "before\nafter\n")
        self.assertEqual([m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "execute_result"], ["42"])
        shown = [m for m in messages if m["msg_type"] in ("display_data", "update_display_data")]
        self.assertEqual([m["msg_type"] for m in shown], ["display_data"] + ["update_display_data"] * (len(shown) - 1))
        self.assertGreater(len(shown), 1)
        self.assertEqual(len({m["content"]["transient"]["display_id"] for m in shown}), 1)
        last = shown[-1]["content"]["data"]
        self.assertIn("train: 5/5 steps", last["text/plain"])
        self.assertIn("loss", last["text/html"])
        # Each belongs to the cell's request, so that a front end puts it below the cell.
        self.assertEqual(len({m["parent_header"]["msg_id"] for m in messages}), 1)
        # Another cell's progress is another output.
        _, messages = self.run_cell(CELL.replace("RECORDS", "3"))
        again = [m for m in messages if m["msg_type"] == "display_data"]
        self.assertEqual(len(again), 1)
        self.assertNotEqual(again[0]["content"]["transient"], shown[0]["content"]["transient"])

    def test_errors_interrupts_and_the_end_pass(self):
        self.start()
        status, messages = self.run_cell("print(\"told\"); foo(1)")
        self.assertEqual((status, [m["msg_type"] for m in messages]), ("error", ["stream", "error"]))
        request = self.client.execute("let kept = 5; loop { sleep(0.05); }")
        time.sleep(0.5)
        self.manager.interrupt_kernel()
        while (reply := self.client.get_shell_msg(timeout=30))["parent_header"]["msg_id"] != request:
            pass
        self.assertEqual(reply["content"]["status"], "error")
        _, messages = self.run_cell("kept + 1")
        self.assertEqual(messages[-1]["content"]["data"]["text/plain"], "6")
        self.client.shutdown()
        began = time.monotonic()
        while self.manager.is_alive():
            self.assertLess(time.monotonic() - began, 10)
            time.sleep(0.05)

    def test_the_kernel_ends_with_what_started_it(self):
        """Also when that is killed by itself, which Linux can be told."""
        if sys.platform != "linux":
            return
        self.start()
        [relay] = processes(self.manager.connection_file)
        self.assertIn(b"rust-kernel", pathlib.Path(f"/proc/{relay}/cmdline").read_bytes())
        tasks = pathlib.Path(f"/proc/{relay}/task").glob("*/children")
        children = [child for task in tasks for child in task.read_text().split()]
        self.assertEqual(len(children), 1)
        os.kill(relay, signal.SIGKILL)
        began = time.monotonic()
        while pathlib.Path(f"/proc/{children[0]}").exists():
            self.assertLess(time.monotonic() - began, 10)
            time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
