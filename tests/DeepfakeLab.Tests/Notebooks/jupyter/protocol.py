"""Drives the kernel with Debian's jupyter_client and asserts what issue and protocol ask of it. Prints the times it took."""
import json
import sys
import time

from jupyter_client.manager import start_new_kernel
from queue import Empty

LIBRARY, = sys.argv[1:]  # the published folder
TIMEOUT = 120
times = {}


def run(client, code, **options):
    """Executes and returns (reply content, list of (type, content)) of everything published up to idle."""
    request = client.execute(code, **options)
    return gather(client, request)


def gather(client, request):
    published = []
    while True:
        message = client.get_iopub_msg(timeout=TIMEOUT)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
        published.append((message["msg_type"], message["content"]))
    while True:
        reply = client.get_shell_msg(timeout=TIMEOUT)
        if reply["parent_header"].get("msg_id") == request:
            return reply["content"], published


def of(published, kind):
    return [content for name, content in published if name == kind]


start = time.time()
manager, client = start_new_kernel(kernel_name=".net-csharp")
reply, published = run(client, "1 + 1")
times["first cell"] = time.time() - start
assert of(published, "execute_result")[0]["data"]["text/plain"] == "2", published
assert [name for name, _ in published][:2] == ["status", "execute_input"], published

trivial = []
for _ in range(10):
    begin = time.time()
    run(client, "2 + 2")
    trivial.append(time.time() - begin)
times["trivial cell"] = sorted(trivial)[5]
with open(f"/proc/{manager.provisioner.process.pid}/status") as status:
    times["idle memory, MB"] = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

# Output comes while the cell runs, not at its end.
request = client.execute('Console.Write("first"); await Task.Delay(1500); Console.Error.Write("second");')
streams = []
while len(streams) < 2:
    message = client.get_iopub_msg(timeout=TIMEOUT)
    if message["msg_type"] == "stream":
        streams.append((message["content"]["name"], message["content"]["text"], time.time()))
assert [s[:2] for s in streams] == [("stdout", "first"), ("stderr", "second")], streams
assert streams[1][2] - streams[0][2] > 0.7, streams
gather(client, request)

# An update names the display that it replaces.
reply, published = run(client, 'var shown = display("a"); shown.Update("b");')
first, = of(published, "display_data")
update, = of(published, "update_display_data")
assert first["transient"]["display_id"] == update["transient"]["display_id"]
assert (first["data"]["text/plain"], update["data"]["text/plain"]) == ("a", "b")

# A silent execution shows no result and counts for nothing; one that is not to be stored neither.
before = run(client, "1")[0]["execution_count"]
reply, published = run(client, "5", silent=True)
assert not of(published, "execute_result") and not of(published, "execute_input"), published
reply, published = run(client, "6", store_history=False)
assert of(published, "execute_result") and reply["execution_count"] == before
assert run(client, "1")[0]["execution_count"] == before + 1
reply, _ = run(client, "var x = 20;", user_expressions={"twice": "x * 2", "bad": "nothing"})
assert reply["user_expressions"]["twice"]["data"]["text/plain"] == "40" and reply["user_expressions"]["bad"]["status"] == "error"

# A failed cell takes those behind it with it, but not those sent later.
failing = client.execute('await Task.Delay(500); throw new Exception("no");')
behind = client.execute("7")
reply, published = gather(client, failing)
error, = of(published, "error")
assert (error["ename"], error["evalue"]) == ("Exception", "no") and "line 1" in error["traceback"][1], error
assert gather(client, behind)[0]["status"] == "aborted"
assert run(client, "8")[0]["status"] == "ok"
failing = client.execute('await Task.Delay(300); throw new Exception("no");', stop_on_error=False)
behind = client.execute("9")
gather(client, failing)
assert gather(client, behind)[0]["status"] == "ok"

# An interrupt stops a cell and keeps the state.
for code in ("while (true) { }", "System.Threading.Thread.Sleep(600000);", "await Task.Delay(-1);"):
    request = client.execute(code)
    time.sleep(0.8)
    begin = time.time()
    manager.interrupt_kernel()
    reply, published = gather(client, request)
    times["interrupt"] = max(times.get("interrupt", 0), time.time() - begin)
    assert reply["ename"] == "Interrupted", reply
