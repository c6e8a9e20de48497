"""The completions of commands, asked of the shells themselves: bash, zsh and fish."""

import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from arbiter import binary  # noqa: E402

# What somebody has typed before the key Tab, and words that must be offered then.
TYPED = {
    "arbiter se": {"serve", "session"},
    "arbiter session ": {"open", "list", "show", "close"},
    "arbiter approval approve --us": {"--uses"},
}

BASH = """
source "$1"
read -ra COMP_WORDS <<<"$2"
[[ $2 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_arbiter arbiter "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

# A terminal of zsh's own: completion works nowhere else. What it offers is on the screen when it is asked the second time.
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1=; unset zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; source $1; echo rea''dy"
zpty -r shell begun '*ready*'
zpty -w -n shell "$2"$'\\t\\t'
screen=
for look in {1..200}; do
    while zpty -r -t shell some; do screen+=$some; done
    for word in ${(s: :)3}; do [[ $screen == *$word* ]] || { sleep 0.05; continue 2 }; done
    break
done
zpty -d shell
print -r -- $screen
"""

SHELLS = {
    "bash": lambda script, typed, _: ["bash", "--norc", "-c", BASH, "bash", script, typed],
    "zsh": lambda script, typed, words: ["zsh", "-f", "-c", ZSH, "zsh", script, typed, " ".join(words)],
    "fish": lambda script, typed, _: ["fish", "-N", "-c", f"source {script}; complete -C '{typed}'"],
}


def problems():
    for shell, command in SHELLS.items():
        with tempfile.NamedTemporaryFile("w", suffix=f".{shell}") as script:
            script.write(subprocess.run([binary(), "completions", shell], capture_output=True, text=True, check=True).stdout)
            script.flush()
            for typed, words in TYPED.items():
                done = subprocess.run(command(script.name, typed, words), capture_output=True, text=True, timeout=60)
                missing = sorted(word for word in words if word not in done.stdout)
                if missing:
                    yield f"{shell} offers no {', '.join(missing)} after `{typed}`: {done.stdout[-500:]!r} {done.stderr[-500:]!r}"
    print(f"completions in {', '.join(SHELLS)}")
