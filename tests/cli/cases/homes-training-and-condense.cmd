# A plan whose requests have homes: its training steps, and what condensing saves, are those of its own steps.
moeplan generate -q --phase train --layers 3 --experts 8 --top-k 2 --n-requests 64 --tokens-per-request 64 --signatures txl -o t.mpt > out
C="moeplan compare t.mpt 2x4:a100 --tokens-per-rank 64 --strategy contiguous --homes none,affinity --interval-groups 0 -q --json"
$C > all.json; $C --condense 0.8 > some.json
python3 - <<'P'
import json
all, some = json.load(open("all.json")), json.load(open("some.json"))
for a, s in zip(all["results"], some["results"]):
    print(a["strategy"], s["lossy"]["lossless_step_ns"] == a["step_time_ns"]["mean"])
print(all["training"][0]["step_ns"] != all["training"][1]["step_ns"])
P
