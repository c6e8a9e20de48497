"""Serves an application of the official Python SDK on a free port of 127.0.0.1, for the servers of these tests."""

import argparse
import pathlib
import socket

import uvicorn


def serve(app):
    """Writes the port to the file of the option `--ready-file` once connections are taken, and serves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-file", required=True, type=pathlib.Path)
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    options.ready_file.write_text(f"{listener.getsockname()[1]}\n")
    uvicorn.Server(config).run(sockets=[listener])
