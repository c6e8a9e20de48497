#!/usr/bin/env python3
"""Checks a proof of GET /audit/proof/{request_id} without any of Arbiter's code. Needs the PyPI package blake3 and openssl.

    verify_proof.py RECEIPT PUBLIC_KEY     the key as `arbiter audit keygen` prints it

Prints the record's place; exits with 1 if the proof proves nothing.
"""
import base64
import hashlib
import json
import subprocess
import sys
import tempfile

from blake3 import blake3


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(index, size, leaf, path):
    """RFC 9162 section 2.1.3.2."""
    assert index < size, "the index is not in the tree"
    at, last, found = index, size - 1, leaf
    for sibling in path:
        assert last, "the path is too long"
        if at & 1 or at == last:
            found = node(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node(found, sibling)
        at, last = at >> 1, last >> 1
    assert last == 0, "the path is too short"
    return found


def signed(note, key):
    """The lines of a note (C2SP signed-note) that this key has signed."""
    name, key_id, public = key.split("+", 2)
    public = base64.b64decode(public)[1:]
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    for line in signatures.splitlines():
        dash, signer, signature = line.split(" ")
        signature = base64.b64decode(signature, validate=True)
        if dash == "\u2014" and signer == name and signature[:4].hex() == key_id:
            break
    else:
        raise AssertionError("not signed by this key")
    der = bytes.fromhex("302a300506032b6570032100") + public  # RFC 8410
    with tempfile.TemporaryDirectory() as folder:
        for name_, data in (("key", der), ("text", text.encode()), ("signature", signature[4:])):
            with open(f"{folder}/{name_}", "wb") as file:
                file.write(data)
        checked = subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", f"{folder}/key", "-rawin",
             "-in", f"{folder}/text", "-sigfile", f"{folder}/signature"], capture_output=True)
    assert checked.returncode == 0, "the signature does not fit"
    return text.splitlines()


def check(proof, key):
    hashed, mark, rest = proof["record"].encode().rpartition(b',"chain_record_hash"')
    record_hash = blake3(hashed).digest()
    assert mark and rest == b':"' + record_hash.hex().encode() + b'"}', "the record does not match its hash"
    origin, size, root, chain, _time = signed(proof["checkpoint"], key)
    assert int(size) == proof["tree_size"], "another tree"
    record = json.loads(proof["record"])
    index = record["chain_sequence"] - (int(chain.split(" ")[1]) - int(size)) - 1
    assert index == proof["leaf_index"], "another place"
    path = [bytes.fromhex(each) for each in proof["inclusion_proof"]]
    assert [each.hex() for each in path] == proof["inclusion_proof"], "a hash is not in lower-case hexadecimal"
    leaf = hashlib.sha256(b"\x00" + record_hash).digest()
    assert root_of(index, int(size), leaf, path) == base64.b64decode(root), "the path leads to another root"
    return f"record {record['chain_sequence']} of {origin}, leaf {index} of {size}"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        try:
            print(check(json.load(file), sys.argv[2]))
        except (AssertionError, KeyError, ValueError) as error:
            sys.exit(f"not proven: {error}")
