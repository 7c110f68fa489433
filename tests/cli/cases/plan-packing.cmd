moeplan generate -q --phase train --layers 3 --experts 8 --top-k 2 --n-requests 64 --tokens-per-request 200 -o t.mpt > out
for k in 2 4 8 lina searched; do moeplan plan t.mpt 2x2:a100 --packing $k --tokens-per-rank 512 --split 0.5 --interval-groups 0 -q -o $k.yaml | grep "^training"; moeplan verify $k.yaml t.mpt 2x2:a100; done
moeplan plan t.mpt 2x2:a100 --packing lina --policy lina --tokens-per-rank 512 --split 0.5 --interval-groups 0 -q -o lina.yaml | grep "^training"
grep "^  route: [ns]" 4.yaml 8.yaml; grep "^    slots:" 4.yaml
moeplan simulate lina.yaml t.mpt 2x2:a100 -q | tail -9
# Memory: enough, optimiser state to the hosts, experts too, not even that; hosts too small.
for gib in 16 12 5 2; do
    printf 'schema: moeplan.topology\nversion: 1\nname: small\nlaunch: 10 us\nlevels: [{name: nvlink, latency: 1 us}, {name: ib, latency: 2 us}]\ngpu_types: {small: {preset: a100, memory: %s GiB}}\ngroups: [{repeat: 2, gpus: [{repeat: 2, type: small, ports: {nvlink: 300 GB/s, ib: 25 GB/s}}]}]\n' $gib > $gib.yaml
    moeplan plan t.mpt $gib.yaml --packing 8 --tokens-per-rank 512 --interval-groups 0 -q -o p$gib.yaml | grep "^training"
    [ -e p$gib.yaml ] && moeplan simulate p$gib.yaml t.mpt $gib.yaml -q | tail -1
done
moeplan plan t.mpt 12.yaml --packing 8 --tokens-per-rank 512 --interval-groups 0 -q --host-memory 1GiB -o x.yaml
moeplan plan t.mpt 2.yaml --packing searched --tokens-per-rank 512 --interval-groups 0 -q -o x.yaml
moeplan simulate p12.yaml t.mpt 12.yaml -q --host-link 5GB | tail -1
