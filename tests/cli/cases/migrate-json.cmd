moeplan generate -q --experts 8 --top-k 2 --layers 2 --n-requests 40 --tokens-per-request 8 -o t.mpt > /dev/null
moeplan plan t.mpt 4:h100 --batch 2 --strategy contiguous -o old.yaml -q --interval-groups 0 > /dev/null
moeplan plan t.mpt 4:h100 --batch 2 --strategy random -o new.yaml -q --interval-groups 0 > /dev/null
moeplan migrate old.yaml new.yaml --json
