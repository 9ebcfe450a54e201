"""Restarts a kernel again and again: each begins fresh, answers, and leaves no process behind."""
import os
import sys
import tempfile
import time

from jupyter_client.manager import start_new_kernel

COUNT = int(sys.argv[1])


def children():
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.add(int(pid))
        except OSError:
            pass
    return found


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def left_behind():
    """What kernels may leave in the folder for temporary files."""
    return len([name for name in os.listdir(tempfile.gettempdir()) if "deepfakelab" in name and "deepfakelab-test-" not in name])


manager, client = start_new_kernel(kernel_name=".net-csharp")
begin, used, files = time.time(), [], left_behind()
for i in range(COUNT):
    client.wait_for_ready(timeout=120)
    request = client.execute(f"var n = {i}; n")
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") == request and message["msg_type"] in ("execute_result", "error"):
            assert message["content"]["data"]["text/plain"] == str(i)
            break
    used.append(memory(manager.provisioner.process.pid))
    if i % 5 == 4:
        client.execute("while (true) { }")  # restarted in the middle of a cell
        time.sleep(0.3)
    manager.restart_kernel(now=i % 10 == 9)
    assert len(children()) == 1, children()
assert max(used) < 300, used
early, late = (sorted(part)[len(part) // 2] for part in (used[:COUNT // 3], used[-(COUNT // 3):]))
assert late < 1.15 * early + 10, used  # a restarted kernel is as large as the first ones were
assert left_behind() <= files + 5, "kernels leave files behind"  # other programs and tests may be running
pid = manager.provisioner.process.pid
client.stop_channels()
manager.shutdown_kernel()
assert not children() and not os.path.exists(f"/proc/{pid}"), children()

# A Jupyter that is killed leaves no kernel behind.
read, write = os.pipe()
child = os.fork()
if child == 0:
    manager, client = start_new_kernel(kernel_name=".net-csharp")
    os.write(write, str(manager.provisioner.process.pid).encode())
    os.kill(os.getpid(), 9)
orphan = int(os.read(read, 20))
os.waitpid(child, 0)
deadline = time.time() + 30
def gone():
    try:
        with open(f"/proc/{orphan}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
while not gone():
    assert time.time() < deadline, "the kernel outlived its Jupyter"
    time.sleep(0.2)
print(f"{COUNT} restarts in {time.time() - begin:.0f} s; a kernel's memory at first {early:.0f} MB, at last {late:.0f} MB, most {max(used):.0f} MB")
