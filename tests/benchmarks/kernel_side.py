"""Starts the installed .net-csharp kernel again and again through Debian's jupyter_client; prints a line of JSON a round."""
import json
import sys
import time

from jupyter_client.manager import start_new_kernel

TRIVIAL = 30


def run(client, code):
    request = client.execute(code)
    while client.get_shell_msg(timeout=120)["parent_header"].get("msg_id") != request:
        pass


for _ in range(int(sys.argv[1])):
    begin = time.time()
    manager, client = start_new_kernel(kernel_name=".net-csharp")
    run(client, "1 + 1")
    first = time.time() - begin
    for _ in range(5):
        run(client, "2 + 2")
    trivial = []
    for _ in range(TRIVIAL):
        begin = time.time()
        run(client, "2 + 2")
        trivial.append(time.time() - begin)
    time.sleep(1)
    with open(f"/proc/{manager.provisioner.process.pid}/status") as status:
        memory = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
    client.stop_channels()
    manager.shutdown_kernel()
    del client, manager  # else they complain when the interpreter ends
    print(json.dumps({"first": first, "trivial": sorted(trivial)[TRIVIAL // 2], "slowest": max(trivial), "memory": memory}), flush=True)
