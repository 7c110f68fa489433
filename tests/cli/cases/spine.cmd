moeplan generate -o t.mpt -q --n-requests 60 --layers 2 --experts 8 --top-k 2 --seed 3 > /dev/null
moeplan plan t.mpt 2x2:h100 --batch 2 --redundant 4 --strategy eplb --for sglang -q -o plan.yaml | head -2
moeplan verify plan.yaml
moeplan verify plan.yaml t.mpt 2x2:h100 | sed "s/[0-9]* checks/N checks/; s/, [0-9]* steps/, N steps/"
moeplan simulate plan.yaml t.mpt 2x2:h100 -q | head -1
moeplan export plan.yaml --to sglang --hidden-layers 2 -o placement.json
moeplan inspect placement.json --gpus 4 --nodes 2 | head -6
moeplan compare t.mpt 2x2:h100 --batch 2 --redundant 4 --strategy contiguous,eplb --incumbent placement.json -q | cut -d" " -f1 | head -9
ls
