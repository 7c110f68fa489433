plan() { moeplan plan "$SAMPLES/limoe.mpt" 2:h100 --tokens-per-rank 64 --steps 1 --dispatcher a2av -q "$@" > /dev/null; }
plan --objective peak --export-lp p.lp -o a.yaml && sed -n 1,3p p.lp && grep -c . p.lp
plan --objective peak --export-lp p.mps -o a.yaml && sed -n 2,6p p.mps
for l in 0 1 2 3; do for e in 0 1 2 3 4 5 6 7; do echo "x_${l}_${e}_0_$((e % 2)) 1"; done; done > answer.txt
plan --import-solution answer.txt -o b.yaml && grep -E "^    slots|place:" b.yaml && grep -c "proof: search" b.yaml
moeplan verify b.yaml "$SAMPLES/limoe.mpt" 2:h100
plan --strategy exact -o c.yaml && grep -c "proof: search" c.yaml
