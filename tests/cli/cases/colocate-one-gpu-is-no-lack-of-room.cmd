moeplan generate -o a.mpt -q --n-requests 60 --layers 1 --experts 4 --top-k 1 --seed 3 > gen.txt
moeplan compare a.mpt a.mpt 1:h100 --colocate --batch 8 -q --colocation search | tail -n 1
