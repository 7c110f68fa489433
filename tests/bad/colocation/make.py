#!/usr/bin/env python3
"""Makes the bad plan files of this folder out of a plan that is one of two (tests/fuzz/corpus/plan/together.yaml): one real mistake each,
the checksum put right again, as a careful editor would."""
import hashlib
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = os.path.join(HERE, "..", "..", "fuzz", "corpus", "plan")


def replace(old, new):
    return lambda text: text.replace(old, new, 1)


def line(start, new):
    """The line that begins with `start` becomes `new` (with its newline, or nothing)."""
    return lambda text: re.sub("(?m)^" + re.escape(start) + ".*\n", lambda _: new, text, count=1)


def section_first(text):
    """together stands before colocation."""
    i, j, k = text.index("colocation:\n"), text.index("together:\n"), text.index("prediction:\n")
    return text[:i] + text[j:k] + text[i:j] + text[k:]


TABLE = {
    "role-unknown": replace("role: second", "role: third"),
    "role-missing": line("  role:", ""),
    "role-twice": replace("  role: second\n", "  role: second\n  role: second\n"),
    "together-unknown-key": replace("  role: second\n", "  role: second\n  partner: a.yaml\n"),
    "together-a-list": lambda text: re.sub(r"(?s)together:\n.*?prediction:", "together: [second]\nprediction:", text, count=1),
    "together-first": section_first,
    "together-empty": lambda text: re.sub(r"(?s)together:\n.*?prediction:", "together: {}\nprediction:", text, count=1),
    "timeline-negative": line("  timeline_ns:", "  timeline_ns: -1\n"),
    "timeline-unit": line("  timeline_ns:", "  timeline_ns: 3 ms\n"),
    "timeline-huge": line("  timeline_ns:", "  timeline_ns: 18446744073709551616\n"),
    "closed-form-missing": line("  closed_form_ns:", ""),
    "digest-a-number": line("  other_trace_sha256:", "  other_trace_sha256: 12\n"),
    "digest-missing": line("  other_model_sha256:", ""),
    "pair-layer": replace("{layer: 0,", "{layer: 2,"),
    "pair-expert": lambda text: re.sub(r"expert_a: \d+", "expert_a: 8", text, count=1),
    "pair-other-expert": lambda text: re.sub(r"expert_b: \d+", "expert_b: 4096", text, count=1),
    "pair-gpu": lambda text: re.sub(r"gpu: \d+\}", "gpu: -1}", text, count=1),
    "pair-without-gpu": lambda text: re.sub(r", gpu: \d+\}", "}", text, count=1),
    "pair-of-three": lambda text: re.sub(r", gpu: ", ", expert_c: 1, gpu: ", text, count=1),
    "pair-as-a-list": lambda text: re.sub(r"\{layer: (\d+), expert_a: (\d+), expert_b: (\d+), gpu: (\d+)\}", r"[\1, \2, \3, \4]", text, count=1),
}


def stamp(text):
    body = text[:text.rindex('checksum: "')]
    return body + f'checksum: "{hashlib.sha256(body.encode()).hexdigest()}"\n'


def main():
    with open(os.path.join(CORPUS, "together.yaml"), newline="") as f:
        good = f.read()
    for name, change in TABLE.items():
        text = change(good)
        assert text != good, name
        with open(os.path.join(HERE, name + ".yaml"), "w", newline="") as f:
            f.write(stamp(text))


if __name__ == "__main__":
    main()
