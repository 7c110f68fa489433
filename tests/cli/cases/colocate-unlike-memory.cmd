# equal groups do not fit the small GPUs, unequal ones do
moeplan generate -o a.mpt -q --n-requests 80 --layers 2 --experts 8 --top-k 2 --seed 3 > gen.txt
moeplan generate -o b.mpt -q --n-requests 80 --layers 1 --experts 6 --top-k 2 --seed 4 > gen.txt
topology() {
    printf 'schema: moeplan.topology\nversion: 1\nname: t\nlaunch: 10 us\nlevels:\n  - {name: nvlink, latency: 1 us}\ngpu_types:\n'
    printf '  small: {preset: h100, memory: %s}\n' "$1"
    printf 'gpus:\n  - {repeat: 2, type: small, ports: {nvlink: 380 GB/s}}\n  - {repeat: 2, type: h100, ports: {nvlink: 380 GB/s}}\n'
}
topology "450 MB" > t.yaml
topology "150 MB" > small.yaml
moeplan plan a.mpt b.mpt t.yaml --colocate --batch 4 -q -o A.yaml --out-b B.yaml | sed 's/, [0-9.]* s,/, T s,/'
grep gpu_slots A.yaml B.yaml
moeplan verify A.yaml B.yaml a.mpt b.mpt t.yaml --colocate
moeplan compare a.mpt b.mpt t.yaml --colocate --batch 4 -q --colocation exact,search | sed 's/ *[0-9.]*$//'
moeplan compare a.mpt b.mpt small.yaml --colocate --batch 4 -q --colocation search; echo $?
moeplan compare a.mpt b.mpt t.yaml --colocate --batch 4 -q --colocation search --slots-per-gpu 2; echo $?
