moeplan generate -o a.mpt -q --n-requests 80 --layers 3 --experts 8 --top-k 2 --seed 3 > gen.txt
moeplan generate -o b.mpt -q --n-requests 80 --layers 2 --experts 6 --top-k 2 --seed 4 > gen.txt
moeplan plan a.mpt b.mpt 2:h100+2:l40s --colocate --batch 8 -q --colocation lina -o A.yaml --out-b B.yaml | sed 's/, [0-9.]* s,/, T s,/'
moeplan verify A.yaml B.yaml a.mpt b.mpt 2:h100+2:l40s --colocate; echo "rc $?"
sed -n '/^colocation/,/^prediction/p' A.yaml
moeplan verify B.yaml A.yaml b.mpt a.mpt 2:h100+2:l40s --colocate; echo "rc $?"
moeplan verify A.yaml A.yaml --colocate | head -n 3
moeplan verify A.yaml B.yaml --colocate --json | sed 's|"checks": [0-9]*|"checks": N|'
moeplan verify A.yaml B.yaml a.mpt b.mpt 4:h100 --colocate; echo "rc $?"
