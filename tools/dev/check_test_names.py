#!/usr/bin/env python3
"""No two tests of a build folder have the same name: `meson test` 1.0 breaks off in the middle when they have.

usage: check_test_names.py BUILD
"""
import collections
import json
import pathlib
import sys


def main():
    tests = json.loads((pathlib.Path(sys.argv[1]) / "meson-info" / "intro-tests.json").read_text(encoding="utf-8"))
    counts = collections.Counter((test["name"], *sorted(test["suite"])) for test in tests)
    twice = sorted(name for name, n in counts.items() if n > 1)
    for name, *suites in twice:
        print(f"two tests are called {name} ({', '.join(suites)}): call one differently in tests/*/meson.build")
    print(f"{len(tests)} tests, {len(twice)} names used twice")
    return 1 if twice or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
