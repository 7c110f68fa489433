moeplan generate -o t.mpt --n-requests 60 --tokens-per-request 12 --layers 2 --experts 8 --top-k 2 --zipf 0.9 -q --phase decode > gen.txt
moeplan plan t.mpt 3:h100 --batch 3 --dispatcher a2av --steps 4 --interval-groups 0 --strategy exact --set exact.engine=1 -o p.yaml -q | grep "^predicted"
