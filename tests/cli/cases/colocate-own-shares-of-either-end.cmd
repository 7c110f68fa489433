# which model is named first does not decide whether sharing pays
moeplan generate -o a.mpt -q --n-requests 80 --layers 2 --experts 16 --top-k 4 --phase prefill --tokens-per-request 64 --seed 3 > gen.txt
moeplan generate -o b.mpt -q --n-requests 80 --layers 1 --experts 8 --top-k 2 --seed 4 > gen.txt
more="2:h100+2:l40s --colocate --batch 2 --tokens-per-rank 128 --steps 3 -q --colocation search"
moeplan compare a.mpt b.mpt $more | tail -n 3
moeplan compare b.mpt a.mpt $more | tail -n 3
moeplan compare b.mpt a.mpt $more --slots-per-gpu 6 | tail -n 3
# one node of many GPUs can be split too
moeplan compare b.mpt b.mpt 18:h100 --colocate --batch 1 --resample --steps 2 -q --colocation sorted | tail -n 3
