#!/usr/bin/env python3
"""Both verifiers on pairs of plans that were made together: pairs of many options are accepted by both; each broken pair, its checksums
put right again, is refused by both, and both name the broken thing by the same word.

pairs.py MOEPLAN [SOURCE ROOT]"""
import hashlib
import os
import re
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

from plancheck_here import plancheck  # noqa: E402

MOEPLAN = os.path.abspath(sys.argv[1])
ROOT = sys.argv[2] if len(sys.argv) > 2 else os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLANCHECK = os.path.join(ROOT, "tools", "plancheck", "plancheck")
SAMPLES = os.path.join(ROOT, "traces", "samples")
failures = []


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


def verify(plans, data):
    return {"moeplan verify": run(MOEPLAN, "verify", *plans, *data, "--colocate"), "plancheck": plancheck(PLANCHECK, *plans, *data)}


def expect(name, plans, data, kind):
    """kind None: accepted; else refused, and this word among the violations."""
    for program, (code, out, err) in verify(plans, data).items():
        named = {word for word in re.findall(r"(?m)(?:^|: )([a-z-]+): ", out)}
        if (kind is None and code != 0) or (kind is not None and (code != 1 or kind not in named)):
            failures.append(f"{name}: {program}: exit {code}, {'not accepted' if kind is None else 'not ' + kind}: {out[:300]}{err[:300]}")


def stamp(text):
    body = text[:text.rindex('checksum: "')]
    return body + f'checksum: "{hashlib.sha256(body.encode()).hexdigest()}"\n'


def bump(key):
    return lambda text: re.sub(rf"(?m)^  {key}: (\d+)$", lambda m: f"  {key}: {int(m.group(1)) + 1}", text, count=1)


def pair_line(change):
    return lambda text: re.sub(r"  - \{layer: (\d+), expert_a: (\d+), expert_b: (\d+), gpu: (\d+)\}\n", change, text, count=1)


def numbers(m):
    return tuple(map(int, m.groups()))


def written(layer, a, b, gpu):
    return f"  - {{layer: {layer}, expert_a: {a}, expert_b: {b}, gpu: {gpu}}}\n"


def without_role(text):
    return re.sub(r"(?s)together:\n.*?prediction:", "prediction:", text, count=1)


def no_pairs(text):
    return re.sub(r"(?s)colocation:\n.*?together:", "colocation: []\ntogether:", text, count=1)


def digest(key, value="0123456789abcdef" * 4):
    return lambda text: re.sub(rf'(?m)^  {key}: ".*"$', f'  {key}: "{value}"', text, count=1)


def keep(text):
    return text


def last_expert(text):
    """The first pair names an expert of the other model that is on another GPU."""
    def other(m):
        layer, a, b, gpu = numbers(m)
        return written(layer, a, (b + 1) % 8, gpu)
    return pair_line(other)(text)


# name, kind, what happens to the first file, to the second
BROKEN = [
    ("a pair missing in the first list", "colocation", pair_line(""), keep),
    ("a pair missing in the second list", "colocation", keep, pair_line("")),
    ("a pair missing in both lists", "colocation", pair_line(""), pair_line("")),
    ("no pair in either list", "colocation", no_pairs, no_pairs),
    ("a pair listed twice in the first", "colocation", pair_line(lambda m: 2 * written(*numbers(m))), keep),
    ("another expert of the second model", "colocation", last_expert, keep),
    ("another expert of the first model", "colocation", keep, last_expert),
    ("a pair on another GPU", "colocation", pair_line(lambda m: written(*numbers(m)[:3], (numbers(m)[3] + 1) % 4)), keep),
    ("a pair on another GPU in both", "colocation", pair_line(lambda m: written(*numbers(m)[:3], (numbers(m)[3] + 1) % 4)),
     pair_line(lambda m: written(*numbers(m)[:3], (numbers(m)[3] + 1) % 4))),
    ("a pair in another layer", "colocation", pair_line(lambda m: written(1 - numbers(m)[0], *numbers(m)[1:])), keep),
    ("the first is no half of a pair", "colocation", without_role, keep),
    ("the second is no half of a pair", "colocation", keep, without_role),
    ("two first ones", "colocation", keep, lambda t: t.replace("  role: second", "  role: first")),
    ("two second ones", "colocation", lambda t: t.replace("  role: first", "  role: second"), keep),
    ("a timeline of its own", "prediction", bump("timeline_ns"), keep),
    ("another timeline in both", "prediction", bump("timeline_ns"), bump("timeline_ns")),
    ("a closed form of its own", "prediction", keep, bump("closed_form_ns")),
    ("another closed form in both", "prediction", bump("closed_form_ns"), bump("closed_form_ns")),
    ("beside another recording", "provenance", digest("other_trace_sha256"), keep),
    ("beside another recording, the second", "provenance", keep, digest("other_trace_sha256")),
    ("beside another model", "provenance", digest("other_model_sha256"), keep),
    ("beside another model, the second", "provenance", keep, digest("other_model_sha256", "")),
    ("the first for another topology", "provenance", digest("topology_sha256"), keep),
]


