moeplan generate -o t.mpt -q --n-requests 60 --layers 1 --experts 8 --top-k 2 --domains 2 > /dev/null
moeplan compare t.mpt 2:h100 --batch 2 --split category:law -q
