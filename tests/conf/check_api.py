#!/usr/bin/env python3
"""Asks the admin API everything that its own description allows, and much that it does not, with a valid key.

    tests/conf/check_api.py [examples]          for each operation; 20 unless told otherwise

Schemathesis makes the requests from `/openapi.json` of a fresh gateway. No answer may be a 5xx, have a status that is
not described, or differ from what is described for its status. Needs the packages of requirements.txt. $SEED repeats a
run's requests.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

from arbiter import Arbiter  # noqa: E402
from audit import Upstream  # noqa: E402

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


def main():
    examples = sys.argv[1] if len(sys.argv) > 1 else "20"
    # The limits on requests are not what is looked at here.
    settings = {"admin": {"rate_limit_per_minute": 1_000_000}}
    with Arbiter(Upstream().url, settings=settings) as gateway:
        agent = gateway.register_agent()
        gateway.open_session(agent["agent_id"], authorized_tools=["work"])
        command = [
            str(pathlib.Path(sys.executable).parent / "schemathesis"), "run", gateway.admin_url + "/openapi.json",
            "--header", f"x-api-key: {gateway.api_key}",
            "--checks", ",".join(CHECKS),
            "--max-examples", examples,
            "--seed", os.environ.get("SEED", "1"),
            "--request-timeout", "20",
            "--continue-on-failure",
            "--no-color",
            "--generation-database", "none",
            "--warnings", "off",
        ]
        code = subprocess.run(command, cwd=gateway.folder, timeout=600).returncode
        if gateway.process.poll() is not None:
            print("the gateway has ended:\n" + gateway.log())
            return 1
        return code


if __name__ == "__main__":
    sys.exit(main())
