moeplan generate -o t.mpt -q --n-requests 60 --layers 2 --experts 8 --top-k 2 --seed 3 > /dev/null
moeplan plan t.mpt 2x2:h100 --batch 2 --strategy lpt --order spread-out -q -o plan.yaml > /dev/null
moeplan export plan.yaml t.mpt 2x2:h100 --to nccl-tests -o nowhere/m
