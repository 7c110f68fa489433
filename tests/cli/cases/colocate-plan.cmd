moeplan generate -o a.mpt -q --n-requests 80 --layers 3 --experts 8 --top-k 2 --seed 3 > gen.txt
moeplan generate -o b.mpt -q --n-requests 80 --layers 2 --experts 6 --top-k 2 --seed 4 > gen.txt
moeplan plan a.mpt b.mpt 2:h100+2:l40s --colocate --batch 8 -q -o A.yaml --out-b B.yaml | sed 's/, [0-9.]* s,/, T s,/'
moeplan verify A.yaml a.mpt 2:h100+2:l40s
moeplan verify B.yaml b.mpt 2:h100+2:l40s
sed -n '/^colocation/,/^[^c ]/p' A.yaml | head -n 9
sed -n '/^colocation/,/^[^c ]/p' B.yaml | head -n 9
moeplan plan a.mpt b.mpt 2:h100+2:l40s --colocate --batch 8 -q -o A1.yaml --out-b B1.yaml --threads 1 > one.txt
cmp A.yaml A1.yaml && cmp B.yaml B1.yaml && echo same bytes for any number of threads
moeplan plan a.mpt b.mpt 2:h100+2:l40s --colocate --batch 8 -q -o C.yaml --out-b D.yaml --colocation decoupled --evaluator closed-form --json | sed 's/"plan_seconds": [0-9.e-]*/"plan_seconds": T/'
moeplan plan a.mpt b.mpt 4:h100 --colocate --batch 8 -q -o C.yaml --out-b D.yaml --colocation exact --work-limit 30 > one.txt
grep -h -A 1 work_used A.yaml C.yaml D.yaml
