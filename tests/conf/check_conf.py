#!/usr/bin/env python3
"""Checks what ships in conf/ as far as that goes without a cluster.

    target/tools/python/bin/python tests/conf/check_conf.py         (tests/run conf makes that interpreter)

- kubernetes.py: every overlay rendered by kubectl, strictly against the schemas of three versions, by checkov, and its
  memory, time and disk computed;
- monitoring.py: every query of alerts and dashboard against a scrape of a running Arbiter; every alert by promtool.
"""

import sys

import kubernetes
import monitoring


def main():
    problems = [*kubernetes.problems(), *monitoring.problems()]
    print("\n".join(problems))
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
