#!/usr/bin/env python3
"""What people see on a terminal, in pseudo-terminals of several widths: tables that fit, colours and when there are none, progress.

usage: terminal.py MOEPLAN SOURCE
"""
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unicodedata

failures = []


def check(condition, text):
    if not condition:
        failures.append(text)
        print(f"FAIL {text}")


def width_of(line):
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def set_size(fd, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))


def in_terminal(command, columns, folder, env=None, is_out=True, is_err=True):
    """Standard output (and error) of a command on a terminal so wide, without the carriage returns that terminals add."""
    leader, follower = pty.openpty()
    set_size(follower, columns)
    own = {"PATH": os.environ["PATH"], "TERM": "xterm", **(env or {})}
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=follower if is_out else subprocess.DEVNULL,
                               stderr=follower if is_err else subprocess.DEVNULL, env={k: v for k, v in own.items() if v is not None})
    os.close(follower)
    seen = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            break
        if not data:
            break
        seen += data
    os.close(leader)
    process.wait()
    return seen.decode("utf-8").replace("\r\n", "\n")


def table_of(text):
    """The lines of the first table: from the title above the rule of dashes to the next empty line."""
    lines = plain(text).split("\n")
    rule = next((i for i, line in enumerate(lines) if re.fullmatch("-+(  -+)*", line)), None)
    if rule is None:
        return []
    first = rule
    while first > 0 and lines[first - 1] != "":
        first -= 1
    last = rule
    while last < len(lines) and lines[last] != "":
        last += 1
    return lines[first:last]


