moeplan generate -o a.mpt -q --n-requests 80 --layers 3 --experts 8 --top-k 2 --seed 3 --phase prefill > gen.txt
moeplan generate -o b.mpt -q --n-requests 80 --layers 2 --experts 6 --top-k 2 --seed 4 > gen.txt
moeplan compare a.mpt b.mpt 4:h100 --colocate --tokens-per-rank 64 --batch 8 -q --colocation search | sed 's/ *[0-9.]*$//'
moeplan compare a.mpt b.mpt 4:h100 --colocate --batch 8 -q --colocation search
