#!/usr/bin/env python3
"""Checks the rules of CONTRIBUTING.md that a program can check; fails with file:line.

usage: check_style.py ROOT
"""
import pathlib
import re
import subprocess
import sys

LINE_MAX = {".c": 120, ".h": 120, ".js": 120, ".css": 120, ".html": 120}  # clang-format keeps C to it
LINE_MAX_ELSEWHERE = 165
FILE_MAX = 900          # lines of a source file
TOPS = ("include", "src", "planner", "executor", "tools", "tests")
# Functions that have a bounded or checked twin, and what to use.
BANNED = {
    "strcpy": "snprintf", "strcat": "snprintf", "sprintf": "snprintf", "vsprintf": "vsnprintf", "gets": "mp_in_open", "system": "nothing",
    "popen": "nothing", "strtok": "strcspn", "atoi": "mp_parse_u64", "atol": "mp_parse_u64", "atof": "mp_parse_double",
    "strtod": "mp_parse_double", "strtol": "mp_parse_u64", "strtoul": "mp_parse_u64", "sscanf": "mp_parse_u64", "alloca": "an arena",
    "rand": "mp_rng_next", "srand": "mp_rng_seed", "random": "mp_rng_next", "setlocale": "nothing (the C locale always)",
    "tmpnam": "mp_out_open", "mktemp": "mp_out_open",
}
# Only the allocator table may call these, and only the file table the next ones.
ALLOCATORS = ("malloc", "calloc", "realloc", "free", "strdup", "strndup", "asprintf", "aligned_alloc")
OPENERS = ("fopen", "open", "creat", "rename", "unlink", "mmap")
LIBRARY_SILENT = ("printf", "puts", "exit", "_exit", "abort", "getenv", "fprintf", "perror")
CALL = re.compile(r"(?<![\w.>])([a-z_]\w*)\s*\(")
JOINED = re.compile(r"^ \* .*\S +(Decides|Minimises|Method|Paper|Bound|Differs|Cost|EVEN|NEAREST|TIERED) {3,}\S")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
TEST = re.compile(r"static void (test_\w+)\(void \*\*\w+\)")


def code_only(text):
    """The text with comments and string contents blanked, lines kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def check_c(relative, text):
    parts = pathlib.PurePath(relative).parts
    is_library = parts[0] in ("src", "planner", "include")
    # Tests and benchmarks have their own scaffolding; the program and its libraries have none.
    is_test = parts[0] == "tests" or parts[:2] == ("tools", "bench")
    may_allocate = may_open = parts[:2] == ("src", "base") or is_test
    lines = code_only(text).splitlines()
    for number, line in enumerate(lines, 1):
        for name in CALL.findall(line):
            if name in BANNED and not is_test and not (name == "strcpy" and parts[:2] == ("src", "base")):
                yield number, f"{name}() (use {BANNED[name]})"
            elif name in ALLOCATORS and not may_allocate:
                yield number, f"{name}() goes around the allocator table (use mp_calloc, mp_realloc, mp_free, an arena)"
            elif name in OPENERS and is_library and not may_open:
                yield number, f"{name}() goes around the file table (use mp_in_open, mp_out_open)"
            elif name in LIBRARY_SILENT and is_library and parts[:2] != ("src", "base"):
                yield number, f"{name}(): libraries never print, exit or read the environment"
    for number, line in enumerate(text.splitlines(), 1):
        if JOINED.match(line):
            yield number, "an item of a header that was joined to the line above (one item a line)"
    if parts[0] == "include" and parts[-1] not in ("api.h", "moeplan.h") and not ("MP_API_BEGIN" in lines and "MP_API_END" in lines):
        yield 1, "MP_API_BEGIN after the includes and MP_API_END before the last line (see api.h): else nothing of it is in libmoeplan"
    if len(lines) > FILE_MAX:
        yield FILE_MAX, f"{len(lines)} lines (split the file at {FILE_MAX})"
    if parts[:2] == ("tests", "unit"):
        stem = pathlib.PurePath(relative).stem
        for number, line in enumerate(text.splitlines(), 1):
            match = TEST.match(line)
            if match and not match.group(1).startswith(stem + "__"):
                yield number, f"{match.group(1)}: tests of this file are named {stem}__<what>"
            if re.search(r"assert_true\s*\(\s*(true|1)\s*\)", line):
                yield number, "a test that cannot fail"
        for name in TEST.findall(text):
            if text.count(name) < 2:
                yield 1, f"{name} is not in the list of tests"


def check_text(relative, data):
    text = data.decode("utf-8")
    if data and not data.endswith(b"\n"):
        yield text.count("\n") + 1, "no newline at the end"
    is_code = relative.endswith((".c", ".h", ".py", ".build", ".js", ".css", ".html"))
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip() and not relative.endswith(".md"):
            yield number, "blanks at the end of the line"
        if "\t" in line and is_code:
            yield number, "a tab (4 spaces)"
        if "\r" in line:
            yield number, "a carriage return"
        most = LINE_MAX.get(pathlib.PurePath(relative).suffix, LINE_MAX_ELSEWHERE)
        if is_code and len(line) > most:
            yield number, f"{len(line)} characters (at most {most})"
        if UNFINISHED.search(line) and not relative.endswith("check_style.py"):
            yield number, "unfinished work is an issue, not a comment"
        if re.search(r"/(work|home|root)/\w", line) and not relative.startswith(".ci"):
            yield number, "a path of one machine"


def files_of(root):
    """What git tracks or would; everything without git (a release archive)."""
    try:
        listed = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", *TOPS], capture_output=True, check=True)
        return sorted(set(listed.stdout.decode().split("\n")) - {""})
    except (OSError, subprocess.CalledProcessError):
        return sorted(str(p.relative_to(root)) for top in TOPS for p in (root / top).rglob("*") if p.is_file())


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    failures, n_files = 0, 0
    for relative in files_of(root):
        path = root / relative
        if not path.is_file() or not relative.endswith((".c", ".h", ".py", ".build", ".sh", ".in", ".js", ".css", ".html")) or "/corpus/" in relative:
            continue
        n_files += 1
        data = path.read_bytes()
        problems = list(check_text(relative, data))
        if relative.endswith(".js") and data.count(b"\n") > FILE_MAX:
            problems.append((FILE_MAX, f"more lines than {FILE_MAX} (split the file)"))
        if relative.endswith((".c", ".h")):
            problems += check_c(relative, data.decode("utf-8"))
        for number, problem in sorted(problems):
            print(f"{relative}:{number}: {problem}")
            failures += 1
    print(f"{n_files} files, {failures} findings")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
