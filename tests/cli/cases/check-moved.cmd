G="moeplan generate -q --experts 32 --top-k 4 --layers 4 --phase prefill --n-requests 120 --tokens-per-request 64 --zipf 0.9"
$G --seed 1 -o old.mpt > /dev/null
$G --seed 2 -o new.mpt > /dev/null
moeplan plan old.mpt 4:h100 --tokens-per-rank 512 --strategy lpt -o plan.yaml -q > /dev/null
moeplan check plan.yaml new.mpt --strict -q
echo "exit code $?"
moeplan check plan.yaml new.mpt --strict --threshold 0.5 -q | tail -n 1
echo "exit code $?"
moeplan check plan.yaml old.mpt -q | tail -n 1
