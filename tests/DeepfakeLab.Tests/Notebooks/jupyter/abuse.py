"""Sends the kernel a thousand messages that are none, and garbage on its ports; then asks whether it is still well."""
import os
import random
import socket
import sys

import zmq
from jupyter_client.manager import start_new_kernel

COUNT = int(sys.argv[1])
random.seed(7)
manager, client = start_new_kernel(kernel_name=".net-csharp")
pid = manager.provisioner.process.pid


def ask(code, expected):
    request = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") == request and message["msg_type"] == "execute_result":
            assert message["content"]["data"]["text/plain"] == expected
            return


def memory():
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def threads():
    return len(os.listdir(f"/proc/{pid}/task"))


ask("var kept = 3; kept", "3")
context = zmq.Context.instance()
info = manager.get_connection_info()
sockets = []
for channel in ("shell", "control", "stdin", "hb"):
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.connect(f"tcp://127.0.0.1:{info[channel + '_port']}")
    sockets.append(dealer)

session = client.session
header = session.msg_header("execute_request")
good = session.serialize(session.msg("execute_request", {"code": "kept = 666;", "silent": False}))
# good: [delimiter, signature, header, parent, metadata, content]


def signed(parts):
    return [b"<IDS|MSG>", session.sign(parts)] + parts


def attack(i):
    kind = i % 14
    noise = bytes(random.randrange(256) for _ in range(random.randrange(64)))
    if kind == 0: return [noise]
    if kind == 1: return [b""]
    if kind == 2: return [b"<IDS|MSG>"]
    if kind == 3: return [b"<IDS|MSG>", b"0" * 64] + good[2:]
    if kind == 4: return [b"<IDS|MSG>", b""] + good[2:]
    if kind == 5: return [b"<IDS|MSG>", good[1][:-1] + b"x"] + good[2:]
    if kind == 6: return good[:5]
    if kind == 7: return [b"a", b"b", b"c", noise] + [noise] * 6
    if kind == 8: return good[:5] + [good[5].replace(b"666", b"667")]
    if kind == 9: return signed([noise, b"{}", b"{}", b"{}"])
    if kind == 10: return signed([b"[]", b"{}", b"{}", b"{}"])
    if kind == 11: return signed([b'{"msg_type": 5}', b"{}", b"{}", b"{}"])
    if kind == 12: return signed([b'{"msg_type": "execute_request"}', b"{}", b"{}", random.choice([b"{}", b'{"code": 5}', b'{"code": [[]]}', b'{"code": "1", "silent": "x"}'])])
    return signed([b'{"msg_type": "' + random.choice([b"history", b"complete", b"inspect", b"is_complete", b"shutdown_", b"unheard_of"]) + b'_request", "msg_type": "x"}', b"{}", b"{}", b"[" * 5000])


for i in range(200):
    random.choice(sockets).send_multipart(attack(i))
ask("kept + 1", "4")
before = (memory(), threads())
for i in range(COUNT):
    random.choice(sockets[:2] if i % 3 else sockets).send_multipart(attack(i))
    if i % 20 == 0:
        with socket.create_connection(("127.0.0.1", info[random.choice(["shell", "control", "iopub", "stdin", "hb"]) + "_port"])) as raw:
            raw.sendall(random.choice([bytes(random.randrange(256) for _ in range(200)), b"GET / HTTP/1.1\r\n\r\n", b"\xff" + b"\x00" * 8 + b"\x7f", b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + b"\x00" * 48 + b"\x02" + b"\xff" * 8]))
ask("kept + 2", "5")
after = (memory(), threads())
assert client.is_alive() and manager.is_alive()
assert after[0] - before[0] < 60, (before, after)
assert after[1] - before[1] < 12, (before, after)
client.stop_channels()
manager.shutdown_kernel()
print(f"memory {before[0]:.0f} -> {after[0]:.0f} MB, threads {before[1]} -> {after[1]}")