assert of(run(client, "x")[1], "execute_result")[0]["data"]["text/plain"] == "20"

# So it does what a front end asks for after the cell.
request = client.execute("1", user_expressions={"slow": "System.Threading.Thread.Sleep(600000)"})
time.sleep(0.8)
begin = time.time()
manager.interrupt_kernel()
reply, published = gather(client, request)
times["interrupt"] = max(times["interrupt"], time.time() - begin)
assert reply["status"] == "ok" and reply["user_expressions"]["slow"]["ename"] == "Interrupted", reply
assert times["interrupt"] < 2, times

# A value whose display fails, or never ends, is an error of its cell; the kernel answers, and goes on.
for code, name in (("Enumerable.Range(0, 10).Select(i => 1 / (i - 5))", "DivideByZeroException"),
                   ('class Bad { public string ToPlotlyJson() => "{"; } new Bad()', "NotebookException"),
                   ("new Bad().Display()", "NotebookException"),
                   ("int Deep(int n) => Deep(n + 1) + 1; Deep(0)", "InsufficientExecutionStackException")):
    reply, published = run(client, code)
    assert reply["status"] == "error" and reply["ename"] == name and of(published, "error")[0]["ename"] == name, (code, reply)
request = client.execute("IEnumerable<int> Slow() { while (true) { System.Threading.Thread.Sleep(400); yield return 1; } } Slow()")
time.sleep(0.8)
manager.interrupt_kernel()
assert gather(client, request)[0]["ename"] == "Interrupted"
assert run(client, "x", user_expressions={"bad": "new Bad()"})[0]["user_expressions"]["bad"]["status"] == "error"
# Text that is no text: half a character.
reply, published = run(client, 'Console.Write("\\ud800"); "\\udc00x"')
assert reply["status"] == "ok" and "x" in of(published, "execute_result")[0]["data"]["text/plain"], (reply, published)

# The library, in the kernel's own process, with its native code; then the sentence for a library that is not there.
reply, published = run(client, f'''#r "{LIBRARY}/DeepfakeLab.dll"
#r "{LIBRARY}/TorchSharp.dll"
using TorchSharp; using DeepfakeLab;
torch.ones(2, 3, device: LabRuntime.Device)''')
assert reply["status"] == "ok", reply
assert "[2, 3]" in of(published, "execute_result")[0]["data"]["text/plain"], published
reply, _ = run(client, '#r "../absent/DeepfakeLab.dll"')
assert "kernel install" in reply["evalue"] and len(reply["traceback"]) == 1, reply

# A widget is refused, and nothing is left of it.
comm = client.session.msg("comm_open", {"comm_id": "c1", "target_name": "none", "data": {}})
client.shell_channel.send(comm)
while True:
    message = client.get_iopub_msg(timeout=TIMEOUT)
    if message["msg_type"] == "comm_close":
        assert message["content"]["comm_id"] == "c1"
        break

request = client.comm_info()
while True:
    reply = client.get_shell_msg(timeout=TIMEOUT)
    if reply["parent_header"].get("msg_id") == request:
        break
assert reply["msg_type"] == "comm_info_reply" and reply["content"]["status"] == "ok" and reply["content"]["comms"] == {}, reply["content"]

# Cursor positions count characters, not halves of them.
request = client.complete('var s = "\U0001F600"; Console.Wri', cursor_pos=24)
while True:
    reply = client.get_shell_msg(timeout=TIMEOUT)
    if reply["parent_header"].get("msg_id") == request:
        break
assert "WriteLine" in reply["content"]["matches"] and (reply["content"]["cursor_start"], reply["content"]["cursor_end"]) == (21, 24), reply["content"]
# What earlier cells declared is completed too.
request = client.complete("sho", cursor_pos=3)
while True:
    reply = client.get_shell_msg(timeout=TIMEOUT)
    if reply["parent_header"].get("msg_id") == request:
        break
assert "shown" in reply["content"]["matches"], reply["content"]

client.stop_channels()
manager.shutdown_kernel()
assert not manager.is_alive()
print(json.dumps({name: round(value, 3) for name, value in times.items()}))
