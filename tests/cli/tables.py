#!/usr/bin/env python3
"""Help, manual page, completions and docs/CLI.md list every verb and option of the tables that parse, and the committed page is current.

usage: tables.py MOEPLAN SOURCE
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

failures = []


def check(condition, text):
    if not condition:
        failures.append(text)
        print(f"FAIL {text}")


def main():
    moeplan, source = os.path.abspath(sys.argv[1]), sys.argv[2]

    def out(*arguments):
        return subprocess.run([moeplan, *arguments], capture_output=True, text=True, check=True).stdout

    table = json.loads(out("help", "--json"))
    check(table["schema"] == "moeplan.help" and table["version"] == 1, "help --json has schema and version")
    overview, page, docs = out("help"), out("help", "--man"), out("help", "--markdown")
    bash, zsh, fish = (out("help", "--completion", shell) for shell in ("bash", "zsh", "fish"))
    verbs = [v["name"] for v in table["verbs"]]
    for wanted in "inspect convert generate plan verify simulate compare sweep check migrate order export report list help".split():
        check(wanted in verbs, f"verb {wanted}")
    check(out("--help") == overview, "--help is help")
    for verb in table["verbs"]:
        name = verb["name"]
        text = out("help", name)
        own_page = out("help", "--man", name)
        check(out(name, "--help") == text, f"{name} --help is help {name}")
        check(name in overview and verb["summary"] in overview, f"overview has {name}")
        check(f".SS moeplan {name}" in page, f"manual page has {name}")
        check(f"## moeplan {name}\n" in docs, f"docs/CLI.md has {name}")
        check(f"    {name})\n" in bash and f"    {name}) _arguments" in zsh, f"completions have {name}")
        check(max(map(len, text.splitlines())) <= 110, f"help {name} fits a terminal")
        section = page.split(f".SS moeplan {name}")[1].split("\n.SS ")[0]
        chapter = docs.split(f"## moeplan {name}\n")[1].split("\n## ")[0]
        bash_words = bash.split(f"    {name})\n")[1].split("-W \"")[1].split("\"")[0].split()
        zsh_part = zsh.split(f"    {name}) _arguments")[1].split(";;")[0]
        seen = set()
        for option in verb["options"]:
            long = "--" + option["name"]
            check(long not in seen, f"{name} has {long} once")
            seen.add(long)
            check(f"{long} " in text or f"{long}\n" in text, f"help {name} has {long}")
            check(long.replace("-", "\\-") in section and long.replace("-", "\\-") in own_page, f"manual of {name} has {long}")
            check(f"`{long}" in chapter or f", {long}" in chapter, f"docs of {name} have {long}")
            check(long in bash_words, f"bash completion of {name} has {long}")
            check(f"complete -c moeplan -n '__moeplan_verb {name}' -l {long[2:]} " in fish, f"fish completion of {name} has {long}")
            check(f"'{long}[" in zsh_part or f"'{long}=[" in zsh_part, f"zsh completion of {name} has {long}")
            check(len(option["summary"]) > 8, f"{name} {long} has a summary")
        # A letter means one thing in one verb.
        letters = [o["letter"] for o in verb["options"] if o["letter"]]
        check(len(letters) == len(set(letters)), f"{name} uses each letter once")
    with open(os.path.join(source, "docs/CLI.md"), encoding="utf-8") as f:
        check(f.read() == docs, "docs/CLI.md is current (moeplan help --markdown > docs/CLI.md)")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "moeplan.bash")
        with open(path, "w", encoding="utf-8") as f:
            f.write(bash)
        check(subprocess.run(["bash", "-n", path], check=False).returncode == 0, "bash completion is valid")

        def complete(*words):
            quoted = " ".join(f"'{w}'" for w in words)
            script = f"source {path}; COMP_WORDS=(moeplan {quoted}); COMP_CWORD={len(words)}; _moeplan; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            return subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=folder, check=True).stdout.split()

        check(complete("comp") == ["compare"], "bash completes verbs")
        check(complete("compare", "a", "b", "--spl") == ["--split"], "bash completes options")
        check(complete("compare", "a", "b", "--objective", "p") == ["p95", "peak"], "bash completes words of an option")
        check("dispatchers" in complete("list", ""), "bash completes words of an argument")
        check(complete("inspect", "moe") == ["moeplan.bash"], "bash completes files")
        if shutil.which("zsh"):
            with open(os.path.join(folder, "_moeplan"), "w", encoding="utf-8") as f:
                f.write(zsh)
            check(subprocess.run(["zsh", "-n", os.path.join(folder, "_moeplan")], check=False).returncode == 0, "zsh completion is valid")
        if shutil.which("fish"):
            with open(os.path.join(folder, "moeplan.fish"), "w", encoding="utf-8") as f:
                f.write(fish)
            for line, wanted in (("comp", ["compare"]), ("compare a b --spl", ["--split"]), ("compare a b --objective p", ["p95", "peak"]),
                                 ("list disp", ["dispatchers"]), ("inspect moeplan.f", ["moeplan.fish"])):
                done = subprocess.run(["fish", "-N", "-c", f"source moeplan.fish; complete -C 'moeplan {line}'"], capture_output=True, text=True,
                                      cwd=folder, env=dict(os.environ, HOME=folder), check=False)
                check([w.split("\t")[0] for w in done.stdout.splitlines()] == wanted, f"fish completes {line}: {done.stdout}{done.stderr}")
        if shutil.which("man"):
            with open(os.path.join(folder, "moeplan.1"), "w", encoding="utf-8") as f:
                f.write(page)
            done = subprocess.run(["man", "--warnings", "-l", os.path.join(folder, "moeplan.1")], capture_output=True, text=True, check=False,
                                  env=dict(os.environ, MANPAGER="cat", MANWIDTH="100"))
            check(done.returncode == 0 and done.stderr == "", f"man shows the page without warnings: {done.stderr[:200]}")
    print(f"{len(verbs)} verbs, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
