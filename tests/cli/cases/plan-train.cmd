moeplan generate -q --phase train --layers 3 --experts 8 --top-k 2 --n-requests 64 --tokens-per-request 200 -o t.mpt > out && moeplan plan t.mpt 2x2:a100 --strategy eplb --redundant 4 --tokens-per-rank 512 --split 0.5 --interval-groups 0 -q -o p.yaml | grep -v "^strategy\|^eplb"
sed -n '/^training:/,/^prediction:/p' p.yaml; moeplan verify p.yaml t.mpt 2x2:a100
moeplan plan t.mpt 2x2:a100 --strategy contiguous --tokens-per-rank 512 --policy lina --interval-groups 0 -q -o lina.yaml --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["training"])'
moeplan plan t.mpt 2x2:a100 --strategy contiguous --tokens-per-rank 512 --policy none --interval-groups 0 -q -o none.yaml > out; grep -c "^training:" none.yaml
moeplan simulate lina.yaml t.mpt 2x2:a100 -q | tail -7
moeplan compare t.mpt 2x2:a100 --strategy contiguous,lpt --tokens-per-rank 512 --interval-groups 0 -q
moeplan compare t.mpt 2x2:a100 --strategy contiguous,lpt --tokens-per-rank 512 --interval-groups 0 -q --json | python3 -c 'import json, sys; print([(r["name"], r["policy"], r["step_ns"] <= r["fair_step_ns"]) for r in json.load(sys.stdin)["training"]])'
moeplan generate -q --layers 2 --experts 4 --n-requests 64 -o d.mpt > out && moeplan plan d.mpt 2:a100 --policy lina -o d.yaml
moeplan plan t.mpt 2x2:a100 --packing 4 --strategy lpt -o x.yaml
moeplan plan t.mpt 2x2:a100 --packing some -o x.yaml
moeplan plan t.mpt 2x2:a100 --packing 3 -o x.yaml -q
moeplan plan t.mpt 2x2:a100 --packing 4 --policy none -o x.yaml
moeplan plan d.mpt 2:a100 --packing 4 -o x.yaml
