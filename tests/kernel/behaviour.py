"""What users of notebooks expect of a kernel, asked of a running one."""
import json
import os
import pathlib
import queue
import time
import unittest

import nbformat
from jupyter_client.manager import KernelManager, start_new_kernel
from jupyter_client.session import Session
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

# A training that takes long enough to look at: each of the callback's steps waits.
TRAIN = """
let model = AutoModelForCausalLM::from_pretrained("tiny-random");
let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
let rows = [#{ text: "on the hill" }, #{ text: "in the sun" }];
let trainer = Trainer(#{
    model: model, tokenizer: tokenizer, train_dataset: rows,
    args: TrainingArguments(#{ max_steps: STEPS, per_device_train_batch_size: 1, learning_rate: 0.001, logging_steps: 1 }),
    callbacks: [|state| { sleep(0.05); }],
});
let result = trainer.train();
"""


class Running:
    """A kernel with a client that keeps all messages of a cell."""

    def __enter__(self):
        began = time.monotonic()
        self.manager, self.client = start_new_kernel(kernel_name="ftrepl")
        self.start_seconds = time.monotonic() - began
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code, timeout=60, **options):
        messages = []
        reply = self.client.execute_interactive(code, output_hook=messages.append, timeout=timeout, **options)
        shown = [(m["msg_type"], m["content"]) for m in messages if m["msg_type"] not in ("status", "execute_input")]
        return reply["content"], shown

    def text(self, code):
        """The text of a cell's value."""
        _, shown = self.run(code)
        return [content["data"]["text/plain"] for kind, content in shown if kind == "execute_result"][0]


