moeplan generate -o t.mpt -q --n-requests 60 --layers 1 --experts 8 --top-k 2 > /dev/null
moeplan plan t.mpt 4:h100 --batch 2 --strategy contiguous -o plan.yaml -q >/dev/null
moeplan simulate plan.yaml t.mpt 8:h100; echo "rc $?"
moeplan generate -o u.mpt -q --n-requests 60 --layers 2 --experts 16 --top-k 2 > /dev/null
moeplan simulate plan.yaml u.mpt 4:h100
