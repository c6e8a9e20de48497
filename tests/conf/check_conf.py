#!/usr/bin/env python3
"""Checks what ships in conf/, and what the program writes for other programs, as far as that goes without a cluster.

    target/tools/python/bin/python tests/conf/check_conf.py         (tests/run conf makes that interpreter)

- kubernetes.py: every overlay rendered by kubectl, strictly against the schemas of three versions, by checkov, and its
  memory, time and disk computed;
- monitoring.py: every query of alerts and dashboard against a scrape of a running Arbiter; every alert by promtool;
- units.py: the systemd units by systemd's own tools, and run as systemd would, with held sockets and its filter;
- stack.py: the compose file by the Compose specification, its files, networks and settings;
- shells.py: completions in bash, zsh and fish;
- collector.py: traces as a collector of somebody else takes them.
"""

import sys

import collector
import kubernetes
import monitoring
import shells
import stack
import units


def main():
    checks = [kubernetes, monitoring, units, stack, shells, collector]
    problems = [problem for check in checks for problem in check.problems()]
    print("\n".join(problems))
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
