moeplan generate -o t.mpt -q --n-requests 20 --layers 1 --experts 8 --top-k 2 > /dev/null
moeplan plan t.mpt 8:h100 --batch 16 -o plan.yaml -q; echo "rc $?"; moeplan compare t.mpt 8:h100 --batch 16 --resample --steps 4 -q --strategy lpt --json | python3 -c "import json,sys; d = json.load(sys.stdin); print(d[\"steps\"], d[\"n_steps\"])"
