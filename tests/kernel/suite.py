"""What every kernel must do: the suite of jupyter_kernel_test."""
import unittest

import jupyter_kernel_test


class Kernel(jupyter_kernel_test.KernelTests):
    kernel_name = "ftrepl"
    language_name = "rhai"
    file_extension = ".rhai"
    code_hello_world = "print(\"hello, world\")"
    # More general rows are wanted than there are: a warning.
    code_stderr = "create_replay_dataset([#{ a: 1 }, #{ a: 2 }, #{ a: 4 }], [#{ a: 3 }], #{ replay_fraction: 1.0 });"
    completion_samples = [
        {"text": "Lora", "matches": {"LoraConfig"}},
        {"text": "nn::Lin", "matches": {"Linear"}},
        {"text": "LoraConfig(#{ lora_d", "matches": {"lora_dropout: "}},
    ]
    complete_code_samples = ["1 + 1", "fn f(x) { x }", "let x = [1,\n2];", "?LoraConfig"]
    incomplete_code_samples = ["fn f(x) {", "let x = [1,", "foo(", "`open", "/* open"]
    invalid_code_samples = ["let x = ];", "x + )"]
    code_page_something = "?LoraConfig"
    code_generate_error = "no_such_function(1)"
    code_execute_result = [
        {"code": "1 + 2 + 3", "result": "6"},
        {"code": "1 + 2 + 4", "result": "7"},
        {"code": "tensor([1.5, 2.0])", "result": "tensor([1.5000, 2.0000])"},
        {"code": "plot([1, 2])", "mime": "image/svg+xml"},
        {"code": "[#{ a: 1 }, #{ a: 2 }]", "mime": "text/html"},
    ]
    code_display_data = [
        {"code": "display(plot([1, 2]));", "mime": "image/svg+xml"},
        {"code": "print(table([#{ a: 1 }]));", "mime": "text/html"},
    ]
    code_history_pattern = "1 ?*3"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "LoraConfig"
    code_clear_output = "clear_output();"


if __name__ == "__main__":
    unittest.main()
