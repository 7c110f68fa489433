#!/usr/bin/env python3
"""--format csv says what --json says: for every table of every verb, read back by Python's csv module, the header is the documented one, there
is a row for each record of the document, and every cell is the value at its path. --format markdown keeps every cell of the table.

usage: formats.py MOEPLAN SOURCE
"""
import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile

failures = []
VOLATILE = re.compile("plan_seconds|measured|algorithm")  # differ from run to run


def check(condition, text):
    if not condition:
        failures.append(text)
        print(f"FAIL {text}")


def at(record, path):
    for key in path.split(".") if path else []:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def records(table, document):
    part = at(document, table["rows"])
    if part is None:
        return []
    if table["kind"] == "members":
        return [{"key": k, "value": v, "unit": document.get("units", {}).get(k)} for k, v in part.items()]
    if table["kind"] == "lists":
        return [dict(row, key=k) for k, rows in part.items() for row in rows]
    return [part] if table["kind"] == "one" else part


def is_same(name, cell, value):
    if VOLATILE.search(name):
        return True
    if value is None:
        return cell == ""
    if isinstance(value, bool):
        return cell == ("true" if value else "false")
    if isinstance(value, int):
        return cell == str(value)
    if isinstance(value, float):
        is_whole = re.search(r"_(ns|bytes)$", name)
        return re.fullmatch(r"-?\d+", cell) and abs(int(cell) - value) <= 0.5 if is_whole else float(cell) == value
    return cell == value if isinstance(value, str) else json.loads(cell) == value


class Runner:
    def __init__(self, moeplan, folder):
        self.folder, self.documents = folder, {}
        self.programs = {"moeplan": moeplan, "moeplan-exec": os.path.join(os.path.dirname(moeplan), "moeplan-exec")}

    def __call__(self, arguments, codes=(0,)):
        words = arguments if isinstance(arguments, list) else arguments.split()
        program = words[0] if words[0] == "moeplan-exec" else "moeplan"
        done = subprocess.run([self.programs[program]] + words[program == "moeplan-exec":], cwd=self.folder, capture_output=True, text=True,
                              check=False, env={"PATH": os.environ["PATH"]})
        check(done.returncode in codes, f"{arguments}: exit code {done.returncode}: {done.stderr}")
        return done


def cells_of(text):
    return list(csv.reader(io.StringIO(text), strict=True))


def compare(run, table, arguments, codes):
    words = arguments.split()
    if arguments not in run.documents:
        run.documents[arguments] = json.loads(run(words + ["--json"], codes).stdout)
    document = run.documents[arguments]
    check(document["schema"] == table["schema"], f"{arguments}: is {table['schema']}")
    done = run(words + ["--format", "csv", "--table", table["name"]], codes)
    name = f"{table['verb']} --table {table['name']}"
    rows = cells_of(done.stdout)
    check("\r" not in done.stdout, f"{name}: lines end alike")
    check(rows and rows[0] == [c["name"] for c in table["columns"]], f"{name}: header {rows[:1]}")
    want = records(table, document)
    check(len(rows) == len(want) + 1, f"{name}: {len(rows) - 1} rows, {len(want)} records")
    for i, (row, record) in enumerate(zip(rows[1:], want)):
        check(len(row) == len(table["columns"]), f"{name}: row {i} is whole")
        for column, cell in zip(table["columns"], row):
            value = at(record, column["path"])
            check(is_same(column["name"], cell, value), f"{name}: row {i}, {column['name']}: {cell!r} is not {value!r}")


