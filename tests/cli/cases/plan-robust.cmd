moeplan generate -q --experts 16 --top-k 4 --layers 2 --phase prefill --n-requests 60 --tokens-per-request 32 --zipf 1.2 --seed 3 -o a.mpt > /dev/null
moeplan generate -q --experts 16 --top-k 4 --layers 2 --phase prefill --n-requests 60 --tokens-per-request 32 --zipf 1.2 --seed 4 -o b.mpt > /dev/null
moeplan plan a.mpt 4:h100 --tokens-per-rank 128 -q --split 0.5 --strategy lpt --robust b.mpt --weights 3,1 -o p.yaml | sed 's/[0-9.]* s, verified/verified/'
moeplan verify p.yaml a.mpt 4:h100
moeplan plan a.mpt 4:h100 --tokens-per-rank 128 -q --strategy lpt --robust b.mpt,b.mpt --robust-objective mean -o q.yaml --json | sed -n '/"robust": {/,$p'
