#!/usr/bin/env python3
"""The documents, held to the program: their links, their commands, and the README's five minutes as a newcomer runs them.

    tests/docs.py            Arbiter is $ARBITER_BIN or target/debug/arbiter; needs curl, jq and openssl

Every relative link leads somewhere. No line of prose is longer than 130 characters, and blank lines are on both sides of each
heading. Every `arbiter …` line of a shell block names a command and options that exist. The
block under "Five minutes" is run as it is written, on the ports that it names, in a copy of the files that it uses; the blocks
of the guides are run by `guides.py`.
"""

import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
import arbiter as support  # noqa: E402

sys.path.insert(0, str(ROOT / "tests"))
import guides  # noqa: E402

README_LINES = 150
LINE = 130
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", ".github/*.md", "conf/**/*.md", "policies/**/*.md", "src/**/*.md", "tests/*.md", "load-tests/**/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)


def shell_blocks(text):
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def broken_links(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("#"):
            continue
        if not (path.parent / target.split("#")[0]).exists():
            yield f"{path.relative_to(ROOT)}: no {target}"


def wrong_layout(path):
    """Lines of prose that are too long, and headings that have text right before or behind them."""
    lines = ["", *path.read_text().splitlines(), ""]
    is_code = False
    for number, line in enumerate(lines[1:-1], 1):
        is_code ^= line.lstrip().startswith("```")
        if is_code:
            continue
        # A row of a table and a long link cannot be wrapped.
        if len(line) > LINE and not line.startswith("|") and " " in line.strip()[LINE // 2 :]:
            yield f"{path.relative_to(ROOT)}:{number}: {len(line)} characters, {LINE} at most"
        if re.match(r"#+ ", line) and (lines[number - 1].strip() or lines[number + 1].strip()):
            yield f"{path.relative_to(ROOT)}:{number}: no blank line on both sides of the heading"


def help_of(words, cache={}):  # noqa: B006
    if words not in cache:
        run = subprocess.run([support.binary(), *words, "--help"], capture_output=True, text=True)
        cache[words] = run.stdout if run.returncode == 0 else None
    return cache[words]


def wrong_commands(path):
    for block in shell_blocks(path.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|[;&|(]\s*|\s)arbiter ([a-z].*)", line.split(" #")[0])
            if not found:
                continue
            try:
                words = shlex.split(re.sub(r"[|&;<>].*", "", found[1].split(")")[0]))
            except ValueError:
                words = found[1].split()
            command = ()
            while len(command) < len(words) and re.fullmatch(r"[a-z][a-z-]*", words[len(command)]):
                if help_of((*command, words[len(command)])) is None:
                    break
                command = (*command, words[len(command)])
            if not command:
                yield f"{path.relative_to(ROOT)}: no command `arbiter {' '.join(words)}`"
                continue
            known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(command)))
            for option in (word.split("=")[0] for word in words if word.startswith("-")):
                if option not in known and option != "--help":
                    yield f"{path.relative_to(ROOT)}: `arbiter {' '.join(command)}` has no {option}"


def five_minutes():
    """Runs the README's block and returns what is wrong with its output."""
    text = (ROOT / "README.md").read_text()
    block = shell_blocks(text[text.index("\n## Five minutes") :])[0]
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for name in ("conf", "policies", "tests/support"):
            shutil.copytree(ROOT / name, work / name)
        debug = work / "target/debug"
        debug.mkdir(parents=True)
        (debug / "arbiter").symlink_to(support.binary())
        # The build is the caller's; everything else runs as it is written.
        script = re.sub(r"cargo build[^&]*&& ", "", block, count=1)
        script = f"set -euo pipefail\ntrap 'kill $(jobs -p)' EXIT\n{script}"
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            said, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=10)
            return f"did not end within 60 s:\n{said}"
    if process.returncode != 0:
        return f"exit code {process.returncode}:\n{said}"
    for wanted in ('"isError": false', "ToolNotAuthorized"):
        if wanted not in said and wanted.replace(" ", "") not in said:
            return f"no {wanted} in:\n{said}"
    return None


def main():
    wrong = [fault for path in DOCUMENTS for check in (broken_links, wrong_layout, wrong_commands) for fault in check(path)]
    lines = len((ROOT / "README.md").read_text().splitlines())
    if lines > README_LINES:
        wrong.append(f"README.md has {lines} lines, {README_LINES} at most")
    fault = five_minutes()
    if fault:
        wrong.append(f"README.md, five minutes: {fault}")
    blocks = [(path.relative_to(ROOT), block) for path in DOCUMENTS for block in shell_blocks(path.read_text())]
    wrong.extend(guides.problems(blocks))
    print("\n".join(wrong) or f"{len(DOCUMENTS)} documents: links, layout, commands, the five minutes and the guides are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
