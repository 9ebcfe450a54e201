"""Checkpoint files as Python writes them, and a look at what C# wrote.

usage: checkpoints.py write FOLDER           every format, each with the same tensors, and reference.safetensors
       checkpoints.py compare FILE REFERENCE  fails unless both hold equal tensors; FILE .pth is read with weights_only
       checkpoints.py load FILE MODEL         fails unless torchvision's model takes all of the file, whose modules have the versions that it would write
"""
import io
import json
import pickle
import struct
import sys
import tarfile
from collections import OrderedDict

import torch

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
         "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}


def raw(tensor):
    tensor = tensor.detach().contiguous()
    return bytes(tensor.flatten().view(torch.uint8 if tensor.dtype != torch.bool else torch.bool).numpy()) if tensor.numel() else b""


def write_safetensors(path, tensors):
    """Straight from the format's description, so that it is a second opinion."""
    header, data = {}, b""
    for key, tensor in tensors.items():
        bytes_ = raw(tensor)
        name = next(n for n, t in TYPES.items() if t == tensor.dtype)
        header[key] = {"dtype": name, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(bytes_)]}
        data += bytes_
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__", None)
    result = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = TYPES[entry["dtype"]]
        flat = torch.frombuffer(bytearray(data[begin:end]), dtype=dtype) if end > begin else torch.empty(0, dtype=dtype)
        result[key] = flat.reshape(entry["shape"])
    return result


def write_tar(path, tensors):
    """PyTorch 0.1's format, which no PyTorch of today writes but which torch.load still opens."""
    storages, described, keys = io.BytesIO(), io.BytesIO(), {}
    pickle.dump(len(tensors), storages, protocol=2)
    pickle.dump(len(tensors), described, protocol=2)
    for i, (key, tensor) in enumerate(tensors.items()):
        kind = {torch.float32: "Float", torch.float64: "Double", torch.int64: "Long", torch.float16: "Half", torch.uint8: "Byte"}[tensor.dtype]
        flat = tensor.contiguous().flatten()
        pickle.dump((1000 + i, "cpu", getattr(torch, kind + "Storage")), storages, protocol=2)
        storages.write(struct.pack("<q", flat.numel()) + raw(flat))
        pickle.dump((2000 + i, 1000 + i, getattr(torch, kind + "Tensor")), described, protocol=2)
        dense = tensor.contiguous()
        described.write(struct.pack("<ii", dense.dim(), 0) + struct.pack(f"<{dense.dim()}q", *dense.shape)
                        + struct.pack(f"<{dense.dim()}q", *dense.stride()) + struct.pack("<q", 0))
        keys[id(tensor)] = str(2000 + i)
    pickle.dump([], storages, protocol=2)

    content = io.BytesIO()
    pickler = pickle.Pickler(content, protocol=2)
    pickler.persistent_id = lambda value: keys.get(id(value)) if torch.is_tensor(value) else None
    pickler.dump(OrderedDict(tensors))
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name, member in (("sys_info", io.BytesIO(pickle.dumps({"little_endian": True}, protocol=2))), ("pickle", content),
                             ("storages", storages), ("tensors", described)):
            info = tarfile.TarInfo(name)
            info.size = len(member.getvalue())
            member.seek(0)
            tar.addfile(info, member)


def write(folder):
    torch.manual_seed(3)
    base = torch.randn(4, 6)
    plain = OrderedDict(
        f32=torch.randn(2, 3), f64=torch.randn(3, dtype=torch.float64), i64=torch.arange(-2, 3), f16=torch.randn(5).half(),
        u8=torch.arange(7, dtype=torch.uint8), scalar=torch.tensor(2.5))
    everything = OrderedDict(
        plain, bf16=torch.randn(2, 2).bfloat16(), i32=torch.arange(4, dtype=torch.int32), i16=torch.arange(4, dtype=torch.int16),
        i8=torch.arange(-3, 3, dtype=torch.int8), flag=torch.tensor([True, False]), empty=torch.empty(0, 3),
        turned=base.t(), part=base[1:3, ::2], shared=base, expanded=torch.tensor([1.0, 2.0]).unsqueeze(1).expand(2, 3),
        last=torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), parameter=torch.nn.Parameter(torch.randn(3)))
    everything["unicode Ω"] = torch.ones(1)
    everything._metadata = OrderedDict({"": {"version": 1}})
    write_safetensors(f"{folder}/reference.safetensors", everything)
    write_safetensors(f"{folder}/plain.safetensors", plain)
    torch.save(everything, f"{folder}/zip.pth")
    torch.save(everything, f"{folder}/zip4.pth", pickle_protocol=4)
    torch.save(everything, f"{folder}/legacy.pth", _use_new_zipfile_serialization=False)
    for name, nested in (("nested", {"epoch": 3, "best": 0.75, "notes": ["a", ("b", None)], "state_dict": {f"module.{k}": v for k, v in everything.items()}}),
                         ("model", {"model": everything, "optimizer": {"state": {0: {"step": 5}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}})):
        torch.save(nested, f"{folder}/{name}.pth")
    write_tar(f"{folder}/plain-tar.pth", plain)
    assert all(torch.equal(v, plain[k]) for k, v in torch.load(f"{folder}/plain-tar.pth").items())


def compare(file, reference):
    theirs = read_safetensors(file) if file.endswith(".safetensors") else torch.load(file, weights_only=True)
    ours = read_safetensors(reference)
    assert list(theirs) == list(ours), (list(theirs), list(ours))
    for key, tensor in ours.items():
        assert theirs[key].dtype == tensor.dtype and torch.equal(theirs[key], tensor), key


def load(file, name):
    import torchvision
    state, model = torch.load(file, weights_only=True), getattr(torchvision.models, name)()
    model.load_state_dict(state)
    versions, own = state._metadata, model.state_dict()._metadata
    assert all(key.rpartition(".")[0] in versions for key in state)
    assert all(own[module] == version for module, version in versions.items()), (versions, own)  # torchvision has some modules more, without weights


{"write": write, "compare": compare, "load": load}[sys.argv[1]](*sys.argv[2:])
