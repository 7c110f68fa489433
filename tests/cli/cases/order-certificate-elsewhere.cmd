printf "0 5\n6 0\n" > m.txt
moeplan order m.txt 2:h100 --strategy spread-out -q -o plan.yaml > /dev/null
moeplan generate -o t.mpt -q --n-requests 60 --layers 1 --experts 2 --top-k 1 > /dev/null
moeplan simulate plan.yaml t.mpt 2:h100 --batch 2 | sed -n 1,3p
moeplan verify plan.yaml t.mpt 2:h100
moeplan plan t.mpt 2:h100 --batch 2 --strategy contiguous -o planned.yaml -q > /dev/null
moeplan verify planned.yaml m.txt 2:h100
moeplan export plan.yaml --to trtllm -o p.yaml; echo "rc $?"
moeplan export plan.yaml --to trtllm -o p.yaml --json; echo "rc $?"
moeplan export plan.yaml t.mpt 2:h100 --batch 2 --to nccl-tests -q -o out-; ls
