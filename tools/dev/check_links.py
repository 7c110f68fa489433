#!/usr/bin/env python3
"""Every relative link in the Markdown files leads to a file, and every file named in backquotes with a known folder exists.

usage: check_links.py ROOT
"""
import pathlib
import re
import sys

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMED = re.compile(r"`((?:docs|tools|src|planner|include|tests|traces|topologies)/[\w./-]+\.\w+)`")


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    pages = [p for pattern in ("*.md", "docs/*.md", "traces/*.md", "topologies/*.md") for p in sorted(root.glob(pattern))]
    failures = 0
    for page in pages:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            targets = [(page.parent / t, t) for t in LINK.findall(line) if "://" not in t]
            targets += [(root / t, t) for t in NAMED.findall(line) if "foo" not in t and "NAME" not in t]
            for path, text in targets:
                if not path.exists():
                    print(f"{page.relative_to(root)}:{number}: {text} does not exist")
                    failures += 1
    print(f"{len(pages)} pages, {failures} dead links")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
