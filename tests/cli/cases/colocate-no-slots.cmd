moeplan generate -o a.mpt -q --n-requests 80 --layers 3 --experts 8 --top-k 2 --seed 3 > gen.txt
moeplan generate -o b.mpt -q --n-requests 80 --layers 2 --experts 6 --top-k 2 --seed 4 > gen.txt
moeplan plan a.mpt b.mpt 4:h100 --colocate --batch 8 -q --slots-per-gpu 1 -o A.yaml --out-b B.yaml