class Behaviour(unittest.TestCase):
    def test_first_result_within_a_second(self):
        times = []
        for _ in range(3):
            began = time.monotonic()
            with Running() as kernel:
                self.assertEqual(kernel.text("1 + 1"), "2")
                times.append(time.monotonic() - began)
        self.assertLess(min(times), 1.0, times)

    def test_state_and_results(self):
        with Running() as kernel:
            reply, shown = kernel.run("let x = 20; fn twice(n) { 2 * n }\nprint(\"a line\"); x")
            self.assertEqual(reply["execution_count"], 1)
            self.assertEqual(shown[0], ("stream", {"name": "stdout", "text": "a line\n"}))
            self.assertEqual(shown[1][1]["data"], {"text/plain": "20"})
            self.assertEqual(kernel.text("twice(x) + 2"), "42")
            self.assertEqual(kernel.text("ans"), "42")
            # A semicolon mutes; so does a value that is nothing.
            self.assertEqual(kernel.run("x;")[1], [])
            self.assertEqual(kernel.run("x; // of no interest")[1], [])
            reply, _ = kernel.run("1", user_expressions={"good": "x + 1", "bad": "y"})
            self.assertEqual(reply["user_expressions"]["good"]["data"]["text/plain"], "21")
            self.assertEqual(reply["user_expressions"]["bad"]["status"], "error")
            # What a front end asks for is not what the user saw last.
            kernel.run("99", silent=True)
            self.assertEqual(kernel.text("ans"), "1")
            faces = kernel.run("plot([3, 1, 2], #{ title: \"Loss\" })")[1][0][1]["data"]
            self.assertTrue(faces["image/svg+xml"].startswith("<svg") and "Loss" in faces["image/svg+xml"])
            self.assertIn("alt=\"Loss\"", faces["text/html"])
            self.assertIn("Loss", faces["text/plain"])

    def test_errors_say_where_and_stop_what_waits(self):
        with Running() as kernel:
            reply, shown = kernel.run("let a = 1;\na + no_such_name")
            self.assertEqual((reply["status"], reply["ename"]), ("error", "Error"))
            self.assertIn("no_such_name", reply["evalue"])
            self.assertIn("cell[1]", "\n".join(shown[0][1]["traceback"]))
            self.assertEqual(shown[0][0], "error")
            # "Run all": those that wait behind a cell that fails are not run.
            sent = [kernel.client.execute(code) for code in ("sleep(0.3); fail()", "let after = 1;", "2")]
            replies = {}
            while len(replies) < 3:
                message = kernel.client.get_shell_msg(timeout=10)
                replies[message["parent_header"]["msg_id"]] = message["content"]["status"]
            self.assertEqual([replies[msg_id] for msg_id in sent], ["error", "aborted", "aborted"])
            self.assertEqual(kernel.run("after")[0]["status"], "error")
            self.assertEqual(kernel.text("a"), "1")

    def test_output_streams_while_the_cell_runs(self):
        with Running() as kernel:
            arrived = []
            began = time.monotonic()
            hook = lambda m: arrived.append((time.monotonic() - began, m["content"].get("text")))
            kernel.client.execute_interactive("print(\"first\"); sleep(1.0); print(\"second\");", output_hook=hook)
            first = [seconds for seconds, text in arrived if text == "first\n"]
            self.assertTrue(first and first[0] < 0.8, arrived)
            # Many lines are few messages, and none is lost.
            _, shown = kernel.run("for i in 0..20000 { print(i); }")
            text = "".join(content["text"] for _, content in shown)
            self.assertEqual(text.split(), [str(i) for i in range(20000)])
            self.assertLess(len(shown), 1000)

    def test_training_redraws_its_curve_in_place(self):
        with Running() as kernel:
            _, shown = kernel.run(TRAIN.replace("STEPS", "60"))
            first = [content for kind, content in shown if kind == "display_data"]
            updates = [content for kind, content in shown if kind == "update_display_data"]
            self.assertEqual(len(first), 1)
            self.assertGreaterEqual(len(updates), 3)
            name = first[0]["transient"]["display_id"]
            self.assertTrue(all(update["transient"]["display_id"] == name for update in updates))
            last = updates[-1]["data"]
            self.assertIn("train: 60/60 steps", last["text/plain"])
            self.assertIn("<img src=\"data:image/svg+xml,", last["text/html"])
            faces = kernel.run("result")[1][0][1]["data"]
            self.assertIn("<img src=\"data:image/svg+xml,", faces["text/html"])
            self.assertTrue(faces["image/svg+xml"].startswith("<svg"))

    def test_interrupt_keeps_variables(self):
        with Running() as kernel:
            kernel.run("let kept = 7;")
            for code in ("loop { kept += 1; }", TRAIN.replace("STEPS", "100000")):
                kernel.client.execute(code)
                time.sleep(1.0)
                kernel.manager.interrupt_kernel()
                reply = kernel.client.get_shell_msg(timeout=10)
                self.assertEqual(reply["content"]["ename"], "Interrupted")
            self.assertGreater(int(kernel.text("kept")), 7)
            # The model is as after the last step.
            self.assertEqual(kernel.text("model.generate(\"on\", #{ max_new_tokens: 2 }).len() > 0"), "true")

    def test_what_goes_on_in_another_cell_is_shown_there(self):
        with Running() as kernel:
            made = TRAIN.replace("STEPS", "60").replace("max_steps", "output_dir: \"resumed\", save_steps: 1, max_steps")
            kernel.run(made.replace("let result = trainer.train();", ""))
            kernel.client.execute("trainer.train();")
            time.sleep(1.5)
            kernel.manager.interrupt_kernel()
            self.assertEqual(kernel.client.get_shell_msg(timeout=10)["content"]["ename"], "Interrupted")
            # Its first step is the one after the last of the interrupted training.
            _, shown = kernel.run("trainer.train(#{ resume_from_checkpoint: true });")
            kinds = [kind for kind, _ in shown if kind.endswith("display_data")]
            self.assertEqual(kinds[:2], ["display_data", "update_display_data"])

    def test_restart_forgets_and_works(self):
        with Running() as kernel:
            kernel.run("let gone = 1;")
            kernel.manager.restart_kernel(now=False)
            kernel.client.wait_for_ready(timeout=10)
            self.assertEqual(kernel.run("gone")[0]["status"], "error")
            self.assertEqual(kernel.text("3"), "3")
            kernel.manager.shutdown_kernel(now=False)
            self.assertFalse(kernel.manager.is_alive())

    def test_several_kernels_at_once(self):
        with Running() as one, Running() as two:
            one.run("let x = 1;")
            two.run("let x = 2;")
            self.assertEqual((one.text("x"), two.text("x")), ("1", "2"))

    def test_forged_messages_are_dropped(self):
        with Running() as kernel:
            forger = KernelManager(connection_file=kernel.manager.connection_file).client()
            forger.load_connection_file(kernel.manager.connection_file)
            forger.session = Session(key=b"not the key")
            forger.start_channels()
            forger.execute("let forged = 1;")
            with self.assertRaises(queue.Empty):
                forger.get_shell_msg(timeout=1)
            forger.stop_channels()
            self.assertEqual(kernel.run("forged")[0]["status"], "error")

    def test_widgets_and_unreadable_requests(self):
        with Running() as kernel:
            session, shell = kernel.client.session, kernel.client.shell_channel
            shell.send(session.msg("comm_open", {"comm_id": "a", "target_name": "widget", "data": {}}))
            shell.send(session.msg("comm_msg", {"comm_id": "a", "data": {}}))
            shell.send(session.msg("comm_close", {"comm_id": "a", "data": {}}))
            self.assertEqual(kernel.client.comm_info(reply=True, timeout=5)["content"]["comms"], {})
            shell.send(session.msg("complete_request", {"code": 1}))
            reply = kernel.client.get_shell_msg(timeout=5)
            self.assertEqual((reply["msg_type"], reply["content"]["status"]), ("complete_reply", "error"))
            # A cell of Rust in a build without them.
            if "rust" not in os.environ.get("FTREPL_FEATURES", ""):
                self.assertIn("rust-cells", kernel.run("%%rust\n1")[0]["evalue"])
            # An answer to a question that nobody asked.
            kernel.client.input("text")
            self.assertEqual(kernel.text("1"), "1")

    def test_completion_and_help(self):
        with Running() as kernel:
            kernel.run("let tensor_of_mine = tensor([1.0]);")
            code = "\"é\".len + tensor_of_mine.matm"
            found = kernel.client.complete(code, reply=True, timeout=5)["content"]
            self.assertEqual((found["matches"], found["cursor_start"], found["cursor_end"]), (["matmul"], 25, 29))
            kind = found["metadata"]["_jupyter_types_experimental"][0]
            self.assertEqual((kind["type"], kind["signature"]), ("function", "matmul(b: Tensor) -> Tensor"))
            # In a string whatever lies in the folder; a cursor beyond the end is at the end.
            open("a file.csv", "w").close()
            found = kernel.client.complete("load_dataset(\"a f", cursor_pos=99, reply=True, timeout=5)["content"]
            self.assertEqual((found["matches"], found["cursor_start"], found["cursor_end"]), (["a file.csv"], 14, 17))
            help_of = lambda code, level=0: kernel.client.inspect(code, detail_level=level, reply=True, timeout=5)["content"]
            self.assertIn("lora_dropout", help_of("LoraConfig(#{ r: 1")["data"]["text/plain"])
            self.assertIn("tensor_of_mine: Tensor", help_of("tensor_of_mine")["data"]["text/plain"])
            self.assertIn("fn compare_forgetting", help_of("compare_forgetting", 1)["data"]["text/plain"])
            self.assertFalse(help_of("nothing_of_this_name")["found"])
            payload = kernel.run("compare_forgetting??")[0]["payload"][0]
            self.assertIn("fn compare_forgetting", payload["data"]["text/plain"])

    def test_a_notebook_runs_and_a_failing_cell_fails_it(self):
        cells = [nbformat.v4.new_code_cell(code) for code in ("let x = 2;", "print(x);", "x * 21")]
        book = nbformat.v4.new_notebook(cells=cells)
        NotebookClient(book, kernel_name="ftrepl").execute()
        self.assertEqual(book.cells[1].outputs[0].text, "2\n")
        self.assertEqual(book.cells[2].outputs[0].data["text/plain"], "42")
        nbformat.validate(book)
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("fail()")])
        with self.assertRaises(CellExecutionError):
            NotebookClient(book, kernel_name="ftrepl").execute()

    def test_the_description_is_whole(self):
        manager = KernelManager(kernel_name="ftrepl")
        spec = json.loads((pathlib.Path(manager.kernel_spec.resource_dir) / "kernel.json").read_text())
        self.assertEqual((spec["language"], spec["interrupt_mode"]), ("rhai", "message"))


if __name__ == "__main__":
    unittest.main()
