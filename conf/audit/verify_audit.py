#!/usr/bin/env python3
"""Checks an audit log's chain without any of Arbiter's code. Needs the PyPI packages blake3 and, for .zst, zstandard.

    verify_audit.py LOG        a log and its closed files beside it (LOG.000001, LOG.000002.zst, …), as one chain
    verify_audit.py FOLDER     every log in a folder

Prints the number of records and the chain's head; exits with 1 at the first damage. A chain that does not start with
its first record passes only if a later record says that the node itself has deleted the files before it.
"""
import io
import json
import pathlib
import re
import sys

from blake3 import blake3

CLOSED = re.compile(r"(.+)\.(\d{6,})(\.zst)?")


def lines_of(path):
    with open(path, "rb") as file:
        if path.suffix == ".zst":
            import zstandard  # only where it is needed, so that a plain log can be checked without

            file = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
        yield from file


def files_of(log):
    """The log's files in their order; of a file that is there both ways, the plain one."""
    closed = {}
    for path in sorted(log.parent.iterdir(), reverse=True):  # "….zst" before the plain one, which then replaces it
        match = CLOSED.fullmatch(path.name)
        if match and match[1] == log.name:
            closed[int(match[2])] = path
    return [closed[number] for number in sorted(closed)] + ([log] if log.exists() else [])


def logs_in(folder):
    names = {(CLOSED.fullmatch(path.name) or [None, path.name])[1] for path in folder.iterdir()}
    return sorted(folder / name for name in names if name.endswith(".jsonl"))


def check(log):
    count, sequence, previous, before, deleted = 0, None, None, None, []
    files = files_of(log)
    for path in files:
        for number, line in enumerate(lines_of(path), 1):
            def bad(why):
                sys.exit(f"{path}:{number}: {why}")

            if not line.endswith(b"\n"):
                bad("the last line is cut off")
            try:
                record = json.loads(line)
            except ValueError as error:
                bad(f"not JSON: {error}")
            hashed, mark, _ = line.rpartition(b',"chain_record_hash"')
            if not mark or list(record)[-1] != "chain_record_hash":
                bad("no chain_record_hash at the end")
            if blake3(hashed).hexdigest() != record["chain_record_hash"]:
                bad("content does not match its hash")
            if before is None:
                sequence, previous = before = record["chain_sequence"] - 1, record["chain_prev_hash"]
            if record["chain_prev_hash"] != previous:
                bad("does not name the line before it")
            if record["chain_sequence"] != sequence + 1:
                bad(f"sequence {record['chain_sequence']} after {sequence}")
            if record["event"] == "closed_files_deleted":
                deleted.append((record["detail"]["last_sequence"], record["detail"]["last_hash"]))
            count, sequence, previous = count + 1, sequence + 1, record["chain_record_hash"]
    if not count:
        sys.exit(f"{log}: no record")
    if before != (0, "0" * 64) and before not in deleted:
        sys.exit(f"{files[0]}:1: starts behind record {before[0]}, and nothing says that the node has deleted it")
    many = f" in {len(files)} files" if len(files) > 1 else ""
    return f"{count} records{many}, head {sequence} {previous}"


def main(path):
    if not path.is_dir():
        print(check(path))
        return
    logs = logs_in(path)
    if not logs:
        sys.exit(f"{path} holds no log")
    for log in logs:
        print(f"{log.name}: {check(log)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
