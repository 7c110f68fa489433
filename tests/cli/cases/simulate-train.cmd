moeplan generate -q --phase train --layers 3 --experts 8 --top-k 2 --n-requests 64 --tokens-per-request 200 -o t.mpt > out && moeplan plan t.mpt 2x2:a100 --strategy contiguous --tokens-per-rank 512 --split 0.5 -q -o p.yaml > out 2>&1
moeplan simulate p.yaml t.mpt 2x2:a100 -q
moeplan simulate p.yaml t.mpt 2x2:a100 -q --json | python3 -c 'import json, sys; rows = json.load(sys.stdin)["training"]; print([(r["policy"], r["step_ns"] > 0) for r in rows]); assert rows[-1]["step_ns"] <= rows[0]["step_ns"] * 1.01'
