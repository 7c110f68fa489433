# With --condense: rows of experts that travel condense nothing; tables and objects say which ones do, and what moves sequences.
moeplan generate -q --phase train --layers 2 --experts 4 --top-k 2 --n-requests 64 --tokens-per-request 64 --signatures txl -o t.mpt > out
moeplan compare t.mpt 4:a100 --strategy contiguous,janus --tokens-per-rank 128 --condense 0.8 --interval-groups 0 -q | tail -5 | cut -d' ' -f1-2
moeplan compare t.mpt 4:a100 --strategy contiguous,janus --tokens-per-rank 128 --condense 0.8 --rehome matching --interval-groups 0 -q --json > c.json
moeplan plan t.mpt 4:a100 --strategy contiguous --tokens-per-rank 128 --interval-groups 0 -q -o p.yaml > out
moeplan simulate p.yaml t.mpt 4:a100 --condense 0.8 --rehome matching --interval-groups 0 -q | grep "sequences that move"
moeplan simulate p.yaml t.mpt 4:a100 --condense 0.8 --rehome matching --interval-groups 0 -q --json > s.json
python3 - <<'P'
import json
c, s = json.load(open("c.json")), json.load(open("s.json"))
print([(x["strategy"], "lossy" in x, x.get("rehomed_by")) for x in c["results"]])
print([(x["name"], "lossy" in x) for x in c["training"]])
print("lossy" in s, s["rehomed_by"])
P
