# Files of at most 1 KiB can be written, and those of the second layer are larger: none of the first one's stays.
moeplan generate -o t.mpt -q --n-requests 400 --layers 3 --experts 16 --top-k 2 --seed 2 > /dev/null
moeplan plan t.mpt 16:h100 --batch 8 --strategy lpt --order single -q -o plan.yaml > /dev/null
mkdir m
trap '' XFSZ
(ulimit -f 1; moeplan export plan.yaml t.mpt 16:h100 --to nccl-tests -o m --step 2 2>&1; echo $?)
ls -A m
(ulimit -n 8; moeplan export plan.yaml t.mpt 16:h100 --to nccl-tests -o m --step 2 -q > /dev/null)
ls -A m