def widths(moeplan, folder):
    compare = [moeplan, "compare", "decode.mpt", "2x2:h100", "--batch", "4", "--resample", "--steps", "4", "--redundant", "4", "--strategy",
               "contiguous,eplb,round-robin", "--interval-groups", "3", "-q"]
    piped = subprocess.run(compare, cwd=folder, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"], "TERM": "xterm"}).stdout
    check("\x1b" not in piped and "--wide shows" not in piped, "a pipe gets plain text as wide as it comes")
    for columns in (40, 80, 200):
        text = in_terminal(compare, columns, folder)
        table = table_of(text)
        check(table and max(map(width_of, table)) <= columns, f"compare fits {columns} columns: {table}")
        check(all(name in "\n".join(table) for name in ("contiguous", "eplb", "round-robin", " ms")), f"compare at {columns}: names and steps are there")
        check(("--wide shows all" in " ".join(table)) == (columns < 200), f"compare at {columns}: says what is left out")
        if columns == 200:
            check(plain(text) == piped, "a wide terminal shows what a pipe gets, with colours")
            check("\x1b[1mstrategy" in text and re.search("verdict: \x1b\\[3[123]m", text), "titles and the verdict are coloured")
    wide = in_terminal(compare + ["--wide"], 80, folder)
    check(max(map(width_of, table_of(wide))) > 80 and "dispatch" in wide, "--wide: every column, whatever the width")
    lists = in_terminal([moeplan, "list", "rehomes"], 40, folder)
    check(max(map(width_of, table_of(lists))) <= 40, "list wraps its sentences")
    joined = re.sub(r"\s+", " ", " ".join(line[line.rfind("  ") + 2:] for line in table_of(lists)))
    check("attention grows least" in re.sub(r"\s+", " ", plain(lists)) or "grows least" in joined, "list keeps its words")
    narrow = in_terminal([moeplan, "inspect", "deepseek-v3"], 40, folder)
    check(max(map(width_of, table_of(narrow))) <= 40, "inspect fits 40 columns")
    check(max(map(width_of, table_of(in_terminal(compare, 0, folder)))) <= 80, "a terminal of unknown width counts as 80 columns")
    check(max(map(width_of, table_of(in_terminal(compare, 0, folder, {"COLUMNS": "60"})))) <= 60, "COLUMNS where the terminal does not know")
    check(in_terminal(compare + ["--format", "csv"], 40, folder, is_err=False).count("\n") == 4, "CSV is not fitted")
    markdown = in_terminal(compare + ["--format", "markdown"], 40, folder)
    check("\x1b" not in markdown and " gap |" in markdown, "Markdown is not fitted and has no colours")


def colours(moeplan, folder):
    verify = [moeplan, "verify", "p.yaml"]
    check("\x1b[32maccepted\x1b[0m" in in_terminal(verify, 80, folder), "accepted is green")
    check("\x1b" not in in_terminal(verify, 80, folder, {"NO_COLOR": "1"}), "NO_COLOR: none")
    check("\x1b" in in_terminal(verify, 80, folder, {"NO_COLOR": ""}), "an empty NO_COLOR counts as absent")
    check("\x1b" not in in_terminal(verify, 80, folder, {"TERM": "dumb"}), "TERM=dumb: none")
    check("\x1b" not in in_terminal(verify, 80, folder, {"TERM": None}), "no TERM: none")
    check("\x1b" not in in_terminal(verify + ["--color", "never"], 80, folder), "--color never: none")
    check("\x1b" in in_terminal(verify + ["--color", "always"], 80, folder, {"NO_COLOR": "1"}), "--color always beats NO_COLOR")
    done = subprocess.run(verify + ["--color=always"], cwd=folder, capture_output=True, text=True, check=True)
    check("\x1b[32maccepted" in done.stdout, "--color always: in a pipe too")
    done = subprocess.run(verify, cwd=folder, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"], "TERM": "xterm"})
    check("\x1b" not in done.stdout + done.stderr, "a pipe: none")
    check(in_terminal([moeplan, "inspect", "absent.mpt"], 80, folder).startswith("\x1b[1;31mmoeplan:\x1b[0m absent.mpt"), "errors begin in red")
    check(in_terminal([moeplan, "inspect", "absent.mpt"], 80, folder, {"NO_COLOR": "1"}).startswith("moeplan: absent.mpt"), "or do not")


LINE = re.compile("\r\x1b\\[K([^\r\n\x1b]*)")


class Screen:
    """A program with its standard error on a terminal: what it wrote there, piece by piece with the time."""

    def __init__(self, command, columns, folder, out, env=None):
        self.leader, follower = pty.openpty()
        set_size(follower, columns)
        own = {"PATH": os.environ["PATH"], "TERM": "xterm", **(env or {})}
        self.started, self.pieces = time.monotonic(), []
        self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=follower, env=own, start_new_session=True)
        os.close(follower)

    def read(self, until=None):
        """Up to the end, or until `until` of all that was written is true."""
        while until is None or not until(self.text()):
            try:
                data = os.read(self.leader, 65536)
            except OSError:
                break
            if not data:
                break
            self.pieces.append((time.monotonic() - self.started, data.decode("utf-8")))

    def text(self):
        return "".join(text for _, text in self.pieces)

    def end(self):
        self.read()
        os.close(self.leader)
        return self.process.wait()

    def left(self):
        """What stands on the screen in the end."""
        lines = [""]
        for token in re.findall("\r\n|\r\x1b\\[K|.", self.text(), re.DOTALL):
            if token == "\r\n":
                lines.append("")
            elif token.startswith("\r"):
                lines[-1] = ""
            else:
                lines[-1] += token
        return "\n".join(lines)


def progress(moeplan, folder):
    steps, took = 450, 0.0
    while took < 4 and steps < 100000:  # long enough to be told about, however fast the machine is
        steps *= 2
        long = [moeplan, "compare", "decode.mpt", "2x2:h100", "--batch", "4", "--resample", "--steps", str(steps), "--interval-groups", "0",
                "--strategy", "contiguous,lpt", "--threads", "1"]
        began = time.monotonic()
        notes = subprocess.run(long, cwd=folder, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"], "TERM": "xterm"})
        took = time.monotonic() - began
    check("\r" not in notes.stderr and "\x1b" not in notes.stderr, "no progress in a pipe")
    with open(f"{folder}/out", "w+", encoding="utf-8") as out:
        screen = Screen(long, 60, folder, out)
        code = screen.end()
        out.seek(0)
        check(code == 0 and out.read() == notes.stdout, "the result is the same with progress as without")
    shown = [line for line in LINE.findall(screen.text()) if line and not line.startswith("moeplan:")]
    check(any(re.match(r"\d+ s(, \d+ s left)?: scores [01] of 2, steps [\d,]+ of [\d,]+", line) for line in shown), f"scores and steps are told: {shown[-3:]}")
    check(any(" left" in line for line in shown) and any("/s" in line for line in shown), "rate and time left are told")
    check(all(len(line) < 60 for line in shown), "lines are shorter than the terminal")
    times = [at for at, text in screen.pieces if LINE.search(text)]
    check(times and times[0] >= 0.95, "nothing before a second")
    check(len(shown) <= 10 * (times[-1] - times[0]) + 2, f"at most ten lines a second: {len(shown)} in {times[-1] - times[0]:.2f} s")
    # A line that was on screen is taken away before a note is written, and again at the end; the notes stay as they are.
    seconds = re.compile(r"\d+\.\d\d s")
    check(seconds.sub("N", screen.left()) == seconds.sub("N", notes.stderr), f"nothing is left of it: {screen.left()!r}")
    for name, arguments, env in (("--quiet", ["--quiet"], {}), ("TERM=dumb", [], {"TERM": "dumb"})):
        screen = Screen(long[:-3] + ["contiguous"] + arguments, 80, folder, subprocess.DEVNULL, env)
        screen.end()
        check("\r\x1b" not in screen.text() and not re.search("steps [0-9]+ of", screen.text()), f"no progress with {name}")
    screen = Screen(long, 100, folder, subprocess.DEVNULL)
    screen.read(lambda text: "steps " in text)
    set_size(screen.leader, 24)
    screen.process.send_signal(signal.SIGWINCH)
    before = len(screen.text())
    check(screen.end() == 0, "a resized terminal is survived")
    later = [line for line in LINE.findall(screen.text()[before:]) if line and not line.startswith("moeplan:")]
    check(len(later) > 3 and all(len(line) < 24 for line in later[3:]), f"lines fit the new width: {later[-2:]}")
    for number in (signal.SIGINT, signal.SIGTERM):
        files = sorted(os.listdir(folder))
        screen = Screen([moeplan, "plan", "decode.mpt", "2x2:h100", "--batch", "4", "--resample", "--steps", "3000", "--threads", "1", "-o", "new.yaml"], 80, folder,
                        subprocess.DEVNULL)
        screen.read(lambda text: LINE.search(text) is not None)
        os.kill(screen.process.pid, number)
        check(screen.end() == 128 + number, f"signal {number}: exit code")
        check(LINE.search(screen.left()) is None and screen.left().split("\n")[-1] == "", f"signal {number}: the line is gone: {screen.left()!r}")
        check(sorted(os.listdir(folder)) == files, f"signal {number}: no half-written file")


def main():
    moeplan, source = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="moeplan-terminal-") as folder:
        os.symlink(f"{source}/traces/samples/decode.mpt", f"{folder}/decode.mpt")
        subprocess.run([moeplan, "plan", "decode.mpt", "2x2:h100", "--batch", "4", "--steps", "4", "--strategy", "lpt", "-q", "-o", "p.yaml"],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL)
        widths(moeplan, folder)
        colours(moeplan, folder)
        progress(moeplan, folder)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
