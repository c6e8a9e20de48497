#!/usr/bin/env python3
"""Checks an audit log's chain without any of Arbiter's code. Needs the PyPI package blake3.

    verify_audit.py FILE

Prints the number of records and the chain's head; exits with 1 at the first damage.
"""
import json
import sys

from blake3 import blake3


def main(path):
    count, sequence, previous = 0, 0, "0" * 64
    with open(path, "rb") as log:
        for number, line in enumerate(log, 1):
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
            if record["chain_prev_hash"] != previous:
                bad("does not name the line before it")
            if record["chain_sequence"] != sequence + 1:
                bad(f"sequence {record['chain_sequence']} after {sequence}")
            count, sequence, previous = count + 1, sequence + 1, record["chain_record_hash"]
    print(f"{count} records, head {sequence} {previous}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
