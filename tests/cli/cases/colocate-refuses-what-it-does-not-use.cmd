moeplan generate -o a.mpt -q --n-requests 80 --layers 1 --experts 4 --top-k 1 --seed 3 > gen.txt
plan="moeplan plan a.mpt a.mpt 2:h100 --colocate --batch 8 -q -o A.yaml --out-b B.yaml"
$plan --objective p95; echo $?
$plan --export-lp p.lp; echo $?
$plan --time-limit 1; echo $?
$plan --from old.yaml --move-budget 0; echo $?
moeplan compare a.mpt a.mpt 2:h100 --colocate --order auto; echo $?
moeplan compare a.mpt a.mpt 2:h100 --colocate --dispatcher agrs; echo $?
ls