def main():
    with tempfile.TemporaryDirectory(prefix="pairs.") as folder:
        def at(name):
            return os.path.join(folder, name)

        def plan(name, data, *more):
            files = [at(f"{name}.a.yaml"), at(f"{name}.b.yaml")]
            code, _, err = run(MOEPLAN, "plan", *data, "--colocate", *more, "-q", "-o", files[0], "--out-b", files[1])
            if code != 0:
                sys.exit(f"plan {name}: exit {code}: {err}")
            return files

        a, b = at("a.mpt"), at("b.mpt")
        for path, seed, more in ((a, 3, ["--layers", "2"]), (b, 4, ["--layers", "3", "--phase", "prefill"])):
            code, _, err = run(MOEPLAN, "generate", "-o", path, "-q", "--n-requests", "40", "--experts", "8", "--top-k", "2", "--seed", str(seed), *more)
            if code != 0:
                sys.exit(f"generate: {err}")
        steps = ["--batch", "2", "--tokens-per-rank", "24", "--steps", "6"]
        options = [([a, b, "4:h100"], []), ([b, a, "2x2:h100"], ["--colocation", "decoupled"]), ([a, b, "2:h100+2:l40s"], ["--colocation", "lina"]),
                   ([a, a, "1x3:h100"], ["--colocation", "random", "--seed", "9"]), ([a, b, "2x2:a100+2x2:l40s"], ["--split", "0.5"]),
                   ([a, b, os.path.join(ROOT, "topologies", "rack-two-tier.yaml")], ["--colocation", "sorted", "--pad", "3", "--resample"]),
                   ([a, b, "4:h100"], ["--slots-per-gpu", "3", "--evaluator", "closed-form"]), ([b, b, "2:h100"], ["--resample", "--source-skew", "0.7"]),
                   ([a, b, "1:h100"], [])]
        for i, (data, more) in enumerate(options):
            files = plan(f"good{i}", data, *steps, *more)
            expect(f"{data[2]} {' '.join(more)}", files, data, None)
            expect(f"{data[2]} {' '.join(more)}, structure", files, [], None)
        data, good = options[0][0], []
        for m in "ab":
            with open(at(f"good0.{m}.yaml"), encoding="ascii") as f:
                good.append(f.read())
        files = [at("broken.a.yaml"), at("broken.b.yaml")]
        for name, kind, *changes in BROKEN:
            for path, text, change in zip(files, good, changes):
                with open(path, "w", encoding="ascii") as f:
                    f.write(stamp(change(text)))
            if [change(text) for text, change in zip(good, changes)] == good:
                failures.append(f"{name}: nothing is broken")
            expect(name, files, data, kind)
        good_files = [at("good0.a.yaml"), at("good0.b.yaml")]
        others = plan("others", data, *steps, "--colocation", "random", "--seed", "5")
        more = [("the two in the wrong order", "colocation", good_files[::-1], [b, a, data[2]]),
                ("the recordings exchanged", "layer-missing", good_files, [b, a, data[2]]),
                ("a partner of another pair", "colocation", [good_files[0], others[1]], data),
                ("the same plan twice", "colocation", [good_files[0]] * 2, [a, a, data[2]]),
                ("another topology", "provenance", good_files, [a, b, "2x2:h100"]),
                ("fewer GPUs", "shape", good_files, [a, b, "2:h100"]),
                ("a partner on other GPUs", "shape", [good_files[0], at("good7.b.yaml")], []),
                ("a partner for another topology", "provenance", [good_files[0], at("good1.a.yaml")], [])]
        for name, kind, plans, where in more:
            expect(name, plans, where, kind)
    for text in failures:
        print(f"not agreed: {text}")
    print(f"{2 * len(options)} pairs accepted and {len(BROKEN) + len(more)} broken ones refused by both, but for {len(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
