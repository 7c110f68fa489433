G="moeplan generate -q --experts 32 --top-k 4 --layers 4 --phase prefill --n-requests 120 --tokens-per-request 64 --zipf 0.9"
$G --seed 1 -o old.mpt > /dev/null
$G --seed 2 -o new.mpt > /dev/null
moeplan plan old.mpt 4:h100 --tokens-per-rank 512 --strategy lpt -o plan.yaml -q > /dev/null
moeplan export plan.yaml --to sglang -o live.json --hidden-layers 4 -q > /dev/null
moeplan check live.json new.mpt
moeplan check plan.yaml new.mpt --strict --interval-groups 0
moeplan check plan.yaml new.mpt --threshold 2
moeplan check plan.yaml $SAMPLES/decode.mpt
moeplan check plan.yaml new.mpt 8:h100
moeplan generate -q --experts 64 --layers 4 -o other.mpt > /dev/null
moeplan check plan.yaml other.mpt
moeplan check plan.yaml missing.mpt
