moeplan generate -q --phase train --layers 2 --experts 4 --top-k 2 --n-requests 64 --tokens-per-request 64 --signatures txl -o t.mpt > out
for o in "--condense 0.8" "--host-link 5GB" "--host-memory 1GiB"; do moeplan compare t.mpt t.mpt 2:a100 --colocate $o; echo $?; done
moeplan plan t.mpt 2:a100 --packing 2 --export-lp p.lp -o p.yaml; echo $?
moeplan plan t.mpt 2:a100 --packing 2 --import-solution p.lp -o p.yaml; echo $?
moeplan compare "$SAMPLES/prefill.mpt" 4:h100 --strategy contiguous --host-link 5GB; echo $?
moeplan plan "$SAMPLES/prefill.mpt" 4:h100 --strategy contiguous --host-memory 5GB -o p.yaml; echo $?
moeplan plan "$SAMPLES/prefill.mpt" 4:h100 --strategy contiguous --tokens-per-rank 64 --interval-groups 0 -q -o p.yaml > out
moeplan simulate p.yaml "$SAMPLES/prefill.mpt" 4:h100 --host-link 5GB; echo $?
ls
