moeplan generate -o t.mpt -q --n-requests 60 --layers 2 --experts 8 --top-k 2 > /dev/null
moeplan plan t.mpt 4:h100 --batch 2 --slots-per-gpu 1 -o plan.yaml -q; echo "rc $?"; ls
