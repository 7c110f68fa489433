#!/usr/bin/env python3
"""Runs moeplan on every bad input of tests/bad/<area>/expected.tsv and demands exactly what the line says.

A line: file (or -), arguments of moeplan (or moeplan-exec and its arguments) with {} for the file and {root} for the source folder, exact
standard error with {} for the path (the program's prefix included, several lines joined by \\n), and in a fourth column an exit code
other than 3. Each case must also write nothing to standard output, create no file, stay under 64 MiB of memory and end within the time
limit (1 s on an idle machine; MOEPLAN_BAD_SECONDS overrides the 10 s given here for loaded ones).
usage: run.py MOEPLAN TESTS_BAD_FOLDER [AREA...]
"""
import concurrent.futures
import os
import pathlib
import resource
import shlex
import subprocess
import sys
import tempfile

# What one case may have resident. Sanitizer builds need far more: MOEPLAN_BAD_RSS_MIB=0 switches the check off.
RSS_MIB = int(os.environ.get("MOEPLAN_BAD_RSS_MIB", "64"))
SECONDS = float(os.environ.get("MOEPLAN_BAD_SECONDS", "10"))


def limit_process():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 2))


def run_limited(command, folder):
    """Exit code, standard output, standard error, peak resident MiB."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # Memory that the allocator was told to fill (meson tells it) would be resident without being used.
        environment = {k: v for k, v in os.environ.items() if k != "MALLOC_PERTURB_"}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, env=environment, preexec_fn=limit_process)
        timer = __import__("threading").Timer(SECONDS, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        process.returncode = code
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read().decode("utf-8", "replace"), usage.ru_maxrss / 1024


def unescape(text):
    return text.replace("\\t", "\t").replace("\\n", "\n")


def run_case(moeplan, area, line_number, line):
    fields = line.split("\t")
    where = f"{area.name}/expected.tsv:{line_number}"
    if len(fields) not in (3, 4):
        return where, [f"{len(fields)} columns instead of 3 or 4"]
    name, arguments, expected = fields[0], fields[1], unescape(fields[2])
    want_code = int(fields[3]) if len(fields) == 4 else 3
    path = str(area / name)
    if name != "-" and not os.path.exists(path):
        return where, [f"there is no file {path}"]
    problems = []
    root = str(area.parents[2])
    with tempfile.TemporaryDirectory(prefix="moeplan-bad-") as folder:
        words = [word.replace("{}", path).replace("{root}", root) for word in shlex.split(arguments)]
        is_executor = words[0] == "moeplan-exec"
        command = [os.path.join(os.path.dirname(moeplan), "moeplan-exec"), *words[1:]] if is_executor else [moeplan, *words]
        code, out, err, rss = run_limited(command, folder)
        left = sorted(os.listdir(folder))
    want = expected.replace("{}", path).replace("{root}", root)
    got = err.rstrip("\n")
    if code != want_code:
        problems.append(f"exit code {code} instead of {want_code}")
    if got != want:
        problems.append(f"standard error\n    is     {got!r}\n    not    {want!r}")
    if out:
        problems.append(f"wrote {len(out)} bytes to standard output: {out[:80]!r}")
    if left:
        problems.append(f"left files behind: {left}")
    if RSS_MIB and rss > RSS_MIB:
        problems.append(f"used {rss:.0f} MiB, more than {RSS_MIB}")
    return f"{where} {name}", problems


def main():
    moeplan, root = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    wanted = set(sys.argv[3:])
    cases, listed = [], set()
    for table in sorted(root.glob("*/expected.tsv")):
        area = table.parent
        if wanted and area.name not in wanted:
            continue
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
            if line and not line.startswith("#"):
                cases.append((area, number, line))
                listed.add((area.name, line.split("\t")[0]))
    failures = 0
    # Files that no line names would be untested. Companions (a table beside an array, a make.py) are named by a case's arguments.
    all_arguments = " ".join(line.split("\t")[1] for _, _, line in cases if line.count("\t") >= 2)
    for area in sorted({c[0] for c in cases}):
        for path in sorted(area.iterdir()):
            known = path.name in ("expected.tsv", "make.py", "README.md", "__pycache__") or (area.name, path.name) in listed
            if not known and path.name not in all_arguments and not path.name.endswith(".requests.csv"):
                print(f"FAIL {area.name}/{path.name}: no line of expected.tsv names it")
                failures += 1
    workers = int(os.environ.get("MOEPLAN_BAD_JOBS", str(min(4, os.cpu_count() or 1))))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda c: run_case(moeplan, *c), cases)
        for where, problems in results:
            failures += bool(problems)
            for problem in problems:
                print(f"FAIL {where}: {problem}")
    print(f"{len(cases)} bad inputs, {failures} failed")
    return 1 if failures or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
