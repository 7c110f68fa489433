#!/usr/bin/env python3
"""Manual pages (roff, on standard output) of what no table of options describes.

usage: man_page.py program NAME SUMMARY VERSION SCRIPT     section 1, from the text at the head of a Python program
       man_page.py help NAME SUMMARY VERSION SCRIPT        section 1, from what the program says with --help
       man_page.py page NAME SUMMARY VERSION FILE.md       section 5, from a page of docs/: headings, lists, tables, code
"""
import ast
import os
import pathlib
import re
import subprocess
import sys

UNSAID = ("", "value", "meaning", "what it says", "what")  # titles of columns that speak for themselves


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def inline(text):
    """Code and strong words bold, links by their text."""
    out = []
    for part in re.split(r"(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)]+\))", text.replace("\\|", "|")):
        if part.startswith("`"):
            out.append("\\fB" + escape(part[1:-1]).removeprefix("\\&") + "\\fR")
        elif part.startswith("**"):
            out.append("\\fB" + escape(part[2:-2]).removeprefix("\\&") + "\\fR")
        elif part.startswith("["):
            out.append(escape(part[1:part.index("]")].strip("`")).removeprefix("\\&"))
        else:
            out.append(escape(part).removeprefix("\\&"))
    joined = "".join(out)
    return "\\&" + joined if joined[:1] in (".", "'") else joined


def cells_of(line):
    return [c.strip() for c in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def table(rows):
    """The first cell of each row as the tag, the others behind it, each with the column's title where there is one."""
    head, body = rows[0], rows[2:]
    for row in body:
        yield ".TP"
        yield inline(row[0]) or "\\&"
        rest = [cell if title in UNSAID else f"{title}: {cell}" for title, cell in zip(head[1:], row[1:]) if cell]
        yield inline("; ".join(rest)) or "\\&"


def body_of(lines):
    paragraph, k = [], 0

    def flush():
        if paragraph:
            yield ".PP"
            yield inline(" ".join(paragraph))
            paragraph.clear()

    while k < len(lines):
        line = lines[k]
        if line.startswith("```") or line.startswith("    ") and not paragraph:
            yield from flush()
            fenced, code = line.startswith("```"), []
            k += fenced
            while k < len(lines) and (not lines[k].startswith("```") if fenced else lines[k].startswith("    ") or not lines[k].strip()):
                code.append(lines[k] if fenced else lines[k][4:])
                k += 1
            k += fenced
            while code and not code[-1].strip():
                code.pop()
            yield from [".PP", ".RS 4", ".nf", *(escape(c) or "\\&" for c in code), ".fi", ".RE"]
            continue
        if line.startswith("#"):
            yield from flush()
            level, title = len(line) - len(line.lstrip("#")), line.lstrip("# ").rstrip()
            yield (".SH " if level <= 2 else ".SS ") + '"' + inline(title.upper() if level <= 2 else title).replace('"', '\\(dq') + '"'
        elif line.startswith("|"):
            yield from flush()
            rows = []
            while k < len(lines) and lines[k].startswith("|"):
                rows.append(cells_of(lines[k]))
                k += 1
            yield from table(rows)
            yield ".PP"
            continue
        elif re.match(r"(-|\d+\.) ", line):
            yield from flush()
            item = [re.sub(r"^(-|\d+\.) +", "", line)]
            while k + 1 < len(lines) and lines[k + 1].startswith("  ") and lines[k + 1].strip():
                k += 1
                item.append(lines[k].strip())
            yield '.IP "\\(bu" 2'
            yield inline(" ".join(item))
        elif not line.strip():
            yield from flush()
        else:
            paragraph.append(line.strip())
        k += 1
    yield from flush()


def page(name, summary, version, text):
    lines = text.splitlines()
    while lines and not lines[0].startswith("# "):
        lines.pop(0)
    yield from body_head(name, 5, summary, version)
    yield ".SH DESCRIPTION"
    yield from body_of(lines[1:])


def body_head(name, section, summary, version):
    yield f'.TH {escape(name.upper())} {section} "" "moeplan {version}" "{"File Formats" if section == 5 else "User Commands"}"'
    yield ".SH NAME"
    yield f"{escape(name)} \\- {escape(summary)}"


def program(name, summary, version, text):
    first, _, rest = ast.get_docstring(ast.parse(text)).partition("\n")
    yield from body_head(name, 1, summary, version)
    yield ".SH SYNOPSIS"
    uses = [use.strip().removeprefix("or ").removeprefix(name + " ") for use in first.split(": ", 1)[-1].split(", ")]
    yield from [".nf", *(f"\\fB{escape(name)}\\fR {escape(use)}" for use in uses), ".fi", ".SH DESCRIPTION"]
    yield from body_of([line.strip() for line in rest.splitlines()])


def program_help(name, summary, version, path):
    done = subprocess.run([sys.executable, path, "--help"], env=dict(os.environ, COLUMNS="78"), capture_output=True, text=True, check=True)
    usage, _, rest = done.stdout.removeprefix("usage: ").partition("\n\n")
    own = usage.split(" ")[0]
    yield from body_head(name, 1, summary, version)
    for title, text in (("SYNOPSIS", usage.replace(own, name, 1)), ("DESCRIPTION", rest)):
        yield from [f".SH {title}", ".nf", *(escape(line) or "\\&" for line in text.rstrip().splitlines()), ".fi"]


def main(args):
    if len(args) != 5 or args[0] not in ("program", "help", "page"):
        print(__doc__, file=sys.stderr)
        return 2
    kind, name, summary, version, path = args
    if kind == "help":
        lines = program_help(name, summary, version, path)
    else:
        lines = (program if kind == "program" else page)(name, summary, version, pathlib.Path(path).read_text(encoding="utf-8"))
    sys.stdout.buffer.write(("\n".join(lines) + "\n.SH SEE ALSO\n\\fBmoeplan\\fR(1), \\fBmoeplan\\-exec\\fR(1)\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
