"""Jupyter's own test for kernels (jupyter_kernel_test), which none of us wrote."""
import unittest

import jupyter_kernel_test


class CSharpKernel(jupyter_kernel_test.KernelTests):
    kernel_name = ".net-csharp"
    language_name = "polyglot-notebook"
    file_extension = ".cs"
    code_hello_world = 'Console.WriteLine("hello, world");'
    code_stderr = 'Console.Error.WriteLine("on stderr");'
    code_page_something = None
    completion_samples = [
        {"text": "Console.Wri", "matches": {"Write", "WriteLine"}},
        {"text": "var list = new List<int>(); list.Ad", "matches": {"Add", "AddRange"}},
    ]
    complete_code_samples = ["1 + 1", "for (var i = 0; i < 3; i++) { Console.Write(i); }", "#!time\n1"]
    incomplete_code_samples = ["if (true) {", "var x = 1 +", "int F(int a,", "/* open"]
    invalid_code_samples = ["var var 3 = ;", "1 + ) 2"]
    code_generate_error = 'throw new Exception("on purpose");'
    code_execute_result = [{"code": "6 * 7", "result": "42"}, {"code": "new[] { 1, 2 }", "result": "[ 1, 2 ]"}]
    code_display_data = [{"code": 'display(HTML("<b>x</b>"));', "mime": "text/html"}]
    code_history_pattern = "6 *"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "Console.WriteLine"
    code_clear_output = ""


if __name__ == "__main__":
    unittest.main()