def main():
    moeplan, source = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    samples = os.path.join(source, "traces/samples")
    with tempfile.TemporaryDirectory(prefix="moeplan-formats-") as folder:
        run = Runner(moeplan, folder)
        tables = json.loads(run("help --json").stdout)["tables"]
        for name in ("decode", "prefill", "limoe"):
            os.symlink(f"{samples}/{name}.mpt", f"{folder}/{name}.mpt")
        with open(f"{folder}/m.csv", "w", encoding="utf-8") as f:
            f.write("0,9,3,1\n4,0,5,7\n2,2,0,6\n8,1,1,0\n")
        score = "decode.mpt 2x2:h100 --batch 4 --steps 4"
        run(f"plan {score} --strategy eplb --redundant 4 -o p.yaml --quiet")
        run(f"plan {score} --strategy lpt --redundant 4 -o q.yaml --quiet")
        run("generate -q --phase train --layers 3 --experts 8 --top-k 2 --n-requests 32 --tokens-per-request 100 -o t.mpt")
        train = "t.mpt 2x2:a100 --tokens-per-rank 256 --interval-groups 0"
        run(f"plan {train} --strategy contiguous --policy none -q -o t.yaml")
        contest = "compare decode.mpt 2x2:h100 --batch 4 --resample --steps 4 --interval-groups 3 --redundant 4 --strategy"
        pairs = "compare limoe.mpt limoe.mpt 4:h100 --colocate --tokens-per-rank 16 --steps 2 --colocation lina,sorted"
        commands = {
            "inspect facts": ["inspect decode.mpt", "inspect p.yaml", "inspect 2x2:h100", "inspect deepseek-v3"],
            "convert result": ["convert p.yaml again.yaml"],
            "generate result": ["generate --n-requests 20 -o g.mpt --against decode.mpt"],
            "plan result": [f"plan {score} --strategy eplb -o r.yaml", f"plan {score} --strategy eplb --redundant 4000 -o r.yaml"],
            "plan certificates": [f"plan {score} --strategy eplb -o r.yaml"],
            "plan scenarios": [f"plan {score} --strategy lpt --robust categories:2 -o r.yaml"],
            "verify violations": ["verify p.yaml", "verify p.yaml prefill.mpt 2x2:h100"],
            "verify proofs": ["verify p.yaml decode.mpt 2x2:h100 --prove"],
            "simulate result": ["simulate p.yaml decode.mpt 2x2:h100", "simulate p.yaml decode.mpt 2x2:h100 --timeline pipelined"],
            "compare results": [contest + " contiguous,eplb,eplb-online", contest + " eplb --incumbent q.yaml"],
            "simulate training": ["simulate t.yaml t.mpt 2x2:a100"],
            "simulate rehome": ["simulate t.yaml t.mpt 2x2:a100 --rehome luffy"],
            "compare training": [f"compare {train} --strategy contiguous,lpt"],
            "compare colocations": [pairs],
            "compare shares": [pairs],
            "sweep points": ["sweep decode.mpt 2x2:h100 --redundant 0:4000:2000 --strategy lpt --batch 2,4 --interval-groups 0"],
            "sweep curves": ["sweep decode.mpt 2x2:h100 --redundant 0:8:4 --strategy lpt --batch 2,4 --interval-groups 0"],
            "predict paths": ["predict decode.mpt --batch 4"],
            "predict sample-paths": ["predict decode.mpt --batch 4"],
            "variants blocks": [f"variants {score} --strategy lpt --redundant 4 --blocks 10,100 --pool 4 --beside none"],
            "variants variants": [f"variants {score} --strategy lpt --redundant 4 --blocks 10 --pool 4 --beside none"],
            "variants domains": [f"variants {score} --strategy lpt --redundant 4 --blocks 10 --pool 4 --beside none"],
            "check result": ["check p.yaml decode.mpt 2x2:h100", "check p.yaml decode.mpt"],
            "check layers": ["check p.yaml decode.mpt 2x2:h100"],
            "migrate moves": ["migrate p.yaml q.yaml 2x2:h100"],
            "migrate links": ["migrate p.yaml q.yaml 2x2:h100"],
            "migrate result": ["migrate p.yaml q.yaml 2x2:h100", "migrate p.yaml p.yaml 2x2:h100"],
            "order results": ["order m.csv 4:h100", "order m.csv 2x2:h100 --token-bytes 1000 -o o.yaml"],
            "export result": ["export p.yaml --to trtllm -o e.yaml", "export p.yaml decode.mpt 2x2:h100 --to chrome-trace -o e.json"],
            "list rows": ["list", "list stacks"],
            "moeplan-exec parts": ["moeplan-exec p.yaml decode.mpt 2x2:h100 --iterations 1"],
            "moeplan-exec transports": ["moeplan-exec --list transports"],
        }
        n_seen = 0
        for table in tables:
            key = f"{table['verb']} {table['name']}"
            names = [c["name"] for c in table["columns"]]
            check(len(set(names)) == len(names), f"{key}: column names are distinct")
            for arguments in commands.pop(key, []):
                compare(run, table, arguments, (0, 1))
                n_seen += 1
        check(not commands, f"tables that are no more: {list(commands)}")
        # Without --table: the verb's first one. Notes and verdicts are on standard error.
        done = run(contest + " contiguous,eplb --format csv")
        check(len(cells_of(done.stdout)) == 3 and "moeplan: verdict: " in done.stderr, "compare: two rows, the verdict beside")
        check(run(contest + " contiguous,eplb --format csv --quiet").stderr == "", "--quiet: no notes")
        done = run("migrate p.yaml p.yaml 2x2:h100 --format csv")
        check(done.stdout == "layer,expert,src,dst,between_nodes,round\n", "nothing moves: the header alone")
        # Markdown: every cell of the table for people is there.
        text, markdown = run("order m.csv 4:h100").stdout, run("order m.csv 4:h100 --format markdown").stdout
        check(run("order m.csv 4:h100 --markdown").stdout.count("|") == markdown.count("|"), "--markdown is --format markdown")
        for arguments in ("list stacks", "inspect decode.mpt", "predict decode.mpt --batch 4"):
            text, markdown = run(arguments).stdout.splitlines(), run(arguments + " --format markdown").stdout.splitlines()
            rule = next(i for i, line in enumerate(text) if re.fullmatch("[- ]+", line) and "--" in line)
            n_columns = len(text[rule].split())
            rows = [line for line in markdown if line.startswith("|")]
            check(all(len(re.split(r"(?<!\\)\|", row)) == n_columns + 2 for row in rows), f"{arguments}: {n_columns} cells in every row")
            words = " ".join(rows).replace("\\|", "|")
            check(all(word in words for word in text[rule + 1].split()), f"{arguments}: the first row is there")
        print(f"{len(tables)} tables, {n_seen} commands, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
